//! Start and shutdown of the binary. If it cannot start, it prints one line with the flag and the value, and exits with
//! status 1. Otherwise it serves admin pages, and drains on a signal.

#![allow(clippy::unwrap_used)] // only functions marked #[test] are exempt by clippy.toml, and these have helpers

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A self-signed root that is never used: these proxies reach no control plane.
const ROOT: &str = include_str!("root.pem");

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("roots.pem"), ROOT).unwrap();
        std::fs::write(directory.path().join("token"), "not a token that anybody knows").unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// Returns the command of a proxy whose control plane is unreachable.
    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger-proxy"));
        command
            .args(["--control-plane", "127.0.0.1:1", "--control-plane-ca", &self.path("roots.pem")])
            .args(["--token-file", &self.path("token"), "--state-dir", &self.path("state")])
            .args(["--admin", "127.0.0.1:0", "--outbound", "127.0.0.1:0", "--instance", "cart-1"])
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .env_remove("RUST_LOG");
        command
    }

    /// Runs the proxy, checks that it exits with status 1, and returns the single line on stderr.
    fn refusal(&self, more: &[&str]) -> String {
        let output = self.command().args(["--log", "off"]).args(more).output().unwrap();
        let text = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        text.trim_end().to_owned()
    }
}

#[test]
fn a_port_in_use_is_named_with_its_flag() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let held = TcpListener::bind(taken).unwrap();
    let address = taken.to_string();
    let service = format!("cart=127.0.0.1:1,listen={address}");
    let bind = format!("{address}=stock.shop:9000");
    for (flag, value) in [
        ("--transparent-outbound", &address),
        ("--transparent-inbound", &address),
        ("--bind", &bind),
        ("--service", &service),
    ] {
        let line = place.refusal(&[flag, value]);
        assert!(line.starts_with(&format!("outrigger-proxy: {flag} {address}: cannot listen: ")), "{line}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_outrigger-proxy"))
        .args(["--control-plane", "127.0.0.1:1", "--control-plane-ca", &place.path("roots.pem")])
        .args(["--state-dir", &place.path("state"), "--admin", &address, "--log", "off"])
        .output()
        .unwrap();
    assert!(failure(&output).starts_with(&format!("outrigger-proxy: --admin {address}: cannot listen: ")));
    drop(held);
}

#[test]
fn two_proxies_do_not_share_a_port() {
    let place = Place::new();
    let mut first = Running::start(place.command().args(["--drain-timeout", "1s"]));
    let outbound = first.listens("outbound").to_string();
    let other = Place::new();
    let line = other.refusal(&["--transparent-outbound", &outbound]);
    assert!(line.contains(&format!("--transparent-outbound {outbound}: cannot listen")), "{line}");
    first.kill();
}

#[test]
fn a_missing_file_is_named() {
    let place = Place::new();
    std::fs::remove_file(place.path("roots.pem")).unwrap();
    let line = place.refusal(&[]);
    let path = place.path("roots.pem");
    assert!(
        line.starts_with(&format!(
            "outrigger-proxy: --control-plane-ca {path}: cannot be read (the control plane writes it"
        )),
        "{line}"
    );
}

#[test]
fn an_unusable_state_directory_is_named() {
    let place = Place::new();
    // A file where the directory should be: unusable for root too.
    std::fs::write(place.path("state"), "").unwrap();
    let line = place.refusal(&[]);
    assert!(line.starts_with(&format!("outrigger-proxy: --state-dir {}: ", place.path("state"))), "{line}");
}

#[test]
fn an_invalid_environment_variable_is_named() {
    let place = Place::new();
    let output = place
        .command()
        .args(["--log", "off"])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "unix:///run/collector")
        .output()
        .unwrap();
    assert!(failure(&output).starts_with("outrigger-proxy: OTEL_EXPORTER_OTLP_ENDPOINT: `unix://"));
}

#[test]
fn a_control_plane_that_is_away_is_no_reason_to_exit() {
    let place = Place::new();
    let mut proxy = Running::start(place.command().args(["--drain-timeout", "1s"]));
    let ready = proxy.get("/ready");
    assert!(ready.starts_with("HTTP/1.1 503 ") && ready.contains("not ready: identity"), "{ready}");
    assert!(proxy.get("/healthz").ends_with("ok\n"));
    assert!(proxy.get("/metrics").contains("outrigger_ready 0"));
    assert!(proxy.get("/config_dump").contains("\"name\": \"outbound\""));
    assert!(proxy.get("/certs").contains("\"serial\": null"));
    assert!(proxy.get("/clusters").starts_with("HTTP/1.1 200 "));
    assert!(proxy.get("/").contains("/config_dump"));
    proxy.signal("TERM");
    assert_eq!(proxy.ends(Duration::from_secs(20)), Some(0));
}

