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

use super::next_request::NoRequest;
use super::parse::Request;
use super::responder::Responder;
use super::session::{Disposition, Session};
use crate::codec::body::Body;
use crate::codec::head::RequestHead;
use crate::codec::limits::Limits;
use crate::socket::stream::Stream;

/// Serves `stream` until it ends, drains or was upgraded. What is rare is boxed, so that an idle connection is small.
pub(crate) fn serve<C, F, R>(
    stream: Stream,
    first: Bytes,
    limits: Rc<Limits>,
    mut drain: DrainGuard,
    call: C,
    refused: R,
) -> impl Future<Output = Result<(), Failure>>
where
    C: Fn(RequestHead, Body, Responder) -> F,
    F: Future<Output = ()>,
    R: Fn(&Failure),
{
    let session = Rc::new(Session::new(stream, first, limits, drain.clone()));
    async move {
        let mut drained = pin!(drain.started());
        // One poll registers this task to be woken; whether it was by a drain is asked of a flag, which costs less.
        let mut registered = false;
        loop {
            session.listen();
            let next = poll_fn(|cx| {
                let head = session.poll_head(cx, drained.as_mut(), &mut registered);
                head.map_ok(|request| begin(&session, request, &call))
            });
            let ended = match next.await {
                Ok(handling) => {
                    let mut handling = pin!(handling);
                    let gone = poll_fn(|cx| match handling.as_mut().poll(cx) {
                        Poll::Ready(()) => Poll::Ready(None),
                        Poll::Pending => session.poll_client_gone(cx).map(Some),
                    });
                    match gone.await {
                        Some(failure) => return Err(failure),
                        None => session.finish(),
                    }
                }
                Err(NoRequest::End) => Disposition::Close,
                Err(NoRequest::Refused(failure)) => {
                    refused(&failure);
                    Disposition::Unanswered(failure)
                }
                Err(NoRequest::Lost(failure)) => return Err(failure),
            };
            match ended {
                Disposition::Reuse => {}
                Disposition::Close => return Box::pin(session.close()).await,
                Disposition::Taken => return Ok(()),
                Disposition::Unanswered(failure) => {
                    return Box::pin(session.answer_refusal(failure)).await;
                }
            }
        }
    }
}

/// Begins a request.
fn begin<F>(session: &Rc<Session>, request: Request, call: impl Fn(RequestHead, Body, Responder) -> F) -> F {
    let (body, turn) = session.begin(request.framing, request.expects_continue);
    let responder = Responder::new(Rc::clone(session), turn, &request.head, request.keep_alive);
    call(request.head, body, responder)
}
