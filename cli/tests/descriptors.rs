//! A sidecar with few descriptors and many clients: every accepted client is served, and the admin port responds meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use outrigger::ports;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

const DESCRIPTORS: u32 = 256;
const CLIENTS: usize = 600;

#[tokio::test]
async fn a_proxy_with_256_descriptors_serves_600_clients_and_its_admin_port_answers() {
    raise_own_limit();
    let application = application().await;
    let mesh = Mesh::start().await;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let outbound = mesh.outbound;
            tokio::spawn(async move {
                let mut client = BufReader::new(TcpStream::connect(outbound).await.unwrap());
                let request =
                    format!("GET http://{application}/{number} HTTP/1.1\r\nHost: {application}\r\n\r\n");
                client.get_mut().write_all(request.as_bytes()).await.unwrap();
                let mut status = String::new();
                timeout(Duration::from_secs(60), client.read_line(&mut status)).await.unwrap().unwrap();
                // Kept open: a client that may send another request holds its descriptor.
                (status, client)
            })
        })
        .collect();
    let mut answered = 0;
    while answered < 10 || !clients.iter().all(tokio::task::JoinHandle::is_finished) {
        assert!(get(mesh.admin, "/healthz").await.ends_with("ok\n"));
        answered += 1;
        sleep(Duration::from_millis(100)).await;
    }
    let mut kept = Vec::new();
    for client in clients {
        let (status, client) = client.await.unwrap();
        assert_eq!(status, "HTTP/1.1 200 OK\r\n");
        kept.push(client);
    }
    let metrics = get(mesh.admin, "/metrics").await;
    let refused =
        metrics.lines().find(|line| line.starts_with("outrigger_downstream_connections_refused_total"));
    assert!(refused.is_some_and(|line| line.ends_with(" 0")), "{refused:?}");
}

/// Raises the limit of this process: clients and application need more descriptors than most systems allow by default.
fn raise_own_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// Starts an application that answers every request and keeps its connections open.
async fn application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                    if line == "\r\n" {
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                        stream.get_mut().write_all(answer).await.unwrap();
                    }
                    line.clear();
                }
            });
        }
    });
    address
}

/// Returns a page of an admin port, head and body. Returns an empty text if the port refuses the connection.
async fn get(admin: SocketAddr, path: &str) -> String {
    let mut answer = String::new();
    let asked = async {
        let mut stream = TcpStream::connect(admin).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        stream.read_to_string(&mut answer).await
    };
    let _ = timeout(Duration::from_secs(5), asked).await.expect("an admin port that answers");
    answer
}

/// A control plane, and a sidecar that may open few descriptors.
struct Mesh {
    directory: tempfile::TempDir,
    outbound: SocketAddr,
    admin: SocketAddr,
    processes: Vec<Child>,
}

impl Mesh {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [control, control_admin, outbound, admin] = ports::free().unwrap();
        let mut mesh = Self { directory, outbound, admin, processes: Vec::new() };
        std::fs::create_dir(mesh.path("config")).unwrap();
        let (config, state) = (mesh.path("config"), mesh.path("control-plane"));
        let (control, control_admin_flag) = (control.to_string(), control_admin.to_string());
        mesh.spawn(
            1024,
            &[
                &["control-plane", "--config", &config, "--state-dir", &state][..],
                &["--listen", &control, "--admin", &control_admin_flag],
            ]
            .concat(),
        );
        ready(control_admin).await;
        let token = Command::new(env!("CARGO_BIN_EXE_outrigger"))
            .args([
                "token",
                "create",
                "--state-dir",
                &state,
                "--namespace",
                "shop",
                "--service-account",
                "web",
            ])
            .output()
            .unwrap();
        assert!(token.status.success(), "{}", String::from_utf8_lossy(&token.stderr));
        std::fs::write(mesh.path("token"), token.stdout).unwrap();
        let (roots, token, own) = (format!("{state}/roots.pem"), mesh.path("token"), mesh.path("web"));
        mesh.spawn(
            DESCRIPTORS,
            &[
                &["proxy", "--control-plane", &control, "--control-plane-ca", &roots][..],
                &["--token-file", &token, "--state-dir", &own, "--instance", "web-1", "--workers", "2"],
                &["--outbound", &outbound.to_string(), "--admin", &admin.to_string()],
            ]
            .concat(),
        );
        ready(admin).await;
        mesh
    }

    /// Runs `outrigger` with these arguments, and that limit on descriptors, soft and hard.
    fn spawn(&mut self, descriptors: u32, args: &[&str]) {
        let limited = format!("ulimit -n {descriptors}; exec \"$0\" --exit-with-parent \"$@\"");
        let log = std::fs::File::create(self.path(&format!("{}.log", args[0]))).unwrap();
        let child = Command::new("sh")
            .args(["-c", &limited, env!("CARGO_BIN_EXE_outrigger")])
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.processes.push(child);
    }

    fn path(&self, name: &str) -> String {
        Path::new(self.directory.path()).join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Returns a free address.
async fn ready(admin: SocketAddr) {
    let answers = async {
        while !get(admin, "/ready").await.starts_with("HTTP/1.1 200 ") {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(30), answers).await.expect("a process that is ready in time");
}
