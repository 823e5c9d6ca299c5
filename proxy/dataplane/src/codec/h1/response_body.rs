//! The body of a response: read from the client's connection, which goes back to its pool at the end.

use std::task::{Context, Poll, ready};

use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;

use super::client::{ReadEnd, Shared, refused};
use super::framing::Decoded;
use crate::codec::body::{Frame, Source};

impl Source for Shared {
    fn poll_frame(&self, turn: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        if self.state.borrow().turn != turn {
            return Poll::Ready(Some(Err(cut_off("the response is over"))));
        }
        if let Err(failure) = self.poll_send(cx) {
            return Poll::Ready(Some(Err(Failure { reached: Reached::ResponseStarted, ..failure })));
        }
        loop {
            let decoded = {
                let state = &mut *self.state.borrow_mut();
                let wire = &mut *self.wire.borrow_mut();
                match (wire, &mut state.response) {
                    (Some(wire), Some(reading)) => reading.body.decode(&mut wire.read, &self.limits),
                    _ => return Poll::Ready(Some(Err(cut_off("the connection is closed")))),
                }
            };
            match decoded {
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(Frame::Data(data)))),
                Ok(Decoded::Trailers(trailers)) => {
                    self.finish();
                    return Poll::Ready(Some(Ok(Frame::Trailers(trailers))));
                }
                Ok(Decoded::End) => {
                    self.finish();
                    return Poll::Ready(None);
                }
                Ok(Decoded::More) => {}
                Err(malformed) => {
                    self.close();
                    let failure = Failure { reached: Reached::ResponseStarted, ..refused(&malformed) };
                    return Poll::Ready(Some(Err(failure)));
                }
            }
            if let Err(ended) = ready!(self.poll_fill(cx)) {
                // An error of reading is no end, even where the end of the connection is the framing.
                let clean = matches!(ended, ReadEnd::Closed)
                    && self.state.borrow_mut().response.as_mut().is_some_and(|r| r.body.connection_ended());
                if clean {
                    self.finish();
                    return Poll::Ready(None);
                }
                self.close();
                return Poll::Ready(Some(Err(cut_off(ended.detail()))));
            }
        }
    }

    fn poll_progress(&self, turn: u64, cx: &mut Context<'_>) {
        if self.state.borrow().turn == turn {
            // Its failure comes back when the body is read.
            let _ = self.poll_send(cx);
        }
    }

    fn abandon(&self, turn: u64) {
        if self.state.borrow().turn == turn {
            self.close();
        }
    }
}

fn cut_off(detail: &str) -> Failure {
    Failure::upstream(Reason::UpstreamConnectionTermination, Reached::ResponseStarted, detail)
}
