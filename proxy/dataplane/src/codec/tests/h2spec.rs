//! h2spec (<https://github.com/summerwind/h2spec>) against the server, all of its cases in strict mode.
//!
//! `tests/heavier h2spec` runs it, since it needs the program, a Go one.

use std::process::Command;
use std::rc::Rc;

use bytes::Bytes;
use http::StatusCode;
use outrigger_core::drain::Drain;
use tokio::net::TcpListener;
use tokio::task::spawn_local;

use super::support::handler;
use crate::codec::body::Body;
use crate::codec::head::{RequestHead, ResponseHead};
use crate::codec::limits::Limits;
use crate::codec::server::{Protocol, Responder, serve};
use crate::socket::stream::Stream;

/// Reads the whole request, then answers with some bytes.
async fn answer(_: RequestHead, mut body: Body, responder: Responder) {
    while let Some(frame) = body.frame().await {
        if let Err(failure) = frame {
            let _ = responder.respond(ResponseHead::new(failure.reason.status()), Body::empty()).await;
            return;
        }
    }
    let _ =
        responder.respond(ResponseHead::new(StatusCode::OK), Body::full(Bytes::from_static(b"hello"))).await;
}

#[test]
#[ignore = "needs h2spec, in the variable H2SPEC"]
fn the_server_passes_h2spec_in_strict_mode() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tested = async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                spawn_local(async move {
                    let (drain, limits) = (Drain::new(), Rc::new(Limits::default()));
                    let (stream, handler) = (Stream::Plain(stream), handler(answer));
                    let http2 = Protocol::Http2;
                    serve(stream, Bytes::new(), http2, limits, drain.guard(), &handler).await
                });
            }
        });
        let program = std::env::var("H2SPEC").unwrap_or_else(|_| "h2spec".to_owned());
        let run =
            move || Command::new(program).args(["-S", "-o", "1", "-h", "127.0.0.1", "-p", &port]).output();
        tokio::task::spawn_blocking(run).await.unwrap().unwrap()
    };
    let output = tokio::task::LocalSet::new().block_on(&runtime, tested);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    println!("{}", text.lines().last().unwrap_or_default());
}
