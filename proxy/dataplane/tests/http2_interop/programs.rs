//! The programs: where they are, and servers that run until they are dropped.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use outrigger_test_support::wait::eventually;
use tokio::net::TcpStream;

/// The name of a file of 3 MiB, which nghttpd serves and clients send.
pub(crate) const LARGE: &str = "large";
pub(crate) const LARGE_BYTES: usize = 3 * 1024 * 1024;

/// The files that nghttpd serves.
pub(crate) fn files() -> tempfile::TempDir {
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("index.html"), "index").unwrap();
    let large: Vec<u8> = (0..LARGE_BYTES).map(|at| (at * 7 % 251) as u8).collect();
    std::fs::write(files.path().join(LARGE), large).unwrap();
    files
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name}: run tests/heavier http2-interop"))
}

/// The program of `tests/http2`.
pub(crate) fn go_program() -> String {
    variable("OUTRIGGER_HTTP2_GO")
}

/// A Python that has grpcio.
pub(crate) struct Python(String);

impl Python {
    pub(crate) fn from_env() -> Self {
        Self(variable("OUTRIGGER_HTTP2_PYTHON"))
    }

    /// The command of a server or client of gRPC.
    pub(crate) fn peer(&self, role: &str, address: String) -> Vec<String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/http2/grpc_peer.py");
        vec![self.0.clone(), script.to_str().unwrap().to_owned(), role.to_owned(), address]
    }
}

/// A server, which is killed when it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Server {
    /// Starts the command for a free address, and waits until it accepts connections.
    pub(crate) async fn start(command: impl Fn(String) -> Vec<String>) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let command = command(address.to_string());
        let child = Command::new(&command[0]).args(&command[1..]).stdin(Stdio::null()).spawn().unwrap();
        let server = Self { address, child };
        eventually(&command[0], async || TcpStream::connect(address).await.ok()).await;
        // A server that is just ready: nothing of the test depends on it.
        tokio::time::sleep(Duration::from_millis(50)).await;
        server
    }

    /// nghttpd, which sends what is uploaded back, and a trailer behind each response.
    pub(crate) async fn nghttpd(files: &Path) -> Self {
        let files = files.to_str().unwrap().to_owned();
        Self::start(|address| {
            let port = address.rsplit(':').next().unwrap_or_default().to_owned();
            [
                "nghttpd",
                "--no-tls",
                "-a",
                "127.0.0.1",
                "--echo-upload",
                "--trailer",
                "x-end: yes",
                "-d",
                &files,
                &port,
            ]
            .map(str::to_owned)
            .into()
        })
        .await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
