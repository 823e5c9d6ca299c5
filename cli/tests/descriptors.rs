//! A sidecar with few descriptors and many clients: every accepted client is served, and the admin port responds meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use outrigger::ports;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use self::support::Mesh;

const CLIENTS: usize = 600;

#[tokio::test]
async fn a_proxy_with_256_descriptors_serves_600_clients_and_its_admin_port_answers() {
    raise_own_limit();
    let application = application().await;
    let [control_plane, control_plane_admin, outbound, admin] = ports::free().unwrap();
    let mut mesh = Mesh::start(&[], control_plane, control_plane_admin, "");
    // Soft and hard.
    let limited = ["prlimit", "--nofile=256"];
    mesh.sidecar(&limited, "web", admin, &["--workers", "2", "--outbound", &outbound.to_string()]);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
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
        assert!(get(admin, "/healthz").await.ends_with("ok\n"));
        answered += 1;
        sleep(Duration::from_millis(100)).await;
    }
    let mut kept = Vec::new();
    for client in clients {
        let (status, client) = client.await.unwrap();
        assert_eq!(status, "HTTP/1.1 200 OK\r\n");
        kept.push(client);
    }
    let metrics = get(admin, "/metrics").await;
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

/// Returns a page of an admin port, head and body.
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
