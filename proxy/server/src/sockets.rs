//! The data plane's listening sockets: which are lent to the workers at the moment.
//!
//! What the flags name was bound at start. A listener that comes over xDS gets the socket that was bound for it; until then
//! clients wait in that socket's queue instead of being turned away. A listener for which nothing was bound (another
//! control plane's) is bound when it comes; where that fails it is logged, and tried again with the next snapshot.

use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_config::listener::Listener;
use outrigger_config::snapshot::Snapshot;
use outrigger_core::Name;
use outrigger_dataplane::socket::listener::ListenerGroup;
use outrigger_dataplane::worker::{Lent, ListenerSource};
use tokio::sync::watch;

/// The sockets of the process.
#[derive(Debug)]
pub(crate) struct Sockets {
    workers: usize,
    /// Lent always.
    fixed: Vec<Lent>,
    /// Bound at start, lent while a listener wants them.
    waiting: Vec<Arc<ListenerGroup>>,
    /// Bound for listeners that nobody announced.
    surprising: Vec<Arc<ListenerGroup>>,
    lent: watch::Sender<Arc<[Lent]>>,
}

impl Sockets {
    /// Takes what was bound. `own` are the listeners that the flags define whole.
    pub(crate) fn new(bound: Vec<ListenerGroup>, own: &[Arc<Listener>], workers: usize) -> Self {
        let (mut fixed, mut waiting) = (Vec::new(), Vec::new());
        for group in bound.into_iter().map(Arc::new) {
            match own.iter().find(|listener| listener.name == *group.name()) {
                Some(config) => fixed.push(Lent { group, config: ListenerSource::Fixed(Arc::clone(config)) }),
                None => waiting.push(group),
            }
        }
        let lent = watch::Sender::new(fixed.clone().into());
        Self { workers, fixed, waiting, surprising: Vec::new(), lent }
    }

    /// What workers follow.
    pub(crate) fn lent(&self) -> watch::Receiver<Arc<[Lent]>> {
        self.lent.subscribe()
    }

    /// Every socket's name and address.
    pub(crate) fn addresses(&self) -> Vec<(Name, SocketAddr)> {
        let fixed = self.fixed.iter().map(|lent| &lent.group);
        let all = fixed.chain(&self.waiting).chain(&self.surprising);
        all.map(|group| (group.name().clone(), group.address())).collect()
    }

    /// Whether all of these addresses are served now.
    pub(crate) fn serve(&self, addresses: &[SocketAddr]) -> bool {
        let lent = self.lent.borrow();
        addresses.iter().all(|address| lent.iter().any(|lent| lent.group.address() == *address))
    }

    /// Lends what `snapshot` has listeners for, and takes back the rest.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot) {
        let own = |name: &Name| self.fixed.iter().any(|lent| lent.group.name() == name);
        let mut wanted: Vec<_> =
            snapshot.listeners.values().filter(|listener| !own(&listener.name)).collect();
        wanted.sort_by_key(|listener| listener.name.clone());
        self.surprising.retain(|group| {
            let stays = wanted.iter().any(|listener| serves(group, listener));
            if !stays {
                group.retire();
            }
            stays
        });
        let mut lent = self.fixed.clone();
        for listener in wanted {
            lent.extend(
                self.group_for(listener).map(|group| Lent { group, config: ListenerSource::Snapshot }),
            );
        }
        let unchanged = {
            let now = self.lent.borrow();
            now.len() == lent.len() && now.iter().zip(&lent).all(|(a, b)| Arc::ptr_eq(&a.group, &b.group))
        };
        if !unchanged {
            self.lent.send_replace(lent.into());
        }
    }

    /// Refuses connections on what is lent to nobody. What is lent, its workers close.
    pub(crate) fn close_unlent(&self) {
        let lent = self.lent.borrow();
        let unlent = |group: &&Arc<ListenerGroup>| !lent.iter().any(|lent| Arc::ptr_eq(&lent.group, group));
        self.waiting.iter().filter(unlent).for_each(|group| group.close());
    }

    fn group_for(&mut self, listener: &Listener) -> Option<Arc<ListenerGroup>> {
        let groups = self.waiting.iter().chain(&self.surprising);
        if let Some(group) = groups.into_iter().find(|group| serves(group, listener)) {
            return Some(Arc::clone(group));
        }
        // A socket of the same address under another name would take half of its connections.
        self.waiting.retain(|group| group.address() != listener.address);
        match ListenerGroup::bind(listener.name.clone(), listener.address, self.workers) {
            Ok(group) => {
                tracing::info!(listener = %listener.name, address = %listener.address, "listening");
                let group = Arc::new(group);
                self.surprising.push(Arc::clone(&group));
                Some(group)
            }
            Err(error) => {
                tracing::error!(%error, "a listener of the control plane is not served");
                None
            }
        }
    }
}

