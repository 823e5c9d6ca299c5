//! The relayed connections of a worker that network filters admitted. Those that a changed configuration no longer allows end.
//!
//! A relay holds a [`Permission`] and ends when it is withdrawn. The worker judges all permissions of a listener when that
//! listener changes, and no others. HTTP has none: each request passes the current filters.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use foldhash::HashMap;
use outrigger_config::listener::{FilterChain, Listener};
use outrigger_config::publish::View;
use outrigger_config::snapshot::Snapshot;
use outrigger_core::Name;
use outrigger_core::record::Authorization;
use outrigger_policy::filter::connection;

use crate::client::ClientFacts;

/// All permissions of a worker.
#[derive(Debug, Default)]
pub(crate) struct Permissions {
    given: RefCell<HashMap<u64, Rc<Given>>>,
    last: Cell<u64>,
    /// The snapshot by which they were judged last.
    judged: RefCell<Arc<Snapshot>>,
}

/// The permission of one connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permission {
    given: Rc<Given>,
    number: u64,
    all: Rc<Permissions>,
}

#[derive(Debug)]
struct Given {
    chain: Name,
    client: ClientFacts,
    authorization: RefCell<Authorization>,
    waker: RefCell<Option<Waker>>,
}

/// Returns what the network filters of a chain decide about a connection.
pub(crate) fn authorize(chain: &FilterChain, client: &ClientFacts) -> Authorization {
    if chain.connection_filters.is_empty() {
        return Authorization::default();
    }
    let decision = connection::decide(&chain.connection_filters, &client.source());
    Authorization {
        denied_by: decision.denied_by.cloned(),
        audit_denied_by: decision.audit_denied_by.cloned(),
    }
}

impl Permissions {
    /// Gives a permission to a connection of `chain`, about which its filters have decided `authorization`.
    pub(crate) fn give(
        self: &Rc<Self>,
        chain: &FilterChain,
        client: &ClientFacts,
        authorization: Authorization,
    ) -> Permission {
        let number = self.last.get();
        self.last.set(number + 1);
        let given = Rc::new(Given {
            chain: chain.name.clone(),
            client: client.clone(),
            authorization: RefCell::new(authorization),
            waker: RefCell::default(),
        });
        self.given.borrow_mut().insert(number, Rc::clone(&given));
        Permission { given, number, all: Rc::clone(self) }
    }

    /// Judges the permissions whenever a listener changes. Returns when nothing is published any more.
    pub(crate) async fn follow(&self, view: &View) {
        let mut published = view.subscribe();
        loop {
            self.judge(view.snapshot());
            if published.changed().await.is_err() {
                return;
            }
        }
    }

    fn judge(&self, newest: Arc<Snapshot>) {
        let before = self.judged.replace(Arc::clone(&newest));
        let is_same = |listener: &Arc<Listener>| {
            before.listeners.get(&listener.name).is_some_and(|before| Arc::ptr_eq(before, listener))
        };
        // A listener that was removed serves its connections to the end.
        let changed: Vec<_> = newest.listeners.values().filter(|listener| !is_same(listener)).collect();
        if changed.is_empty() {
            return;
        }
        for given in self.given.borrow().values() {
            let of = changed.iter().find(|listener| listener.name == given.client.listener);
            // So does a chain that was removed.
            if let Some(chain) = of.and_then(|listener| listener.chain_named(&given.chain)) {
                given.judge(chain);
            }
        }
    }
}

impl Given {
    fn judge(&self, chain: &FilterChain) {
        let authorization = authorize(chain, &self.client);
        let is_denied = authorization.denied_by.is_some();
        self.authorization.replace(authorization);
        if let (true, Some(waker)) = (is_denied, self.waker.take()) {
            waker.wake();
        }
    }
}

impl Permission {
    /// Returns what the filters decide about the connection now.
    pub(crate) fn authorization(&self) -> Authorization {
        self.given.authorization.borrow().clone()
    }

    /// Completes when the connection is no longer allowed.
    pub(crate) fn poll_withdrawn(&self, cx: &Context<'_>) -> Poll<()> {
        if self.given.authorization.borrow().denied_by.is_some() {
            return Poll::Ready(());
        }
        let mut waker = self.given.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Permission {
    fn drop(&mut self) {
        self.all.given.borrow_mut().remove(&self.number);
    }
}
