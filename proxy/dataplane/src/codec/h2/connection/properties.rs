//! What holds for a connection whatever its peer and its handlers do: nothing panics, no window is exceeded, every message that is
//! complete arrives whole, and everything is released in the end.
//!
//! Called by the tests and by the fuzz target `http2_connection`, with a script of bytes.

use std::io::IoSlice;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use foldhash::HashMap;
use http::{HeaderMap, Method, StatusCode};
use tokio::time::Instant;

use super::super::frame::Code;
use super::super::hpack::Pseudo;
use super::{Config, Connection, Incoming, Received, StreamKey};
use crate::codec::limits::{Limits, ResetLimits};

/// Two sides of a connection that do what a script says, and a third connection that receives the script itself.
pub(crate) fn script(bytes: &[u8]) {
    garbage(bytes);
    let mut pair = Pair::new(bytes.first().is_some_and(|first| first % 2 == 0));
    for step in bytes.chunks_exact(3) {
        pair.step(step[0], step[1], step[2]);
    }
    pair.finish();
}

/// Passes bytes that are hardly frames, behind a proper beginning, to both roles.
fn garbage(bytes: &[u8]) {
    let now = Instant::now();
    let config = || Config::new(&Limits::default(), 100_000);
    let mut server = Connection::server(config(), now);
    let mut client = Connection::client(config(), now);
    for _ in 0..3 {
        let _ = client.open(GET, &HeaderMap::new(), false);
    }
    let mut read = BytesMut::from(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..]);
    for connection in [&mut server, &mut client] {
        read.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
        // A short head for each piece, so that most of the bytes are payloads of plausible frames.
        for piece in bytes.chunks(12) {
            let length = piece.len().saturating_sub(3) as u8;
            if let [kind, flags, stream, payload @ ..] = piece {
                read.extend_from_slice(&[0, 0, length, kind % 11, *flags, 0, 0, 0, stream % 8]);
                read.extend_from_slice(payload);
            }
        }
        while connection.receive(&mut read, now) {
            while connection.accept().is_some() {}
        }
        while connection.accept().is_some() {}
        take(connection, now, usize::MAX);
        read.clear();
    }
}

const GET: Pseudo<'static> = Pseudo::Request {
    method: &Method::GET,
    scheme: Some("http"),
    authority: Some("a"),
    path: Some("/"),
    protocol: None,
};

/// The streams of one side: what was sent and received on each.
#[derive(Default)]
struct Messages {
    keys: Vec<StreamKey>,
    sent: HashMap<u32, (usize, bool)>,
    received: HashMap<u32, (usize, bool)>,
}

struct Pair {
    sides: [Connection; 2],
    messages: [Messages; 2],
    wires: [BytesMut; 2],
    now: Instant,
}

impl Pair {
    fn new(narrow: bool) -> Self {
        let now = Instant::now();
        let window = if narrow { 70_000 } else { 1_000_000 };
        let config = || Config {
            stream_window: window / 2,
            connection_window: window,
            concurrent_streams: 10,
            resets: ResetLimits::MEMBER,
            ..Config::new(&Limits::default(), window)
        };
        Self {
            sides: [Connection::client(config(), now), Connection::server(config(), now)],
            messages: [Messages::default(), Messages::default()],
            wires: [BytesMut::new(), BytesMut::new()],
            now,
        }
    }

