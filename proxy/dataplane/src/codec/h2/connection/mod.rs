//! One HTTP/2 connection (RFC 9113) without I/O: bytes and the time go in, messages and bytes come out.
//!
//! The driver passes it what it reads and writes what it has to send; handlers (of a server) and exchanges (of a client)
//! read and write their streams by key. It belongs to one worker, in an `Rc<RefCell<Connection>>`; no method calls back.
//! A violation on a stream resets that stream; one of the connection ends it with GOAWAY, and every stream with it.

#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod properties;
mod driving;
mod opening;
mod reading;
mod writing;
mod frames;
mod heads;
mod serving;
mod control;
mod closing;
mod relief;
mod output;
mod schedule;
mod streams;
mod stream;
mod window;
mod floods;
mod error;

use std::collections::VecDeque;
use std::task::Waker;

use tokio::time::Instant;

use super::frame::{INITIAL_FRAME_SIZE, INITIAL_WINDOW, PREFACE, Reader, Settings, write};
use super::head_memory::HeadMemory;
use super::hpack::{Decoder, Encoder};
use super::wait::Wait;
use crate::codec::limits::{Limits, ResetLimits};

use closing::Leaving;
use floods::Floods;
use opening::Opening;
use output::Output;
use schedule::Schedule;
use serving::Accepting;
use streams::Streams;
use window::{ReceiveWindow, SendWindow};

pub(super) use error::{End, Refusal, StreamError};
pub(super) use reading::{Received, ResponseSection};
pub(super) use serving::Incoming;
pub(super) use streams::StreamKey;

/// Streams that a client may open before the SETTINGS of its server are received.
const STREAMS_BEFORE_SETTINGS: u32 = 100;
/// How much larger than its decoded limit a field block may be on the wire: only a peer that repeats itself needs it.
const BLOCK_SLACK: usize = 4;

/// One connection, of either role.
#[derive(Debug)]
pub(super) struct Connection {
    role: Role,
    config: Config,
    /// The time of the last call that passed it.
    now: Instant,
    /// When bytes were last received.
    heard: Instant,
    /// Since when the rest of what is read as a whole is outstanding.
    owed_since: Option<Instant>,
    /// Whether the client's preface was not yet received.
    awaits_preface: bool,
    reader: Reader,
    decoder: Decoder,
    encoder: Encoder,
    /// Compressed bytes of the field sections received.
    head_bytes: usize,
    /// Interim responses and trailers that were not read.
    unread_heads: HeadMemory,
    streams: Streams,
    schedule: Schedule,
    output: Output,
    receiving: ReceiveWindow,
    sending: SendWindow,
    peer: PeerSettings,
    /// Tasks that wait for the peer's SETTINGS.
    settings_wanted: Vec<Waker>,
    floods: Floods,
    accepting: Accepting,
    opening: Opening,
    leaving: Leaving,
    /// The GOAWAY of the peer: the last stream that it processes.
    peer_leaves: Option<u32>,
    /// The error code of that GOAWAY.
    peer_code: super::frame::Code,
    pinged_since: Option<Instant>,
    pong: Wait,
    end: Option<End>,
    driver: Wait,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

/// What a connection may cost, and what it announces.
#[derive(Debug, Clone)]
pub(super) struct Config {
    /// The receive window of each stream, in bytes.
    pub(super) stream_window: u32,
    /// The receive window of the connection, in bytes.
    pub(super) connection_window: u32,
    /// Streams that the peer may have open (server).
    pub(super) concurrent_streams: u32,
    /// The size of a decoded field section above which it is `too_large`, in bytes as RFC 9113 section 6.5.2 counts.
    pub(super) header_list_bytes: u32,
    /// The number of fields above which it is.
    pub(super) fields: usize,
    /// Interim responses to one request (client).
    pub(super) interim_responses: usize,
    /// Limits on resets.
    pub(super) resets: ResetLimits,
}

impl Config {
    /// Takes what is needed of `limits`; `connection_window` is that of this connection, in bytes.
    pub(super) fn new(limits: &Limits, connection_window: u32) -> Self {
        Self {
            stream_window: limits.stream_window,
            connection_window,
            concurrent_streams: limits.concurrent_streams,
            header_list_bytes: limits.http2_list_bytes(),
            fields: limits.fields,
            interim_responses: limits.interim_responses,
            resets: limits.resets,
        }
    }
}

/// The settings of the peer that concern what is sent (RFC 9113 section 6.5.2).
#[derive(Debug)]
struct PeerSettings {
    received: bool,
    initial_window: u32,
    frame_size: u32,
    concurrent_streams: u32,
    extended_connect: bool,
}

impl Connection {
    /// Creates the server's side of a connection, whose first bytes are the client's preface. Its SETTINGS are to be transmitted.
    pub(super) fn server(config: Config, now: Instant) -> Self {
        let settings = Settings {
            max_concurrent_streams: Some(config.concurrent_streams),
            enable_connect_protocol: Some(true),
            no_rfc7540_priorities: Some(true),
            ..Settings::default()
        };
        Self::new(Role::Server, config, settings, now)
    }

    /// Creates the client's side of a connection. Its preface and SETTINGS are to be transmitted.
    pub(super) fn client(config: Config, now: Instant) -> Self {
        let settings = Settings { enable_push: Some(false), ..Settings::default() };
        Self::new(Role::Client, config, settings, now)
    }

    fn new(role: Role, config: Config, settings: Settings, now: Instant) -> Self {
        let settings = Settings {
            initial_window_size: Some(config.stream_window),
            max_header_list_size: Some(config.header_list_bytes),
            ..settings
        };
        let mut output = Output::default();
        if role == Role::Client {
            output.frames().extend_from_slice(PREFACE);
        }
        write::settings(output.frames(), &settings);
        let receiving = ReceiveWindow::new(config.connection_window);
        if let Some(increment) = config.connection_window.checked_sub(INITIAL_WINDOW).filter(|more| *more > 0)
        {
            write::window_update(output.frames(), 0, increment);
        }
        let list_bytes = config.header_list_bytes as usize;
        Self {
            role,
            now,
            heard: now,
            owed_since: Some(now),
            awaits_preface: role == Role::Server,
            reader: Reader::new(INITIAL_FRAME_SIZE, list_bytes.saturating_mul(BLOCK_SLACK)),
            decoder: Decoder::new(list_bytes).with_most_fields(config.fields),
            encoder: Encoder::default(),
            head_bytes: 0,
            unread_heads: HeadMemory::default(),
            streams: Streams::new(config.resets.remembered),
            schedule: Schedule::default(),
            output,
            receiving,
            sending: SendWindow::default(),
            peer: PeerSettings {
                received: false,
                initial_window: INITIAL_WINDOW,
                frame_size: INITIAL_FRAME_SIZE,
                concurrent_streams: STREAMS_BEFORE_SETTINGS,
                extended_connect: false,
            },
            settings_wanted: Vec::new(),
            floods: Floods::new(config.resets, now),
            accepting: Accepting { requests: VecDeque::new(), refusals: VecDeque::new(), bytes: 0 },
            opening: Opening::default(),
            leaving: Leaving::No,
            peer_leaves: None,
            peer_code: super::frame::Code::NO_ERROR,
            pinged_since: None,
            pong: Wait::default(),
            end: None,
            driver: Wait::default(),
            config,
        }
    }
}
