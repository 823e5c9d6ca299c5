//! Ends connections without mTLS that a changed listener no longer permits.
//!
//! A port that becomes strict refuses new connections without mTLS at once. Those that are open are drained, as Envoy drains the
//! connections of a filter chain that an update removes: HTTP clients are notified, and what is left is closed.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::listener::{
    ConnectionFacts, FilterChain, Listener, PLAINTEXT_PROTOCOLS, TransportProtocol,
};
use tokio::time::sleep;

use super::ConnectionHandler;
use super::chain::{MatchedConnection, plaintext_chain};
use crate::client::ClientFacts;

/// How long after the change a connection may stay open.
const DRAIN_TIME: Duration = Duration::from_secs(30);

impl ConnectionHandler {
    /// Runs the network filter of a chain without mTLS for as long as the listener permits such connections.
    pub(super) async fn filter_while_permitted(
        mut self,
        listener: &Arc<Listener>,
        chain: &FilterChain,
        begun: MatchedConnection,
    ) {
        let (notice, guard) = self.drain.with_own_notice();
        let mut drain = std::mem::replace(&mut self.drain, guard);
        let facts = begun.facts.clone();
        let revoked = async {
            tokio::select! {
                () = drain.started() => {
                    notice.send();
                    // The drain has a deadline of its own.
                    pending().await
                }
                () = self.refused(listener, &facts) => notice.send(),
            }
            sleep(DRAIN_TIME).await;
        };
        let filtered = Box::pin(self.filter(chain, begun));
        let served = async {
            if let Some(http) = filtered.await {
                http.serve().await;
            }
        };
        tokio::select! {
            () = served => {}
            () = revoked => {}
        }
    }

    /// Completes when the current version of the listener refuses the connection.
    async fn refused(&self, listener: &Arc<Listener>, facts: &ClientFacts) {
        let mut published = self.context.view.subscribe();
        loop {
            let newest = self.context.view.snapshot().listeners.get(&listener.name).cloned();
            // A listener that was removed serves its connections to the end.
            if let Some(newest) = newest
                && !Arc::ptr_eq(&newest, listener)
                && !permits(&newest, facts)
            {
                return self.without_mtls(&newest, facts, false);
            }
            if published.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    }
}

/// Returns true if the listener accepts connections without mTLS to this destination: plaintext of some protocol, or TLS that it passes on.
fn permits(listener: &Listener, facts: &ClientFacts) -> bool {
    let passes_tls = {
        let connection = ConnectionFacts {
            destination: facts.destination,
            transport: TransportProtocol::Tls,
            server_name: None,
            application_protocols: &[],
        };
        listener.chain(&connection).is_some_and(|chain| chain.tls.is_none())
    };
    let mut protocols = PLAINTEXT_PROTOCOLS.into_iter().map(Some).chain([None]);
    passes_tls || protocols.any(|protocol| plaintext_chain(listener, facts, protocol).is_some())
}
