//! The client side of HTTP/1: one request at a time.

use std::rc::Rc;

use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;

use crate::codec::answer::Answer;
use crate::codec::body::Body;
use crate::codec::head::RequestHead;
use crate::codec::limits::Limits;
use crate::socket::stream::Stream;

/// Where an HTTP/1 connection goes when its exchange is over and another request may follow.
///
/// Dropped with the connection: a pool may keep its count of connections in it.
pub trait Home {
    /// The last byte of the response was read, and the connection can be used again. Called from within the reading of
    /// that response's body: do not send on it from here.
    fn idle(&self, connection: Connection);
}

/// A connection that speaks HTTP/1.1 and has no request under way.
#[derive(Debug)]
pub struct Connection {}

impl Connection {
    /// Takes a connection that was just made. `home` gets it back after each exchange that leaves it usable.
    pub fn new(stream: Stream, limits: Rc<Limits>, home: Rc<dyn Home>) -> Self {
        let _ = (stream, limits, home);
        Self {}
    }

    /// Whether it is still usable: the peer has neither closed it nor sent anything unasked. Costs no system call while the
    /// runtime has seen nothing. A closed one is dropped by the caller.
    pub fn is_open(&mut self) -> bool {
        false
    }

    /// Resolves when the peer closes the connection or sends something unasked. Cancel-safe.
    pub async fn closed(&mut self) {}

    /// Begins a request. Nothing is written before the exchange is polled. `.into()` makes it the exchange of both versions.
    ///
    /// Dropping the exchange, or the response's body before its end, closes the connection.
    pub fn send(self, head: RequestHead, body: Body) -> Exchange {
        let _ = (head, body);
        Exchange {}
    }
}

/// A request under way on an HTTP/1 connection.
#[derive(Debug)]
pub struct Exchange {}

impl Exchange {
    pub(crate) async fn answer(&mut self) -> Result<Answer, Failure> {
        Err(Failure::local(Reason::LocalError, "no answer"))
    }
}
