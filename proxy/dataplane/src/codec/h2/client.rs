//! The client side of HTTP/2: many requests at a time.

use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;

use crate::codec::answer::Answer;
use crate::codec::body::Body;
use crate::codec::head::RequestHead;
use crate::codec::limits::Limits;
use crate::socket::stream::Stream;

#[derive(Debug, Clone)]
pub(crate) struct Connection {}

impl Connection {
    pub(crate) async fn start(_stream: Stream, _limits: &Limits) -> Result<Self, Failure> {
        Ok(Self {})
    }

    pub(crate) fn capacity(&self) -> usize {
        0
    }

    pub(crate) fn streams(&self) -> usize {
        0
    }

    pub(crate) fn is_open(&self) -> bool {
        false
    }

    pub(crate) async fn closed(&self) {}

    pub(crate) fn send(&self, _head: RequestHead, _body: Body) -> Exchange {
        Exchange {}
    }
}

#[derive(Debug)]
pub(crate) struct Exchange {}

impl Exchange {
    pub(crate) async fn answer(&mut self) -> Result<Answer, Failure> {
        Err(Failure::local(Reason::LocalError, "no answer"))
    }
}