fn serves(group: &ListenerGroup, listener: &Listener) -> bool {
    *group.name() == listener.name && group.address() == listener.address
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outrigger_core::record::Direction;

    use super::*;

    fn listener(name: &str, address: SocketAddr) -> Arc<Listener> {
        Arc::new(Listener {
            name: name.into(),
            address,
            direction: Direction::Inbound,
            original_dst: false,
            first_bytes_timeout: Duration::from_secs(1),
            serves_silent: true,
            detects_http: false,
            chains: [].into(),
            default_chain: None,
        })
    }

    fn group(name: &str) -> ListenerGroup {
        ListenerGroup::bind(name.into(), "127.0.0.1:0".parse().unwrap(), 1).unwrap()
    }

    fn snapshot(listeners: &[&Arc<Listener>]) -> Snapshot {
        let listeners = listeners.iter().map(|listener| (listener.name.clone(), Arc::clone(listener)));
        Snapshot { listeners: listeners.collect(), ..Snapshot::default() }
    }

    #[test]
    fn a_socket_is_lent_while_its_listener_is_there_and_stays_bound() {
        let (own, inbound) = (group("outbound"), group("inbound|a"));
        let address = inbound.address();
        let own_config = listener("outbound", own.address());
        let mut sockets = Sockets::new(vec![own, inbound], &[Arc::clone(&own_config)], 1);
        assert_eq!(sockets.lent().borrow().len(), 1);
        let config = listener("inbound|a", address);
        sockets.follow(&snapshot(&[&own_config, &config]));
        assert!(sockets.serve(&[address]));
        sockets.follow(&snapshot(&[&own_config]));
        assert!(!sockets.serve(&[address]));
        assert!(std::net::TcpListener::bind(address).is_err(), "nobody else gets it meanwhile");
    }

    #[test]
    fn what_is_lent_to_nobody_can_be_closed() {
        let (lent, waiting) = (group("inbound|a"), group("inbound|b"));
        let (open, closed) = (lent.address(), waiting.address());
        let mut sockets = Sockets::new(vec![lent, waiting], &[], 1);
        sockets.follow(&snapshot(&[&listener("inbound|a", open)]));
        sockets.close_unlent();
        assert!(std::net::TcpStream::connect(open).is_ok() && std::net::TcpStream::connect(closed).is_err());
    }

    #[test]
    fn an_unchanged_set_is_not_announced() {
        let inbound = group("inbound|a");
        let config = listener("inbound|a", inbound.address());
        let mut sockets = Sockets::new(vec![inbound], &[], 1);
        sockets.follow(&snapshot(&[&config]));
        let mut lent = sockets.lent();
        lent.mark_unchanged();
        sockets.follow(&snapshot(&[&config]));
        assert!(!lent.has_changed().unwrap());
    }

    #[test]
    fn a_listener_that_nobody_announced_is_bound() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut sockets = Sockets::new(Vec::new(), &[], 1);
        sockets.follow(&snapshot(&[&listener("theirs", free)]));
        assert!(sockets.serve(&[free]));
        let group = Arc::clone(&sockets.surprising[0]);
        sockets.follow(&Snapshot::default());
        assert!(group.is_retired(), "its workers are told to close it");
        drop(group);
        assert!(std::net::TcpListener::bind(free).is_ok(), "and let go when its listener goes");
    }
}
