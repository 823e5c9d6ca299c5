//! TLS clients that close their side after their requests: with close_notify alone (RFC 8446 section 6.1), and by closing the
//! TCP connection's side too. They receive their responses.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests

mod support;

use std::time::Duration;

use outrigger_config::listener::Handler;
use outrigger_config::tls::ClientCertificate;
use outrigger_test_support::application::Application;
use outrigger_test_support::http1::ok;
use support::tls::{Authority, Peer};
use support::{Proxy, World, forward, manager, tcp_proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A sidecar of `application` that speaks TLS and passes the decrypted bytes to `handler`.
fn sidecar(authority: &Authority, application: &Application, handler: Handler) -> Proxy {
    let listener = support::tls::listener(&["http/1.1"], ClientCertificate::Required, handler);
    let world = World::new().own(listener).cluster("app", &[application.address]);
    world.secrets.publish(authority.secrets("app"));
    world.start()
}

fn undeclared() -> Handler {
    Handler::Detect {
        http: manager("app", forward("app")),
        tcp: tcp_proxy("app", "app"),
        within: Duration::from_millis(100),
    }
}

/// Returns everything that a client receives after it has sent `bytes` and closed its side: of TLS alone, or of TCP too.
async fn heard(authority: &Authority, proxy: &Proxy, bytes: &str, closes_tcp: bool) -> String {
    let mut stream = Peer::new(authority, "web", "http/1.1").connect(proxy.address(0)).await;
    stream.write_all(bytes.as_bytes()).await.unwrap();
    if closes_tcp {
        stream.shutdown().await.unwrap();
    } else {
        stream.get_mut().1.send_close_notify();
        stream.flush().await.unwrap();
    }
    let mut all = Vec::new();
    let reading = stream.read_to_end(&mut all);
    let _ = tokio::time::timeout(Duration::from_secs(10), reading).await.expect("an end in time");
    String::from_utf8(all).unwrap()
}

#[tokio::test]
async fn a_whole_request_behind_which_tls_is_closed_gets_its_answer() {
    let authority = Authority::new();
    let application = Application::raw(|mut connection| async move {
        while connection.request().await.is_some() {
            // Long after the client has closed its side, and after the kernel was queried about it.
            tokio::time::sleep(Duration::from_millis(1500)).await;
            connection.send(ok("late")).await.unwrap();
        }
    })
    .await;
    for handler in [Handler::Http(manager("app", forward("app"))), undeclared()] {
        let proxy = sidecar(&authority, &application, handler);
        for closes_tcp in [false, true] {
            for request in [
                "GET / HTTP/1.1\r\nHost: app\r\n\r\n",
                "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 2\r\n\r\nhi",
            ] {
                let text = heard(&authority, &proxy, request, closes_tcp).await;
                assert!(
                    text.starts_with("HTTP/1.1 200 ") && text.ends_with("late"),
                    "{closes_tcp}: {text:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn opaque_bytes_behind_which_tls_is_closed_get_their_answer() {
    let authority = Authority::new();
    let application = Application::raw(|mut connection| async move {
        let mut said = Vec::new();
        connection.stream.read_to_end(&mut said).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        connection.send(format!("{} bytes", said.len())).await.unwrap();
    })
    .await;
    for handler in [Handler::Tcp(tcp_proxy("app", "app")), undeclared()] {
        let proxy = sidecar(&authority, &application, handler);
        for closes_tcp in [false, true] {
            for (said, answer) in [("*1\r\n", "4 bytes"), ("", "0 bytes")] {
                assert_eq!(
                    heard(&authority, &proxy, said, closes_tcp).await,
                    answer,
                    "{closes_tcp} {said:?}"
                );
            }
        }
    }
}
