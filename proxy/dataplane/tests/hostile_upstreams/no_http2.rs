//! Servers that do not speak HTTP/2, or not at all: their request ends with a clear error, at its deadline at the latest, and the
//! requests to others go on meanwhile.

use std::future::pending;
use std::time::Duration;

use outrigger_test_support::application::Application;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use crate::flood::{beside, others};
use crate::row::{GET, MALFORMED, ask};
use crate::support::frames::*;

const DEADLINE: Duration = Duration::from_millis(500);
const TIMEOUT: &str = "504 upstream_request_timeout";

/// An application that sends `bytes` on each connection. Then it reads, or does nothing more.
async fn says(bytes: Vec<u8>, reads: bool) -> Application {
    Application::raw(move |mut connection| {
        let bytes = bytes.clone();
        async move {
            let _ = connection.send(bytes).await;
            if reads {
                let _ = connection.stream.read_to_end(&mut Vec::new()).await;
            } else {
                pending::<()>().await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn what_is_no_http2_is_a_protocol_error() {
    let (settings, head) = (frame(SETTINGS, 0, 0, &[]), frame(HEADERS, WHOLE, 1, OK));
    let upload = format!("POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", 1 << 30);
    let mut wrong = Vec::new();
    for (what, bytes, reads, answer) in [
        ("nothing", vec![], true, TIMEOUT),
        ("nothing, without reading", vec![], false, TIMEOUT),
        ("SETTINGS, without reading", settings.clone(), false, TIMEOUT),
        ("a part of SETTINGS", settings[..5].to_vec(), true, TIMEOUT),
        ("a response before SETTINGS", [head.clone(), settings.clone()].concat(), true, MALFORMED),
        ("the acknowledgement before SETTINGS", frame(SETTINGS, ACK, 0, &[]), true, MALFORMED),
        ("the client's preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), true, MALFORMED),
        ("HTTP/1.1", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec(), true, MALFORMED),
        ("HTTP/1.0", b"HTTP/1.0 505 HTTP Version Not Supported\r\n\r\n".to_vec(), true, MALFORMED),
        ("SSH", b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(), true, MALFORMED),
        ("less than the head of a frame", b"\x15\x03\x01\x00\x02\x02\x46".to_vec(), true, TIMEOUT),
        ("zeros", vec![0; 100], true, MALFORMED),
    ] {
        let application = says(bytes, reads).await;
        let (proxy, _other) = beside(application.address, DEADLINE).await;
        for request in [GET, &upload] {
            let began = Instant::now();
            let (got, others) = others(&proxy, ask(proxy.address(0), request)).await;
            if got != answer || (others == 0 && answer == TIMEOUT) || began.elapsed() > 10 * DEADLINE {
                let method = &request[..4];
                wrong.push(format!(
                    "{what}, {method}: {got:?} (not {answer:?}) after {:?}, {others} others",
                    began.elapsed()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
