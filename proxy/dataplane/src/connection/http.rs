//! A connection that was found to speak HTTP.
//!
//! The stages that determine that return it and are over before it is served, so that it does not hold their memory.

use std::rc::Rc;

use bytes::Bytes;
use outrigger_config::http_manager::HttpSettings;

use super::ConnectionHandler;
use crate::client::ClientFacts;
use crate::codec::server::Protocol;
use crate::http::downstream::{DestinationLookup, Downstream, limits};
use crate::http::service;
use crate::socket::stream::Stream;

/// A connection that speaks HTTP.
pub(super) struct HttpConnection {
    on: Downstream,
    stream: Stream,
    first: Bytes,
    protocol: Protocol,
}

impl HttpConnection {
    /// Serves it until it ends.
    pub(super) async fn serve(self: Box<Self>) {
        let Self { on, stream, first, protocol } = *self;
        if let Err(failure) = service::serve(&on, stream, first, protocol).await {
            tracing::debug!(client = %on.client.address, %failure, "connection ended");
        }
    }
}

impl ConnectionHandler {
    /// Creates the HTTP connection of a client. `http` are the settings of what handles it.
    pub(super) fn http(
        &self,
        stream: Stream,
        first: Bytes,
        protocol: Protocol,
        facts: ClientFacts,
        (finder, http): (DestinationLookup, &HttpSettings),
    ) -> Box<HttpConnection> {
        let context = Rc::clone(&self.context);
        let limits = limits(&context.limits, http, &facts);
        let drain = self.drain.clone();
        let on = Downstream { context, client: facts, lookup: finder, limits, drain };
        Box::new(HttpConnection { on, stream, first, protocol })
    }
}
