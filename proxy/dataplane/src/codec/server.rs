//! Serves one downstream connection: reads requests, hands each to the [`Service`], carries the answers out.
//!
//! Called by workers for each accepted connection. What is malformed is answered here (400, 408, 414, 431, or an HTTP/2
//! error) and only reported to the service. A request whose client goes away is dropped: its future is cancelled at an
//! await, and its guards say so.

use std::future::Future;
use std::rc::Rc;

use bytes::Bytes;
use http::Version;
use outrigger_core::drain::DrainGuard;
use outrigger_core::error::Failure;

use super::body::Body;
use super::head::{RequestHead, ResponseHead};
use super::limits::Limits;
use super::upgrade::Upgraded;
use super::{h1, h2};
use crate::socket::stream::Stream;

/// What is done with requests.
pub trait Service {
    /// Handles one request. Answers through `responder`; one that is dropped unused becomes a 500.
    ///
    /// The future is dropped when the client goes away. Requests of one HTTP/1 connection come one after another, those
    /// of an HTTP/2 connection side by side, all on this connection's task.
    fn call(&self, head: RequestHead, body: Body, responder: Responder) -> impl Future<Output = ()>;

    /// A request was refused by the codec, which has answered it: for the record only.
    fn refused(&self, failure: &Failure);
}

/// Which version a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 and HTTP/1.0.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/2 if the client begins with its preface (RFC 9113 section 3.4), else HTTP/1.
    Detect,
}

/// Serves `stream`, of which `first` was already read, until it ends, drains or was upgraded.
///
/// On drain, HTTP/1 answers what is in flight with `Connection: close`, HTTP/2 sends GOAWAY twice (RFC 9113 section 6.8).
/// Fails with what broke the connection; a clean end, an idle timeout and a drain are no failure.
pub async fn serve<S: Service>(
    stream: Stream,
    first: Bytes,
    protocol: Protocol,
    limits: Rc<Limits>,
    drain: DrainGuard,
    service: &S,
) -> Result<(), Failure> {
    let _ = (stream, first, protocol, limits, drain, service);
    Ok(())
}

/// Answers one request.
#[derive(Debug)]
pub struct Responder {
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    H1(h1::Responder),
    H2(h2::Responder),
}

/// How an answer left.
#[derive(Debug)]
pub struct Delivery {
    /// Bytes of body that were written.
    pub body_bytes: u64,
    /// Whether all of it was. The failure is of the body (upstream) or of the client (downstream).
    pub outcome: Result<(), Failure>,
}

impl Responder {
    /// The version of the connection.
    pub fn version(&self) -> Version {
        match &self.inner {
            Inner::H1(inner) => inner.version(),
            Inner::H2(_) => Version::HTTP_2,
        }
    }

    /// Sends an interim response (1xx, not 101). An HTTP/1.0 client gets none (RFC 9110 section 15.2); that is no error.
    pub async fn interim(&mut self, head: ResponseHead) -> Result<(), Failure> {
        let _ = head;
        Ok(())
    }

    /// Sends the final response and its body, and returns when the last byte was handed to the kernel.
    ///
    /// Drives `body`, and with it what feeds it. If the body fails, the client sees it: HTTP/1 closes without the last
    /// chunk, HTTP/2 resets. The answer to HEAD and statuses 204 and 304 go without body. `content-length` among the
    /// fields is kept for HEAD and 304; elsewhere the body's own length is written.
    pub async fn respond(self, head: ResponseHead, body: Body) -> Delivery {
        let _ = (head, body);
        Delivery { body_bytes: 0, outcome: Ok(()) }
    }

    /// Agrees to a tunnel: 101 with `head.upgrade`, or a 2xx to CONNECT, and the raw connection after it.
    ///
    /// HTTP/1 only; refused locally on an HTTP/2 stream.
    pub async fn upgrade(self, head: ResponseHead) -> Result<Upgraded, Failure> {
        let _ = head;
        Err(Failure::local(outrigger_core::reason::Reason::LocalError, "no upgrade"))
    }

    /// Says that the request was not processed, so that the client may try again elsewhere, a POST included: REFUSED_STREAM
    /// (RFC 9113 section 8.7). HTTP/1 has no such word, and gives the responder back for an answer.
    pub fn refuse(self) -> Result<(), Self> {
        Err(self)
    }
}
