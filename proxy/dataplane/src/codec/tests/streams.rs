//! Streams of one HTTP/2 connection beside each other: none that is given up or is malformed harms another.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason as Code;
use http::Request;
use outrigger_core::drain::Drain;
use tokio::io::{DuplexStream, duplex};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::support::{get, handler, http2_to, run, serving_within, whole};
use super::unread::{answers, body_of, post};
use crate::codec::answer::{Answer, Payload};
use crate::codec::body::Body;
use crate::codec::limits::{Limits, ResetLimits};
use crate::codec::server::{Protocol, serve};
use crate::socket::stream::Stream;

/// Serves what a client of ours has already sent, by now.
fn thaw(server: DuplexStream, limits: Limits, seen: Rc<Cell<usize>>) {
    let handler = handler(move |head, body, responder| {
        seen.set(seen.get() + 1);
        answers(head, body, responder)
    });
    spawn_local(async move {
        let drain = Drain::new();
        let limits = Rc::new(limits);
        serve(Stream::Memory(server), Bytes::new(), Protocol::Http2, limits, drain.guard(), &handler).await
    });
}

#[test]
fn requests_cancelled_while_the_peer_was_frozen_end_no_other_stream() {
    for resets in [ResetLimits::MEMBER, ResetLimits::STRANGER] {
        run(async {
            let (client, server) = duplex(256 * 1024);
            let limits = Limits { resets, ..Limits::default() };
            let connection = http2_to(client, &limits).await;
            let mut stays = connection.send(&post("/stays"), Body::full(Bytes::from_static(b"hello")));
            let _ = timeout(Duration::from_millis(1), stays.answer()).await;
            for _ in 0..10 {
                let mut given_up: Vec<_> =
                    (0..50).map(|_| connection.send(&get("/large"), Body::empty())).collect();
                for exchange in &mut given_up {
                    let _ = timeout(Duration::from_micros(1), exchange.answer()).await;
                }
                drop(given_up);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let seen = Rc::new(Cell::new(0));
            thaw(server, limits, seen.clone());
            let (text, _) = whole(&mut body_of(&mut stays).await).await.unwrap();
            assert_eq!(text, "POST http://cart:80/stays hello");
            let (text, _) =
                whole(&mut body_of(&mut connection.send(&get("/"), Body::empty())).await).await.unwrap();
            assert_eq!(text, "GET http://cart:80/ ");
            assert_eq!(
                (seen.get(), connection.is_open()),
                (2, true),
                "nothing is begun for what was given up"
            );
        });
    }
}

#[test]
fn answers_to_cancelled_requests_end_no_other_stream() {
    run(async {
        let (client, server) = duplex(16 * 1024 * 1024);
        let limits = Limits { concurrent_streams: 1000, ..Limits::default() };
        let connection = http2_to(client, &limits).await;
        // The server knows of no reset before it has answered: its answers are late, each one.
        let mut server = h2::server::handshake(server).await.unwrap();
        for _ in 0..30 {
            let mut given_up: Vec<_> =
                (0..100).map(|_| connection.send(&get("/large"), Body::empty())).collect();
            for exchange in &mut given_up {
                let _ = timeout(Duration::from_micros(1), exchange.answer()).await;
            }
            let mut answering = Vec::new();
            for _ in 0..100 {
                answering.push(server.accept().await.unwrap().unwrap().1);
            }
            drop(given_up);
            for mut respond in answering {
                let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                body.send_data(Bytes::from_static(b"late"), true).unwrap();
            }
            let _ = timeout(Duration::from_millis(20), server.accept()).await;
        }
        let mut exchange = connection.send(&get("/"), Body::empty());
        let answer = async {
            let (_, mut respond) = server.accept().await.unwrap().unwrap();
            respond.send_response(http::Response::new(()), true).unwrap();
            let _ = timeout(Duration::from_millis(20), server.accept()).await;
        };
        let (answered, ()) = tokio::join!(exchange.answer(), answer);
        assert!(matches!(answered, Ok(Answer::Final(..))), "{answered:?}");
    });
}

/// A client by h2, a proxy of ours between two connections, and a server by h2 that does as it is told.
async fn through<F, R>(answer: F) -> h2::client::SendRequest<Bytes>
where
    F: Fn(h2::server::SendResponse<Bytes>) -> R + 'static,
    R: Future<Output = ()> + 'static,
{
    let (ours, application) = duplex(256 * 1024);
    spawn_local(async move {
        let mut server = h2::server::handshake(application).await.unwrap();
        while let Some(Ok((request, respond))) = server.accept().await {
            // Its body is not read, and is not given up either.
            let answering = answer(respond);
            spawn_local(async move {
                answering.await;
                drop(request);
            });
        }
    });
    let upstream = http2_to(ours, &Limits::default()).await;
    let mut served = serving_within(Limits::default(), Protocol::Http2, move |head, body, responder| {
        let mut exchange = upstream.send(&head, body);
        async move {
            if let Ok(Answer::Final(head, Payload::Body(body))) = exchange.answer().await {
                let _ = responder.respond(head, body).await;
            }
        }
    });
    let client = std::mem::replace(&mut served.client, duplex(1).0);
    spawn_local(async move { served.done.await.map(|_| drop(served.drain)) });
    let (send, connection) = h2::client::handshake(client).await.unwrap();
    spawn_local(connection);
    send.ready().await.unwrap()
}

#[test]
fn a_reset_of_the_server_reaches_the_client_with_a_code_that_means_the_same() {
    for (code, passed_on) in [
        (Code::CANCEL, Code::CANCEL),
        (Code::ENHANCE_YOUR_CALM, Code::ENHANCE_YOUR_CALM),
        (Code::INADEQUATE_SECURITY, Code::INADEQUATE_SECURITY),
        (Code::REFUSED_STREAM, Code::INTERNAL_ERROR),
        (Code::FLOW_CONTROL_ERROR, Code::INTERNAL_ERROR),
    ] {
        run(async {
            let mut client = through(move |mut respond| async move {
                let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                body.send_data(Bytes::from_static(b"part"), false).unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
                body.send_reset(code);
            })
            .await;
            let request = Request::get("http://cart/").body(()).unwrap();
            let mut body = client.send_request(request, true).unwrap().0.await.unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "part");
            let error = body.data().await.unwrap().unwrap_err();
            assert_eq!(error.reason(), Some(passed_on), "{code:?}: {error}");
        });
    }
}

