//! Processes whose log pipe is full and never read, as under a stalled container runtime: they serve, and they exit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use outrigger::ports;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn processes_whose_log_is_not_read_serve_and_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    let (config, state, sidecar) = (path("config"), path("state"), path("sidecar"));
    std::fs::create_dir(&config).unwrap();
    let [listen, admin, proxy_admin, outbound] = ports::free().unwrap();
    let (_unread, log) = full_pipe();

    let control_plane = ["control-plane", "--config", &config, "--state-dir", &state, "--log", "trace"];
    let flags = ["--listen", &listen.to_string(), "--admin", &admin.to_string()];
    let control_plane = Process::start(&[&control_plane[..], &flags].concat(), &log);
    ready(admin).await;

    let token = path("token");
    let workload = ["--namespace", "shop", "--service-account", "web"];
    let created = Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .args(["token", "create", "--state-dir", &state])
        .args(workload)
        .output()
        .unwrap();
    assert!(created.status.success(), "{created:?}");
    std::fs::write(&token, created.stdout).unwrap();

    let roots = format!("{state}/roots.pem");
    let proxy =
        ["proxy", "--control-plane", &listen.to_string(), "--control-plane-ca", &roots, "--log", "trace"];
    let own = ["--token-file", &token, "--state-dir", &sidecar, "--access-log", "stdout"];
    let flags = ["--outbound", &outbound.to_string(), "--admin", &proxy_admin.to_string()];
    let proxy = Process::start(&[&proxy[..], &own, &flags].concat(), &log);
    ready(proxy_admin).await;

    for _ in 0..50 {
        let answer = get(outbound, "/").await;
        assert!(answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 5"), "{answer}");
    }
    assert!(get(proxy_admin, "/metrics").await.contains("outrigger_log_dropped_total"));
    assert!(proxy.terminated().await.success());
    assert!(control_plane.terminated().await.success());
}

/// A process of `outrigger`, killed when dropped.
struct Process(Child);

impl Process {
    /// Starts `outrigger` with these arguments and `log` as both outputs.
    fn start(args: &[&str], log: &File) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_outrigger"))
            .arg("--exit-with-parent")
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log.try_clone().unwrap())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Sends SIGTERM and returns the exit status.
    async fn terminated(mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        let ended = async {
            loop {
                match self.0.try_wait().unwrap() {
                    Some(status) => break status,
                    None => sleep(Duration::from_millis(20)).await,
                }
            }
        };
        timeout(PATIENCE, ended).await.expect("an end in time")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A pipe filled to its capacity: the next write to it blocks until the reader reads.
fn full_pipe() -> (OwnedFd, File) {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    let mut writer = File::from(writer);
    while writer.write(&[b'\n'; 4096]).is_ok() {}
    fcntl_setfl(&writer, OFlags::empty()).unwrap();
    (reader, writer)
}

async fn get(address: SocketAddr, path: &str) -> String {
    let answer = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    timeout(PATIENCE, answer).await.expect("an answer in time").unwrap_or_default()
}

async fn ready(admin: SocketAddr) {
    let answers = async {
        while !get(admin, "/ready").await.starts_with("HTTP/1.1 200 ") {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, answers).await.expect("a process that is ready in time");
}
