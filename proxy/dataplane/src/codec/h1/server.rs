//! The server side: one request after another on one connection (RFC 9112 section 9).
//!
//! [`serve`] owns the connection's task. A request's handler runs within it, beside a watch for the client going away.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use outrigger_core::drain::DrainGuard;
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;

use super::next_request::NoRequest;
use super::responder::Responder;
use super::session::{Disposition, Session};
use crate::codec::body::Body;
use crate::codec::head::RequestHead;
use crate::codec::limits::Limits;
use crate::socket::stream::Stream;

/// Serves `stream` until it ends, drains or was upgraded.
pub(crate) async fn serve<C, F, R>(
    stream: Stream,
    first: Bytes,
    limits: Rc<Limits>,
    drain: DrainGuard,
    call: C,
    refused: R,
) -> Result<(), Failure>
where
    C: Fn(RequestHead, Body, Responder) -> F,
    F: Future<Output = ()>,
    R: Fn(&Failure),
{
    let session = Rc::new(Session::new(stream, first, limits, drain.clone()));
    let mut drain = drain;
    let mut drained = pin!(drain.started());
    // One poll registers this task to be woken; whether it was by a drain is asked of a flag, which costs less.
    let mut registered = false;
    loop {
        session.listen();
        let request = match poll_fn(|cx| session.poll_head(cx, drained.as_mut(), &mut registered)).await {
            Ok(request) => request,
            Err(NoRequest::End) => break,
            Err(NoRequest::Refused(failure)) => {
                refused(&failure);
                session.answer_refusal(&failure).await;
                return Err(failure);
            }
            Err(NoRequest::Lost(failure)) => return Err(failure),
        };
        let (body, turn) = session.begin(request.framing, request.expects_continue);
        let responder = Responder::new(session.clone(), turn, &request.head, request.keep_alive);
        let mut handling = pin!(call(request.head, body, responder));
        let gone = poll_fn(|cx| match handling.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => session.poll_client_gone(cx).map(Some),
        })
        .await;
        if let Some(failure) = gone {
            return Err(failure);
        }
        match session.finish() {
            Disposition::Reuse => {}
            Disposition::Close => break,
            Disposition::Taken => return Ok(()),
            Disposition::Unanswered => {
                let failure = Failure::local(Reason::LocalError, "a request was left without an answer");
                session.answer_refusal(&failure).await;
                return Err(failure);
            }
        }
    }
    session.close().await;
    Ok(())
}
