//! Responses over HTTP/2 whose body breaks off while the client takes its time.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use http::{Request, StatusCode};
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

use super::support::{run, serving};
use crate::codec::body::{Body, Frame, Source};
use crate::codec::head::ResponseHead;
use crate::codec::limits::CUT_WITHIN;
use crate::codec::server::Protocol;

/// More than a window of HTTP/2 allows at once.
const LARGE: usize = 100_000;

/// A body of [`LARGE`] bytes that breaks off behind them.
#[derive(Default)]
struct Cut(Cell<bool>);

impl Source for Cut {
    fn poll_frame(&self, _: u64, _: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        if self.0.replace(true) {
            let failure = Failure::upstream(Reason::UpstreamProtocolError, Reached::ResponseStarted, "cut");
            return Poll::Ready(Some(Err(failure)));
        }
        Poll::Ready(Some(Ok(Frame::Data(Bytes::from(vec![b'x'; LARGE])))))
    }
}

/// The body of a response that breaks off, in a client with the usual window.
async fn body() -> RecvStream {
    let served = serving(Protocol::Http2, |_, _, responder| async move {
        let body = Body::streamed(Rc::new(Cut::default()), 0, None);
        let _ = responder.respond(ResponseHead::new(StatusCode::OK), body).await;
    });
    let (mut send, connection) = h2::client::handshake(served.client).await.unwrap();
    spawn_local(async move {
        let _ = connection.await;
        drop((served.drain, served.done));
    });
    let (response, _) = send.send_request(Request::get("http://cart/").body(()).unwrap(), true).unwrap();
    let body = response.await.unwrap().into_body();
    spawn_local(async move {
        std::future::pending::<()>().await;
        drop(send);
    });
    body
}

#[test]
fn a_client_that_opens_its_window_reads_all_that_came_before() {
    run(async {
        let mut body = body().await;
        let mut read = 0;
        let code = loop {
            match body.data().await.unwrap() {
                Ok(data) => {
                    read += data.len();
                    body.flow_control().release_capacity(data.len()).unwrap();
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => break error.reason(),
            }
        };
        assert_eq!((read, code), (LARGE, Some(h2::Reason::INTERNAL_ERROR)));
    });
}

#[test]
fn a_client_that_does_not_is_reset_after_a_second() {
    run(async {
        let mut body = body().await;
        let began = Instant::now();
        let ended = async { while let Some(Ok(_)) = body.data().await {} };
        timeout(2 * CUT_WITHIN, ended).await.unwrap();
        assert!(began.elapsed() >= CUT_WITHIN);
    });
}
