//! Our server, which receives bytes and never responds.

use std::io::IoSlice;

use bytes::BytesMut;
use tokio::time::Instant;

use super::{Verdict, verdict};
use crate::codec::h2::connection::{Config, Connection, Incoming};
use crate::codec::h2::frame::{Code, INITIAL_WINDOW};
use crate::codec::limits::{Limits, ResetLimits};

/// Streams that both servers allow at a time.
pub(super) const STREAMS: u32 = 4;

pub(super) struct Ours {
    connection: Connection,
    now: Instant,
    read: BytesMut,
    requests: usize,
}

impl Ours {
    pub(super) fn start() -> Self {
        let config = Config {
            stream_window: INITIAL_WINDOW,
            connection_window: INITIAL_WINDOW,
            concurrent_streams: STREAMS,
            resets: ResetLimits::MEMBER,
            ..Config::new(&Limits::default(), INITIAL_WINDOW)
        };
        let now = Instant::now();
        let connection = Connection::server(config, now);
        Self { connection, now, read: BytesMut::new(), requests: 0 }
    }

    /// Receives bytes. Returns what it makes of them.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> (Verdict, Option<Code>) {
        self.read.extend_from_slice(bytes);
        loop {
            let more = self.connection.receive(&mut self.read, self.now);
            while let Some(incoming) = self.connection.accept() {
                self.requests += usize::from(matches!(incoming, Incoming::Request { .. }));
            }
            if !more {
                return verdict(&self.written(), self.requests);
            }
        }
    }

    fn written(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let mut slices = [IoSlice::new(&[]); 4];
            let used = self.connection.transmit(&mut slices, self.now);
            let next = slices[..used].iter().flat_map(|slice| slice.to_vec()).collect::<Vec<_>>();
            if next.is_empty() {
                return bytes;
            }
            self.connection.transmitted(next.len());
            bytes.extend(next);
        }
    }
}
