//! Serves HTTP on one connection: what the codec hands up goes through [`super::request`].

use std::rc::Rc;

use bytes::Bytes;
use outrigger_core::error::Failure;

use super::downstream::Downstream;
use super::request;
use crate::codec::body::Body;
use crate::codec::head::RequestHead;
use crate::codec::server::{self, Protocol, Responder, Service};
use crate::socket::stream::Stream;

/// Serves `stream`, of which `first` was already read, until it ends or drains.
pub(crate) async fn serve(
    on: &Downstream,
    stream: Stream,
    first: Bytes,
    protocol: Protocol,
) -> Result<(), Failure> {
    let limits = Rc::clone(&on.limits);
    server::serve(stream, first, protocol, limits, on.drain.clone(), on).await
}

impl Service for Downstream {
    fn call(&self, head: RequestHead, body: Body, responder: Responder) -> impl Future<Output = ()> {
        request::handle(self, head, body, responder)
    }

    fn refused(&self, failure: &Failure) {
        request::refused(self, failure);
    }
}
