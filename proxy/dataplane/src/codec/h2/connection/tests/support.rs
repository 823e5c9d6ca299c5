//! A connection under test, its peer made of raw frames or of another connection, and requests in their simplest form.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tokio::time::Instant;

use crate::codec::h2::connection::{Config, Connection, Incoming, Received, StreamError, StreamKey};
use crate::codec::h2::frame::{Code, Frame, PREFACE, Reader};
use crate::codec::h2::hpack::Pseudo;
use crate::codec::limits::{Limits, ResetLimits};

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
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const WHOLE: u8 = END_STREAM | END_HEADERS;

/// Field blocks: GET and POST of `http://a/`, and the response 200.
pub(super) const GET: &[u8] = &[0x82, 0x86, 0x84, 0x01, 1, b'a'];
pub(super) const POST: &[u8] = &[0x83, 0x86, 0x84, 0x01, 1, b'a'];
pub(super) const OK: &[u8] = &[0x88];

/// A frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field that is not indexed.
pub(super) fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let length = |text: &[u8]| u8::try_from(text.len()).unwrap();
    [&[0, length(name)], name, &[length(value)], value].concat()
}

pub(super) fn noop() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// A waker that remembers whether it was woken.
#[derive(Default)]
pub(super) struct Woken(AtomicBool);

impl Woken {
    pub(super) fn is_woken(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(super) fn config() -> Config {
    Config { resets: ResetLimits::STRANGER, ..Config::new(&Limits::default(), 1024 * 1024) }
}

/// A connection whose peer is the test.
pub(super) struct Tested {
    pub(super) connection: Connection,
    pub(super) now: Instant,
    read: BytesMut,
    accepted: Vec<Incoming>,
}

impl Tested {
    /// A server that has received preface and SETTINGS.
    pub(super) fn server(config: Config) -> Self {
        let now = Instant::now();
        let mut tested = Self {
            connection: Connection::server(config, now),
            now,
            read: BytesMut::new(),
            accepted: Vec::new(),
        };
        tested.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat());
        tested.written();
        tested
    }

    /// A client that has received SETTINGS with those values.
    pub(super) fn client(settings: &[u8]) -> Self {
        let now = Instant::now();
        let connection = Connection::client(config(), now);
        let mut tested = Self { connection, now, read: BytesMut::new(), accepted: Vec::new() };
        tested.send(&frame(SETTINGS, 0, 0, settings));
        tested.written();
        tested
    }

    /// Passes bytes to the connection, which accepts what they contain.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.read.extend_from_slice(bytes);
        while self.connection.receive(&mut self.read, self.now) {
            self.accept();
        }
        self.accept();
    }

    fn accept(&mut self) {
        self.accepted.extend(std::iter::from_fn(|| self.connection.accept()));
    }

    /// What was accepted since the last call.
    pub(super) fn accepted(&mut self) -> Vec<Incoming> {
        std::mem::take(&mut self.accepted)
    }

    /// The one request that was accepted.
    pub(super) fn request(&mut self) -> StreamKey {
        match &self.accepted()[..] {
            [Incoming::Request { key, .. }] => *key,
            other => panic!("{other:?}"),
        }
    }

    /// Opens a request of a client.
    pub(super) fn open(&mut self, method: &Method, end: bool) -> StreamKey {
        open(&mut self.connection, method, &HeaderMap::new(), end)
    }

    /// The bytes that the connection writes.
    pub(super) fn bytes(&mut self) -> Vec<u8> {
        written(&mut self.connection, self.now)
    }

    /// The frames that the connection writes, as text.
    pub(super) fn written(&mut self) -> Vec<String> {
        texts(&self.bytes())
    }

    /// How the connection has ended.
    pub(super) fn end(&self) -> String {
        self.connection.end().map_or_else(|| "open".to_owned(), |end| format!("{end:?}"))
    }

    pub(super) fn receive(&mut self, key: StreamKey) -> String {
        receive(&mut self.connection, key)
    }
}

/// Everything that a connection writes now.
pub(super) fn written(connection: &mut Connection, now: Instant) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let mut slices = [IoSlice::new(&[]); 4];
        let used = connection.transmit(&mut slices, now);
        let next: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.to_vec()).collect();
        if next.is_empty() {
            return bytes;
        }
        connection.transmitted(next.len());
        bytes.extend(next);
    }
}