#[test]
fn a_reset_of_the_client_reaches_the_server_with_a_code_that_means_the_same() {
    for (code, passed_on) in [
        (Code::CANCEL, Code::CANCEL),
        (Code::INTERNAL_ERROR, Code::INTERNAL_ERROR),
        (Code::ENHANCE_YOUR_CALM, Code::ENHANCE_YOUR_CALM),
        (Code::PROTOCOL_ERROR, Code::CANCEL),
    ] {
        // Before an answer and in the middle of one, with a request that is complete and one that is not.
        for (answered, ended) in [(false, false), (false, true), (true, false), (true, true)] {
            run(async {
                let (tell, told) = tokio::sync::oneshot::channel();
                let tell = Rc::new(Cell::new(Some(tell)));
                let mut client = through(move |mut respond| {
                    let tell = tell.clone();
                    async move {
                        let code = if answered {
                            let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                            std::future::poll_fn(|cx| body.poll_reset(cx)).await
                        } else {
                            std::future::poll_fn(|cx| respond.poll_reset(cx)).await
                        };
                        tell.take().unwrap().send(code.unwrap()).unwrap();
                    }
                })
                .await;
                let request = Request::post("http://cart/").body(()).unwrap();
                let (response, mut stream) = client.send_request(request, ended).unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
                let response = if answered { Ok(response.await.unwrap()) } else { Err(response) };
                stream.send_reset(code);
                let reset = told.await.unwrap();
                assert_eq!(reset, passed_on, "{code:?} {answered} {ended}");
                drop(response);
            });
        }
    }
}