#[test]
fn the_drain_page_ends_the_process() {
    let place = Place::new();
    let mut proxy = Running::start(place.command().args(["--drain-timeout", "1s"]));
    let answer = proxy
        .ask("POST /drain HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    assert_eq!(proxy.ends(Duration::from_secs(20)), Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let place = Place::new();
    let mut proxy = Running::start(place.command().args(["--drain-timeout", "1m", "--drain-minimum", "50s"]));
    proxy.signal("TERM");
    proxy.logs("draining");
    proxy.signal("INT");
    assert_eq!(proxy.ends(Duration::from_secs(5)), Some(1));
}

/// The application may get SIGTERM at the same moment, and makes its last calls after its own requests.
#[test]
fn an_application_that_was_quiet_can_call_out_for_the_minimum() {
    let place = Place::new();
    let mut proxy = Running::start(place.command().args(["--drain-minimum", "2s", "--drain-quiet", "100ms"]));
    let outbound = proxy.listens("outbound");
    let ordered = Instant::now();
    proxy.signal("TERM");
    proxy.logs("draining");
    while ordered.elapsed() < Duration::from_millis(1500) {
        assert!(answered(outbound).unwrap().starts_with("HTTP/1.1 400 "));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(proxy.ends(Duration::from_secs(20)), Some(0));
    assert!(ordered.elapsed() >= Duration::from_secs(2), "{:?}", ordered.elapsed());
    assert_eq!(answered(outbound).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn every_signal_is_exported_before_the_process_ends() {
    let place = Place::new();
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let mut command = place.command();
    command.args(["--drain-minimum", "0s", "--drain-quiet", "0s"]).envs([
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_LOGS_EXPORTER", "otlp"),
        ("OTEL_BSP_SCHEDULE_DELAY", "3600000"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "3600000"),
    ]);
    let mut proxy = Running::start(&mut command);
    let (sender, exports) = std::sync::mpsc::channel();
    std::thread::spawn(move || while sender.send(exported(&collector)).is_ok() {});
    let mut client = TcpStream::connect(proxy.listens("outbound")).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: missing\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 5"), "{answer}");
    proxy.signal("TERM");
    assert_eq!(proxy.ends(Duration::from_secs(20)), Some(0));
    let mut paths: Vec<_> = (0..3).map(|_| exports.recv_timeout(Duration::from_secs(5)).unwrap()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/v1/logs", "/v1/metrics", "/v1/traces"]);
}

/// Accepts one export and returns its path.
fn exported(collector: &TcpListener) -> String {
    let mut stream = BufReader::new(collector.accept().unwrap().0);
    let (mut path, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        if let Some(target) = line.strip_prefix("POST ") {
            path = target.split(' ').next().unwrap().to_owned();
        } else if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        } else if line == "\r\n" {
            break;
        }
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).unwrap();
    assert!(!message.is_empty(), "{path}");
    stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
    path
}

/// An application that is always active is notified at the end; a client that connects is served or refused, on each worker's
/// socket.
#[test]
fn a_client_that_connects_until_the_very_end_is_never_reset() {
    let place = Place::new();
    let mut proxy = Running::start(place.command().args(["--drain-timeout", "2s", "--workers", "2"]));
    let outbound = proxy.listens("outbound");
    let clients: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                loop {
                    match answered(outbound) {
                        Ok(answer) => assert!(answer.starts_with("HTTP/1.1 400 "), "{answer:?}"),
                        Err(error) => return error,
                    }
                }
            })
        })
        .collect();
    proxy.signal("TERM");
    for client in clients {
        assert_eq!(client.join().unwrap().kind(), ErrorKind::ConnectionRefused);
    }
    assert_eq!(proxy.ends(Duration::from_secs(20)), Some(0));
}

/// Sends a request that the proxy itself refuses, on a new connection, and returns the response. Panics if the connection was
/// accepted and then reset.
fn answered(outbound: SocketAddr) -> std::io::Result<String> {
    let mut client = TcpStream::connect(outbound)?;
    client.write_all(b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    Ok(answer)
}

#[test]
fn every_flag_is_explained() {
    let output = Command::new(env!("CARGO_BIN_EXE_outrigger-proxy")).arg("--help").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for flag in [
        "--control-plane",
        "--service",
        "--bind",
        "--trace-sampling",
        "--access-log",
        "--drain-timeout",
        "--drain-minimum",
        "--drain-quiet",
    ] {
        assert!(text.contains(flag), "{flag}");
    }
}

fn failure(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A proxy that has started.
struct Running {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
    seen: Vec<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut running = Self { child, stderr, seen: Vec::new() };
        running.logs("started");
        running
    }

    /// Reads the log until a line contains `what`.
    fn logs(&mut self, what: &str) {
        loop {
            let mut line = String::new();
            assert_ne!(
                self.stderr.read_line(&mut line).unwrap(),
                0,
                "ended before `{what}`: {:#?}",
                self.seen
            );
            let found = line.contains(what);
            self.seen.push(line);
            if found {
                return;
            }
        }
    }

    fn address(&self, of: &str, key: &str) -> SocketAddr {
        let line = self.seen.iter().find(|line| line.contains(of)).unwrap();
        let value = line.split_whitespace().find_map(|word| word.strip_prefix(key)).unwrap();
        value.parse().unwrap()
    }

    fn listens(&self, name: &str) -> SocketAddr {
        self.address(&format!("listener={name}"), "address=")
    }

    fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"))
    }

    fn ask(&self, request: &str) -> String {
        let mut client = TcpStream::connect(self.address("started", "admin=")).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    }

    fn signal(&self, name: &str) {
        let status =
            Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    fn ends(&mut self, within: Duration) -> Option<i32> {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