/// Frames in short: `DATA 1 5 end`, `RST 1 CANCEL`.
pub(super) fn texts(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_prefix(PREFACE).unwrap_or(bytes);
    let (mut reader, mut input) = (Reader::new(1 << 20, 1 << 20), BytesMut::from(bytes));
    let mut frames = Vec::new();
    while let Some(frame) = reader.next(&mut input).unwrap() {
        let end = |end: bool| if end { " end" } else { "" };
        frames.push(match frame {
            Frame::Data { stream, data, end: is_end, .. } => {
                format!("DATA {stream} {}{}", data.len(), end(is_end))
            }
            Frame::Headers { stream, end: is_end, .. } => format!("HEADERS {stream}{}", end(is_end)),
            Frame::Reset { stream, code } => format!("RST {stream} {code}"),
            Frame::WindowUpdate { stream, increment } => format!("WINDOW_UPDATE {stream} {increment}"),
            Frame::GoAway { last, code, .. } => format!("GOAWAY {last} {code}"),
            Frame::Settings(_) => "SETTINGS".to_owned(),
            Frame::SettingsAck => "SETTINGS ACK".to_owned(),
            Frame::Ping(_) => "PING".to_owned(),
            Frame::Pong(_) => "PONG".to_owned(),
            other => format!("{other:?}"),
        });
    }
    frames
}

pub(super) fn open(connection: &mut Connection, method: &Method, fields: &HeaderMap, end: bool) -> StreamKey {
    let pseudo = Pseudo::Request {
        method,
        scheme: Some("http"),
        authority: Some("a"),
        path: Some("/"),
        protocol: None,
    };
    connection.open(pseudo, fields, end).unwrap()
}

/// What is received next on a stream, as text.
pub(super) fn receive(connection: &mut Connection, key: StreamKey) -> String {
    match connection.poll_receive(key, &noop()) {
        Poll::Pending => "pending".to_owned(),
        Poll::Ready(Ok(Received::Data(data))) => format!("data {}", data.len()),
        Poll::Ready(Ok(Received::Trailers(fields, _))) => format!("trailers {}", fields.len()),
        Poll::Ready(Ok(Received::End)) => "end".to_owned(),
        Poll::Ready(Err(error)) => failed(&error),
    }
}

pub(super) fn failed(error: &StreamError) -> String {
    match error {
        StreamError::Violation(code, _) => format!("violation {code}"),
        StreamError::Connection(end) => format!("connection {end:?}"),
        other => format!("{other:?}"),
    }
}

pub(super) fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let all =
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    all.collect()
}

pub(super) fn respond(connection: &mut Connection, key: StreamKey, end: bool) -> Result<(), StreamError> {
    connection.send_head(key, Pseudo::Response(StatusCode::OK), &HeaderMap::new(), end)
}

/// A client and a server that are wired to each other.
pub(super) struct Pair {
    pub(super) client: Connection,
    pub(super) server: Connection,
    pub(super) now: Instant,
    to_client: BytesMut,
    to_server: BytesMut,
}

impl Pair {
    pub(super) fn new(client: Config, server: Config) -> Self {
        let now = Instant::now();
        let (client, server) = (Connection::client(client, now), Connection::server(server, now));
        let mut pair = Self { client, server, now, to_client: BytesMut::new(), to_server: BytesMut::new() };
        assert!(pair.run().is_empty());
        pair
    }

    /// Exchanges bytes until neither side has more. Returns what the server has accepted.
    pub(super) fn run(&mut self) -> Vec<Incoming> {
        let mut accepted = Vec::new();
        loop {
            let (from_client, from_server) =
                (written(&mut self.client, self.now), written(&mut self.server, self.now));
            if from_client.is_empty() && from_server.is_empty() {
                return accepted;
            }
            self.to_server.extend_from_slice(&from_client);
            self.to_client.extend_from_slice(&from_server);
            self.client.receive(&mut self.to_client, self.now);
            while self.server.receive(&mut self.to_server, self.now) {
                accepted.extend(std::iter::from_fn(|| self.server.accept()));
            }
            accepted.extend(std::iter::from_fn(|| self.server.accept()));
        }
    }

    /// A POST whose head the server has accepted: the keys of both sides.
    pub(super) fn post(&mut self, announced: &HeaderMap) -> (StreamKey, StreamKey) {
        let ours = open(&mut self.client, &Method::POST, announced, false);
        match &self.run()[..] {
            [Incoming::Request { key, .. }] => (ours, *key),
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn data(length: usize) -> Bytes {
    Bytes::from(vec![b'x'; length])
}

pub(super) fn reset(code: Code) -> [u8; 4] {
    u32::from(code).to_be_bytes()
}
