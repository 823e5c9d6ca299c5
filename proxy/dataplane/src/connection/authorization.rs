//! Passes a connection through the network filters of its chain, before a byte of it reaches an upstream.
//!
//! A refused connection is recorded, and closed by its caller.

use outrigger_config::listener::{FilterChain, NetworkFilter};
use outrigger_core::record::Authorization;

use super::ConnectionHandler;
use crate::client::ClientFacts;
use crate::permission;
use crate::tcp::relay;

impl ConnectionHandler {
    /// Returns what the filters decide about a connection that they admit. Returns None, and records the connection, if they
    /// refuse it.
    pub(super) fn admit(&self, chain: &FilterChain, facts: &ClientFacts) -> Option<Authorization> {
        let authorization = self.authorize(chain, facts);
        if authorization.denied_by.is_none() {
            return Some(authorization);
        }
        let destination = match &chain.filter {
            NetworkFilter::Handle(handler) => handler.destination().cloned(),
            NetworkFilter::Find(_) => None,
        };
        relay::deny(&self.context, facts, destination, authorization);
        None
    }

    /// Returns what the filters of the current version of a chain decide about a connection.
    pub(super) fn authorize(&self, chain: &FilterChain, facts: &ClientFacts) -> Authorization {
        let snapshot = self.context.view.snapshot();
        let listener = snapshot.listeners.get(&facts.listener);
        let newest = listener.and_then(|listener| listener.chain_named(&chain.name));
        permission::authorize(newest.unwrap_or(chain), facts)
    }
}
