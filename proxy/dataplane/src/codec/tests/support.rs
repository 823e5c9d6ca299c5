//! A server whose handler is a closure, a client whose upstream is a script, and time that is moved by hand.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Version};
use outrigger_core::drain::{Drain, DrainGuard};
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use crate::codec::body::{Body, Frame};
use crate::codec::client::{ConnectionOwner, Http1Connection, Http2Connection};
use crate::codec::head::{RequestHead, ResponseHead, Scheme};
use crate::codec::limits::Limits;
use crate::codec::server::{Protocol, Responder, Service, serve};
use crate::codec::usage::Usage;
use crate::socket::stream::Stream;

/// A connection to the upstream at the other end of `stream`.
pub(super) async fn http2_to(stream: DuplexStream, limits: &Limits) -> Http2Connection {
    Http2Connection::start(Stream::Memory(stream), limits, Rc::new(Uncounted))
}

/// Counts nothing.
#[derive(Debug)]
pub(super) struct Uncounted;

impl Usage for Uncounted {
    fn begins(&self) {}

    fn ends(&self) {}
}

type Handling = Pin<Box<dyn Future<Output = ()>>>;

/// A service made of a closure, which remembers what the codec refused.
pub(super) struct Handler<F> {
    handle: F,
    refusals: Rc<RefCell<Vec<Reason>>>,
}

impl<F: Fn(RequestHead, Body, Responder) -> Handling> Service for Handler<F> {
    fn call(&self, head: RequestHead, body: Body, responder: Responder) -> impl Future<Output = ()> {
        (self.handle)(head, body, responder)
    }

    fn refused(&self, failure: &Failure) {
        self.refusals.borrow_mut().push(failure.reason);
    }
}

/// A service of that closure.
pub(super) fn handler<F, R>(handle: F) -> Handler<impl Fn(RequestHead, Body, Responder) -> Handling>
where
    F: Fn(RequestHead, Body, Responder) -> R + 'static,
    R: Future<Output = ()> + 'static,
{
    let handle = move |head, body, responder| -> Handling { Box::pin(handle(head, body, responder)) };
    Handler { handle, refusals: Rc::default() }
}

/// A connection that is being served.
pub(super) struct Served {
    pub(super) client: DuplexStream,
    pub(super) refusals: Rc<RefCell<Vec<Reason>>>,
    pub(super) drain: Drain,
    pub(super) done: JoinHandle<Result<(), Failure>>,
}

/// Serves a connection in memory with `handle`.
pub(super) fn serving<F, R>(protocol: Protocol, handle: F) -> Served
where
    F: Fn(RequestHead, Body, Responder) -> R + 'static,
    R: Future<Output = ()> + 'static,
{
    serving_within(Limits::default(), protocol, handle)
}

/// The same within other limits.
pub(super) fn serving_within<F, R>(limits: Limits, protocol: Protocol, handle: F) -> Served
where
    F: Fn(RequestHead, Body, Responder) -> R + 'static,
    R: Future<Output = ()> + 'static,
{
    let (client, server) = duplex(256 * 1024);
    let refusals = Rc::<RefCell<Vec<Reason>>>::default();
    let drain = Drain::new();
    let guard: DrainGuard = drain.guard();
    let handler = Handler { refusals: refusals.clone(), ..handler(handle) };
    let done = spawn_local(async move {
        serve(Stream::Memory(server), Bytes::new(), protocol, Rc::new(limits), guard, &handler).await
    });
    Served { client, refusals, drain, done }
}

/// Answers with what came: `METHOD scheme://authority/path` and the body, trailers too.
pub(super) async fn echo(head: RequestHead, mut body: Body, responder: Responder) {
    let authority = head.authority.as_ref().map_or("", |authority| authority.as_str());
    let mut text = format!("{} {}://{authority}{} ", head.method, head.scheme.as_str(), head.path);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(Frame::Data(data)) => text.push_str(&String::from_utf8_lossy(&data)),
            Ok(Frame::Trailers(trailers)) => text.push_str(&format!(" {trailers:?}")),
            Err(failure) => {
                let mut head = ResponseHead::new(failure.reason.status());
                head.headers.insert("x-outrigger-reason", failure.reason.name().parse().unwrap());
                let _ = responder.respond(head, Body::empty()).await;
                return;
            }
        }
    }
    let _ = responder.respond(ResponseHead::new(StatusCode::OK), Body::full(Bytes::from(text))).await;
}

/// What a server with [`echo`] says to these bytes, after which the client closes its side.
pub(super) async fn said_to(bytes: &[u8]) -> (String, Vec<Reason>) {
    let mut served = serving(Protocol::Http1, echo);
    served.client.write_all(bytes).await.unwrap();
    let text = read_for_a_while(&mut served.client).await;
    let refusals = served.refusals.take();
    (text, refusals)
}

/// What comes until nothing more does.
pub(super) async fn read_for_a_while(stream: &mut DuplexStream) -> String {
    let mut text = Vec::new();
    let _ = tokio::time::timeout(Duration::from_millis(500), stream.read_to_end(&mut text)).await;
    String::from_utf8_lossy(&text).into_owned()
}

/// Runs on a worker's kind of runtime, with paused time.
pub(super) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, test)
}

/// A request head.
pub(super) fn get(path: &'static str) -> RequestHead {
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: Some("cart:80".parse().unwrap()),
        path: path.parse().unwrap(),
        version: Version::HTTP_11,
        headers: HeaderMap::new(),
        upgrade: None,
    }
}

/// Keeps the connections that it gets back.
#[derive(Default)]
pub(super) struct Kept(pub(super) RefCell<Vec<Http1Connection>>);

impl ConnectionOwner for Kept {
    fn idle(&self, connection: Http1Connection) {
        self.0.borrow_mut().push(connection);
    }
}

/// An HTTP/1 connection to an upstream that the test plays, and its owner.
pub(super) fn upstream() -> (Http1Connection, DuplexStream, Rc<Kept>) {
    let (ours, theirs) = duplex(256 * 1024);
    let kept = Rc::new(Kept::default());
    let connection = Http1Connection::new(Stream::Memory(ours), Rc::new(Limits::default()), kept.clone());
    (connection, theirs, kept)
}

/// All of a body, and its trailers.
pub(super) async fn whole(body: &mut Body) -> Result<(String, HeaderMap), Failure> {
    let (mut text, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        match frame? {
            Frame::Data(data) => text.extend_from_slice(&data),
            Frame::Trailers(found) => trailers = found,
        }
    }
    Ok((String::from_utf8_lossy(&text).into_owned(), trailers))
}
