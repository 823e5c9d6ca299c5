//! Frames of HTTP/2 (RFC 9113 sections 4 and 6): bytes to frames ([`Reader`]) and frames to bytes ([`write`]).
//!
//! Called by a connection. Everything that can be checked without the state of a stream is checked here: lengths, padding, stream 0,
//! the values of settings, that the frames of a field block follow each other. An error names its code and its scope.

mod read;
mod settings;
mod priority;
pub(super) mod write;
mod code;

use std::borrow::Cow;

use bytes::Bytes;

pub(super) use code::Code;
pub(super) use priority::Priority;
pub(super) use read::Reader;
pub(super) use settings::Settings;

/// The client's connection preface (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The length of a frame's head (RFC 9113 section 4.1).
pub(super) const HEAD: usize = 9;
/// The initial limit on a payload, and the lowest one that a peer may set (RFC 9113 section 6.5.2).
pub(super) const INITIAL_FRAME_SIZE: u32 = 16 * 1024;
/// The initial window of a stream and of a connection (RFC 9113 section 6.9.2).
pub(super) const INITIAL_WINDOW: u32 = 65_535;
/// The largest window (RFC 9113 section 6.9.1).
pub(super) const MAX_WINDOW: u32 = (1 << 31) - 1;

/// A frame that was received. Frames of unknown types are [`Frame::Ignored`], as are PRIORITY frames.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// DATA. `charged` bytes are taken from both windows: the payload with its padding (RFC 9113 section 6.1).
    Data { stream: u32, data: Bytes, charged: u32, end: bool },
    /// A complete field block, of HEADERS and all of its CONTINUATION frames.
    Headers {
        stream: u32,
        block: Cow<'a, [u8]>,
        end: bool,
        /// Whether the deprecated priority names the stream itself: a stream error PROTOCOL_ERROR in RFC 7540 section 5.3.1. The
        /// block must be decoded nonetheless.
        depends_on_itself: bool,
    },
    /// RST_STREAM.
    Reset { stream: u32, code: Code },
    /// SETTINGS without ACK, which is to be applied and acknowledged.
    Settings(Settings),
    /// SETTINGS with ACK.
    SettingsAck,
    /// PING without ACK, to be acknowledged with the same bytes.
    Ping([u8; 8]),
    /// PING with ACK.
    Pong([u8; 8]),
    /// GOAWAY: streams above `last` were not processed.
    GoAway { last: u32, code: Code, debug: &'a [u8] },
    /// WINDOW_UPDATE of the connection (`stream` is 0) or of a stream. `increment` is at least 1.
    WindowUpdate { stream: u32, increment: u32 },
    /// PRIORITY_UPDATE of a request stream (RFC 9218 section 7.1).
    PriorityUpdate { stream: u32, priority: Priority },
    /// A frame without effect, for a limit on their number.
    Ignored,
}

/// A violation of the protocol by the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Error {
    /// The code of the RST_STREAM or GOAWAY that it is answered with.
    pub(super) code: Code,
    /// The stream that ends; `None` if the connection ends (RFC 9113 section 5.4).
    pub(super) stream: Option<u32>,
    /// The rule that was violated.
    pub(super) rule: &'static str,
}

impl Error {
    /// A violation that ends the connection.
    pub(super) fn connection(code: Code, rule: &'static str) -> Self {
        Self { code, stream: None, rule }
    }

    /// A violation that ends a stream.
    pub(super) fn stream(stream: u32, code: Code, rule: &'static str) -> Self {
        Self { code, stream: Some(stream), rule }
    }
}

/// Type codes of frames (RFC 9113 section 6, RFC 9218 section 7.1).
mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const PRIORITY: u8 = 2;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PUSH_PROMISE: u8 = 5;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
    pub(super) const PRIORITY_UPDATE: u8 = 16;
}

/// Flags of frames (RFC 9113 section 6).
mod flag {
    pub(super) const END_STREAM: u8 = 0x1;
    pub(super) const ACK: u8 = 0x1;
    pub(super) const END_HEADERS: u8 = 0x4;
    pub(super) const PADDED: u8 = 0x8;
    pub(super) const PRIORITY: u8 = 0x20;
}
