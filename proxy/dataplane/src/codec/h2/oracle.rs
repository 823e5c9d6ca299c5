//! The `h2` crate as an oracle: a server of ours and one of `h2` receive the same frames, one after another, and must agree on each: it
//! is accepted, it ends its stream, or it ends the connection. Where they are known to differ, `differences` says why.
//!
//! Called by a property test, by a test that replays the corpus, and by the fuzz target `http2_oracle`, with a script of bytes.

mod differences;
mod script;
mod theirs;
mod ours;

use std::collections::BTreeSet;
use std::fmt;

use bytes::BytesMut;

use super::frame::{Code, Frame, PREFACE, Reader};
use differences::Difference;
use ours::Ours;
use script::Step;
use theirs::Theirs;

/// What a server makes of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// It wrote neither RST_STREAM nor GOAWAY, and this many requests have begun.
    Accepted { requests: usize },
    /// It has reset these streams.
    Stream(BTreeSet<u32>),
    /// It has ended the connection.
    Connection,
}

/// Lets both servers receive the frames of a script, up to the first difference. Panics if that is not a known one.
pub(crate) fn compare(bytes: &[u8]) {
    if let Some(difference) = first_difference(bytes) {
        assert!(difference.reason().is_some(), "{difference}");
    }
}

/// Returns the first difference between both servers, if there is one.
fn first_difference(bytes: &[u8]) -> Option<Difference> {
    let (mut ours, mut theirs) = (Ours::start(), Theirs::start());
    let preface = [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    assert_eq!((ours.receive(&preface).0, theirs.receive(&preface).0), (NOTHING, NOTHING));
    let mut before: Vec<Step> = Vec::new();
    for step in script::steps(bytes) {
        let ((our, our_code), (their, their_code)) = (ours.receive(&step.bytes), theirs.receive(&step.bytes));
        if our != their {
            return Some(Difference {
                before,
                step,
                ours: our,
                theirs: their,
                codes: [our_code, their_code],
            });
        }
        if our == Verdict::Connection {
            return None;
        }
        before.push(step);
    }
    None
}

const NOTHING: Verdict = Verdict::Accepted { requests: 0 };

/// Reads what a server has written because of a frame, and the first code in it. `requests` is the number of requests that have begun.
fn verdict(written: &[u8], requests: usize) -> (Verdict, Option<Code>) {
    let (mut reader, mut input) = (Reader::new(1 << 20, 1 << 20), BytesMut::from(written));
    let (mut reset, mut first) = (BTreeSet::new(), None);
    // Cannot fail: it is written by a server.
    while let Ok(Some(frame)) = reader.next(&mut input) {
        match frame {
            Frame::GoAway { code, .. } if code != Code::NO_ERROR => return (Verdict::Connection, Some(code)),
            Frame::Reset { stream, code } => {
                reset.insert(stream);
                first.get_or_insert(code);
            }
            _ => {}
        }
    }
    (if reset.is_empty() { Verdict::Accepted { requests } } else { Verdict::Stream(reset) }, first)
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted { requests } => write!(f, "accepted, {requests} requests"),
            Self::Stream(streams) => write!(f, "streams {streams:?} reset"),
            Self::Connection => f.write_str("connection ended"),
        }
    }
}

#[cfg(test)]
mod tests;
