//! Binding of listeners: discovery requests it before it accepts a listener, and the owner of the sockets replies.
//!
//! A control plane thus receives a NACK if an address is in use. If no owner replies (in tests, or during shutdown), every
//! listener counts as bound.

use std::net::SocketAddr;
use std::time::Duration;

use outrigger_core::Name;
use tokio::sync::{mpsc, oneshot};

/// Timeout for a reply. Binding is a few system calls.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Discovery's half: requests the binding of listeners.
#[derive(Debug, Clone)]
pub struct Binder(mpsc::UnboundedSender<BindRequest>);

/// The half of the owner of the sockets: receives the requests.
#[derive(Debug)]
pub struct BindRequests(mpsc::UnboundedReceiver<BindRequest>);

/// All listeners that are to be served, including those served already.
#[derive(Debug)]
pub struct BindRequest {
    /// Their names and addresses.
    pub wanted: Vec<(Name, SocketAddr)>,
    reply: oneshot::Sender<Vec<Unbound>>,
}

/// A listener that could not be bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unbound {
    /// Its name.
    pub name: Name,
    /// The reason, as a clause.
    pub reason: String,
}

/// Creates both halves.
pub fn binder() -> (Binder, BindRequests) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Binder(sender), BindRequests(receiver))
}

impl Binder {
    /// Binds all of these listeners and closes all others. Returns those that could not be bound. Cancel-safe: a request that
    /// was sent is still carried out.
    pub async fn bind(&self, wanted: Vec<(Name, SocketAddr)>) -> Vec<Unbound> {
        let (reply, received) = oneshot::channel();
        if self.0.send(BindRequest { wanted, reply }).is_err() {
            return Vec::new();
        }
        match tokio::time::timeout(RESPONSE_TIMEOUT, received).await {
            Ok(unbound) => unbound.unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }
}

impl BindRequests {
    /// Returns the next request. Never resolves once the other half is dropped. Cancel-safe.
    pub async fn next(&mut self) -> BindRequest {
        match self.0.recv().await {
            Some(request) => request,
            None => std::future::pending().await,
        }
    }
}

impl BindRequest {
    /// Replies with the listeners that could not be bound.
    pub fn reply(self, unbound: Vec<Unbound>) {
        // The caller may have stopped waiting.
        let _ = self.reply.send(unbound);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn listeners_that_cannot_be_bound_are_returned_and_without_a_response_none_are() {
        let (binder, mut requests) = binder();
        let wanted = vec![("a".into(), "127.0.0.1:80".parse().unwrap())];
        let taken = vec![Unbound { name: "a".into(), reason: "is taken".into() }];
        let answering = async {
            let request = requests.next().await;
            assert_eq!(request.wanted, wanted);
            request.reply(taken.clone());
        };
        let (unbound, ()) = tokio::join!(binder.bind(wanted.clone()), answering);
        assert_eq!(unbound, taken);
        assert_eq!(binder.bind(wanted.clone()).await, [], "there is no response in time");
        drop(requests);
        assert_eq!(binder.bind(wanted).await, [], "there is no receiver");
    }
}