    /// Does one thing on one side.
    fn step(&mut self, action: u8, which: u8, amount: u8) {
        let side = usize::from(action >> 7);
        let cx = Context::from_waker(Waker::noop());
        let (connection, messages) = (&mut self.sides[side], &mut self.messages[side]);
        let key = messages.keys.get(usize::from(which) % messages.keys.len().max(1)).copied();
        let length = usize::from(amount) * 117;
        match (action % 16, key) {
            (0 | 1, _) if side == 0 => {
                if connection.poll_open(&mut 0, &cx).is_ready()
                    && let Ok(key) = connection.open(GET, &HeaderMap::new(), false)
                {
                    messages.keys.push(key);
                    messages.sent.insert(key.id(), (0, false));
                }
            }
            (2, Some(key)) if side == 1 => {
                let response = Pseudo::Response(StatusCode::OK);
                if connection.send_head(key, response, &HeaderMap::new(), false).is_ok() {
                    messages.sent.insert(key.id(), (0, false));
                }
            }
            (3..=5, Some(key)) => {
                let end = action % 16 == 5;
                if connection.poll_capacity(key, &cx).is_ready()
                    && connection.send_data(key, Bytes::from(vec![b'x'; length]), end).is_ok()
                    && let Some((sent, ended)) = messages.sent.get_mut(&key.id())
                {
                    (*sent, *ended) = (*sent + length, end);
                }
            }
            (6, Some(key)) => {
                if connection.send_trailers(key, HeaderMap::new()).is_ok()
                    && let Some((_, ended)) = messages.sent.get_mut(&key.id())
                {
                    *ended = true;
                }
            }
            (7..=9, Some(key)) => receive(connection, messages, key),
            (10, Some(key)) if amount < 32 => connection.reset(key, Code::CANCEL),
            (11, Some(key)) if amount < 64 => connection.release(key),
            (12, _) => {
                self.now += Duration::from_millis(u64::from(amount) * 20);
                connection.relieve(self.now);
            }
            (13, _) => drop(connection.ping(self.now)),
            _ => self.exchange(side, length),
        }
    }

    /// Moves up to `length` bytes from one side to the other.
    fn exchange(&mut self, from: usize, length: usize) {
        let bytes = take(&mut self.sides[from], self.now, length);
        let to = 1 - from;
        self.wires[to].extend_from_slice(&bytes);
        loop {
            let more = self.sides[to].receive(&mut self.wires[to], self.now);
            while let Some(incoming) = self.sides[to].accept() {
                if let Incoming::Request { key, .. } = incoming {
                    self.messages[to].keys.push(key);
                }
            }
            if !more {
                break;
            }
        }
        // Neither side does what the other has to end the connection for.
        assert!(self.sides[to].end().is_none(), "{:?}", self.sides[to].end());
    }

    /// Lets everything that is under way arrive, and checks it.
    fn finish(mut self) {
        for _ in 0..100 {
            for from in [0, 1] {
                self.exchange(from, usize::MAX);
                let (connection, messages) = (&mut self.sides[from], &mut self.messages[from]);
                for key in messages.keys.clone() {
                    receive(connection, messages, key);
                }
            }
        }
        for side in [0, 1] {
            for (id, (received, ended)) in &self.messages[side].received {
                let (sent, whole) = self.messages[1 - side].sent.get(id).copied().unwrap_or_default();
                assert!(*received <= sent, "stream {id}: {received} of {sent}");
                assert!(!ended || (whole && *received == sent), "stream {id}: {received} of {sent}, {whole}");
            }
            for key in std::mem::take(&mut self.messages[side].keys) {
                self.sides[side].release(key);
            }
        }
        for _ in 0..3 {
            self.exchange(0, usize::MAX);
            self.exchange(1, usize::MAX);
        }
        for side in &mut self.sides {
            assert_eq!(side.active_streams(), 0);
            assert!(side.streams.is_empty(), "everything is released");
        }
    }
}

fn receive(connection: &mut Connection, messages: &mut Messages, key: StreamKey) {
    let cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(Ok(next)) = connection.poll_receive(key, &cx) {
        let (received, ended) = messages.received.entry(key.id()).or_default();
        match next {
            Received::Data(data) => *received += data.len(),
            Received::Trailers(..) => {}
            Received::End => {
                *ended = true;
                return;
            }
        }
    }
}

/// Takes up to `most` bytes of what a connection writes.
fn take(connection: &mut Connection, now: Instant, most: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < most {
        let mut slices = [IoSlice::new(&[]); 3];
        let used = connection.transmit(&mut slices, now);
        let mut next: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.to_vec()).collect();
        next.truncate(most - bytes.len());
        if next.is_empty() {
            break;
        }
        connection.transmitted(next.len());
        bytes.extend(next);
    }
    bytes
}
