//! Where our server and the `h2` crate's are known to differ, and which section of which RFC says why ours is right, or free to.
//!
//! Sections without a name are those of RFC 9113.

use std::collections::BTreeSet;
use std::fmt;

use super::Verdict;
use super::ours::STREAMS;
use super::script::Step;
use crate::codec::h2::frame::Code;

/// A frame of which both servers make something else.
pub(super) struct Difference {
    /// The frames before it.
    pub(super) before: Vec<Step>,
    pub(super) step: Step,
    pub(super) ours: Verdict,
    pub(super) theirs: Verdict,
    /// The codes that both have sent.
    pub(super) codes: [Option<Code>; 2],
}

/// Why a difference is known, and whether one is of this kind.
type Known = (&'static str, fn(&Difference) -> bool);

const KNOWN: [Known; 18] = [
    (
        "6.8: GOAWAY of a client is about streams of the server. h2 accepts no more requests, and ignores other frames",
        |it| it.before.iter().any(|step| step.kind == GOAWAY),
    ),
    (
        "8.1.1: a malformed message is an error of its stream. h2 ends the connection for some names and values",
        |it| {
            let names = [
                "a name in upper case",
                "an empty name",
                "a value with a line end",
                "an unknown pseudo-field",
            ];
            it.ends_in_h2() && names.contains(&it.step.what)
        },
    ),
    ("8.1.1: the same. h2 ends the connection if the block has several frames", |it| {
        it.ends_in_h2() && it.step.kind == HEADERS && it.step.bytes[4] & END_HEADERS == 0
    }),
    ("8.1.1: a server may answer a request whose trailers are malformed, and resets its stream then", |it| {
        it.step.kind == HEADERS && it.theirs_is_stream() && it.is_accepted() && it.is_used()
    }),
    ("8.2.1: a value must not begin with whitespace. h2 passes it on", |it| {
        it.step.what == "a value with a space before it" && matches!(it.theirs, Verdict::Accepted { .. })
    }),
    (
        "5.1.1: a stream that a client must not open is an error of the connection, whatever is in its head",
        |it| {
            it.step.kind == HEADERS
                && it.ours == Verdict::Connection
                && it.theirs_is_stream()
                && it.cannot_be_opened()
        },
    ),
    (
        "5.1.1: a frame on a stream that was never opened. h2 takes it for a closed one if it has seen a higher one",
        |it| {
            let kinds = [DATA, RST_STREAM, WINDOW_UPDATE];
            it.ours == Verdict::Connection
                && kinds.contains(&it.step.kind)
                && !it.is_used()
                && it.cannot_be_opened()
        },
    ),
    (
        "5.1, half-closed (remote): a frame behind END_STREAM is an error of the stream. h2 ends the connection",
        |it| {
            let kinds = [DATA, HEADERS];
            it.ends_in_h2()
                && kinds.contains(&it.step.kind)
                && it.is_used()
                && it.codes[0] == Some(Code::STREAM_CLOSED)
        },
    ),
    ("6.3: a PRIORITY frame of another length is an error of the stream. h2 ends the connection", |it| {
        it.ends_in_h2() && it.step.kind == PRIORITY
    }),
    ("6.4: RST_STREAM must not be sent on an idle stream, on which this PRIORITY depends on itself", |it| {
        it.step.kind == PRIORITY && it.ours == Verdict::Connection && it.theirs_is_stream() && !it.is_used()
    }),
    ("6.9: WINDOW_UPDATE of a stream by 0 is an error of the stream. h2 ends the connection", |it| {
        it.ends_in_h2() && it.step.kind == WINDOW_UPDATE && it.step.bytes[9..] == [0; 4]
    }),
    ("4.3: every field block is decoded. h2 skips one whose stream depends on itself", |it| {
        let skipped =
            |step: &Step| step.kind == HEADERS && step.bytes[4] & PRIORITY_FLAG != 0 && step.stream == 3;
        skipped(&it.step) || it.before.iter().any(skipped)
    }),
    (
        "8.4 and RFC 9218 7.1: frames that a client must not send, or not for stream 0. h2 ignores them",
        |it| {
            let kinds = [PUSH_PROMISE, PRIORITY_UPDATE];
            it.ours == Verdict::Connection && kinds.contains(&it.step.kind)
        },
    ),
    (
        "6.10: no other frame is between those of a field block. h2 forgets the block if its first part is malformed",
        |it| it.ours == Verdict::Connection && it.step.kind == HEADERS && it.step.bytes[4] & END_HEADERS == 0,
    ),
    (
        "5.1, closed: a frame on a stream that the client has reset is an error. h2 ignores it if it has reset the stream itself since",
        |it| {
            let reset = it.before.iter().any(|step| step.kind == RST_STREAM && step.stream == it.step.stream);
            reset && it.codes[0] == Some(Code::STREAM_CLOSED) && it.codes[1].is_none()
        },
    ),
    ("6.5.3: an acknowledgement that nothing waits for has no effect here. h2 ends the connection", |it| {
        it.ends_in_h2() && it.is_accepted() && it.step.kind == SETTINGS && it.step.bytes[4] & ACK != 0
    }),
    (
        "5.1, closed: what comes behind the head of a request that was refused may be late. It is an error in h2",
        |it| {
            let refused = it.opened().collect::<BTreeSet<_>>().len() > STREAMS as usize;
            it.is_used() && refused && it.is_accepted()
        },
    ),
    (
        "10.5: limits on what costs the peer nothing are each server's own. That of h2 on padding is narrower",
        |it| it.codes.contains(&Some(Code::ENHANCE_YOUR_CALM)),
    ),
];

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const PRIORITY_UPDATE: u8 = 16;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PRIORITY_FLAG: u8 = 0x20;

impl Difference {
    /// Returns why they differ, if that is known.
    pub(super) fn reason(&self) -> Option<&'static str> {
        KNOWN.iter().find(|(_, is)| is(self)).map(|(reason, _)| *reason)
    }

    /// Returns why servers differ.
    #[cfg(test)]
    pub(super) fn reasons() -> impl Iterator<Item = &'static str> {
        KNOWN.iter().map(|(reason, _)| *reason)
    }

    /// Returns whether h2 alone ends the connection.
    fn ends_in_h2(&self) -> bool {
        self.theirs == Verdict::Connection
    }

    fn theirs_is_stream(&self) -> bool {
        matches!(self.theirs, Verdict::Stream(_))
    }

    fn is_accepted(&self) -> bool {
        matches!(self.ours, Verdict::Accepted { .. })
    }

    fn opened(&self) -> impl Iterator<Item = u32> {
        self.before.iter().filter(|step| step.kind == HEADERS).map(|step| step.stream)
    }

    /// Returns whether there was a request on the stream before.
    fn is_used(&self) -> bool {
        self.opened().any(|stream| stream == self.step.stream)
    }

    /// Returns whether the stream is not the client's, or below one that was opened.
    fn cannot_be_opened(&self) -> bool {
        let stream = self.step.stream;
        stream.is_multiple_of(2) || self.opened().any(|opened| opened >= stream)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.before {
            writeln!(f, "  {}", shown(step))?;
        }
        let Self { step, ours, theirs, codes: [our, their], .. } = self;
        write!(f, "{}: {ours} ({our:?}) here, {theirs} ({their:?}) in h2", shown(step))
    }
}

fn shown(Step { what, kind, flags, stream, bytes }: &Step) -> String {
    format!("{what} on {stream} (type {kind}, flags {flags:#x}, {bytes:02x?})")
}
