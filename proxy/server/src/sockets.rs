//! The data plane's listening sockets, and which of them the workers currently use.
//!
//! The sockets of the flags are bound at start-up. An xDS listener gets the socket that was bound for it; until then
//! connections wait in the accept queue instead of being refused. A listener without such a socket (from another control
//! plane) is bound before discovery accepts it ([`Sockets::prepare`]), so that a failure is reported to the control plane.
//! Listeners of the saved configuration are bound when they are published; a failure is logged and retried with the next
//! snapshot.

use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_config::binding::Unbound;
use outrigger_config::listener::Listener;
use outrigger_config::snapshot::Snapshot;
use outrigger_core::{Name, descriptors};
use outrigger_dataplane::worker::{ActiveListener, ListenerSource};
use outrigger_dataplane::{ConnectionBudget, ListenerGroup};
use tokio::sync::watch;

/// The sockets of the process.
#[derive(Debug)]
pub(crate) struct Sockets {
    workers: usize,
    /// Always lent to the workers.
    fixed: Vec<ActiveListener>,
    /// Bound at start-up, lent while a listener uses them.
    waiting: Vec<Arc<ListenerGroup>>,
    /// Bound for listeners that do not belong to a `--service`.
    extra: Vec<ExtraSocket>,
    /// Listeners that discovery has accepted or is about to accept.
    wanted: Vec<(Name, SocketAddr)>,
    lent: watch::Sender<Arc<[ActiveListener]>>,
}

/// A socket that was bound for an xDS listener.
#[derive(Debug)]
struct ExtraSocket {
    /// The listener's address; its port may be 0.
    requested: SocketAddr,
    group: Arc<ListenerGroup>,
}

impl ExtraSocket {
    fn is_of(&self, name: &Name, address: SocketAddr) -> bool {
        self.group.name() == name && self.requested == address
    }
}

/// Returns the connection budget: the limit on open descriptors minus those in use.
pub(crate) fn budget(workers: usize) -> Arc<ConnectionBudget> {
    // Fallback: what a proxy opens before its first connection.
    let open = std::fs::read_dir("/proc/self/fd").map_or(64, Iterator::count);
    ConnectionBudget::of_descriptors(descriptors::limit(), open, workers)
}

impl Sockets {
    /// Takes ownership of the bound sockets. `own` are the static listeners.
    pub(crate) fn new(bound: Vec<ListenerGroup>, own: &[Arc<Listener>], workers: usize) -> Self {
        let (mut fixed, mut waiting) = (Vec::new(), Vec::new());
        for group in bound.into_iter().map(Arc::new) {
            match own.iter().find(|listener| listener.name == *group.name()) {
                Some(config) => {
                    fixed.push(ActiveListener { group, config: ListenerSource::Fixed(Arc::clone(config)) })
                }
                None => waiting.push(group),
            }
        }
        let lent = watch::Sender::new(fixed.clone().into());
        Self { workers, fixed, waiting, extra: Vec::new(), wanted: Vec::new(), lent }
    }

    /// Returns the set of lent sockets, which workers watch.
    pub(crate) fn lent(&self) -> watch::Receiver<Arc<[ActiveListener]>> {
        self.lent.subscribe()
    }

    /// Returns the name and address of every socket.
    pub(crate) fn addresses(&self) -> Vec<(Name, SocketAddr)> {
        let fixed = self.fixed.iter().map(|lent| &lent.group);
        let extra = self.extra.iter().map(|extra| &extra.group);
        let all = fixed.chain(&self.waiting).chain(extra);
        all.map(|group| (group.name().clone(), group.address())).collect()
    }

    /// Returns true if all of these addresses are currently served.
    pub(crate) fn serves_all(&self, addresses: &[SocketAddr]) -> bool {
        let lent = self.lent.borrow();
        addresses.iter().all(|address| lent.iter().any(|lent| lent.group.address() == *address))
    }

    /// Binds the listeners in `wanted` that have no socket, and drops the sockets that are neither wanted nor lent. Returns the
    /// listeners that cannot be bound, with reasons.
    pub(crate) fn prepare(&mut self, wanted: &[(Name, SocketAddr)]) -> Vec<Unbound> {
        self.wanted = wanted.to_vec();
        let lent = Arc::clone(&self.lent.borrow());
        let in_use = |group: &Arc<ListenerGroup>| lent.iter().any(|lent| Arc::ptr_eq(&lent.group, group));
        self.extra
            .retain(|of| in_use(&of.group) || wanted.iter().any(|(name, address)| of.is_of(name, *address)));
        let mut unbound = Vec::new();
        for (name, address) in wanted {
            if let Err(reason) = self.reserve(name, *address) {
                self.wanted.retain(|(other, _)| other != name);
                unbound.push(Unbound { name: name.clone(), reason });
            }
        }
        unbound
    }

    fn reserve(&mut self, name: &Name, address: SocketAddr) -> Result<(), String> {
        let fixed = || self.fixed.iter().map(|lent| &lent.group);
        if fixed().any(|group| group.name() == name) {
            return Err(format!("{name:?} is a listener of the proxy's own", name = &**name));
        }
        if let Some(own) = fixed().find(|group| group.address() == address) {
            return Err(format!("{address} is that of the proxy's own listener {:?}", &**own.name()));
        }
        // Under another name the socket is dropped with its listener, and this one is bound afterwards.
        let extra = self.extra.iter().any(|of| of.is_of(name, address) || of.group.address() == address);
        if extra || self.waiting.iter().any(|group| group.address() == address) {
            return Ok(());
        }
        let group =
            ListenerGroup::bind(name.clone(), address, self.workers).map_err(|error| error.to_string())?;
        self.extra.push(ExtraSocket { requested: address, group: Arc::new(group) });
        Ok(())
    }

    /// Lends the sockets of the listeners in `snapshot`, and takes back all others.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot) {
        let own = |name: &Name| self.fixed.iter().any(|lent| lent.group.name() == name);
        let mut wanted: Vec<_> =
            snapshot.listeners.values().filter(|listener| !own(&listener.name)).collect();
        wanted.sort_by_key(|listener| listener.name.clone());
        self.extra.retain(|of| {
            let accepted = self.wanted.iter().any(|(name, address)| of.is_of(name, *address));
            let stays = accepted || wanted.iter().any(|listener| of.is_of(&listener.name, listener.address));
            if !stays {
                of.group.retire();
            }
            stays
        });
        let mut lent = self.fixed.clone();
        for listener in wanted {
            lent.extend(
                self.group_for(listener)
                    .map(|group| ActiveListener { group, config: ListenerSource::Snapshot }),
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

    /// Closes the sockets that are not lent. Workers close the lent ones.
    pub(crate) fn close_unlent(&self) {
        let lent = self.lent.borrow();
        let unlent = |group: &&Arc<ListenerGroup>| !lent.iter().any(|lent| Arc::ptr_eq(&lent.group, group));
        let extra = self.extra.iter().map(|of| &of.group);
        self.waiting.iter().chain(extra).filter(unlent).for_each(|group| group.close());
    }

    fn group_for(&mut self, listener: &Listener) -> Option<Arc<ListenerGroup>> {
        let extra = self.extra.iter().find(|of| of.is_of(&listener.name, listener.address));
        let waiting = || self.waiting.iter().find(|group| serves(group, listener));
        if let Some(group) = extra.map(|of| &of.group).or_else(waiting) {
            return Some(Arc::clone(group));
        }
        // A second socket with the same address would receive half of the connections.
        self.waiting.retain(|group| group.address() != listener.address);
        match ListenerGroup::bind(listener.name.clone(), listener.address, self.workers) {
            Ok(group) => {
                tracing::info!(listener = %listener.name, address = %listener.address, "listening");
                let group = Arc::new(group);
                self.extra.push(ExtraSocket { requested: listener.address, group: Arc::clone(&group) });
                Some(group)
            }
            Err(error) => {
                tracing::error!(%error, "a listener from the control plane cannot be served");
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
            continue_on_timeout: true,
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
        assert!(sockets.serves_all(&[address]));
        sockets.follow(&snapshot(&[&own_config]));
        assert!(!sockets.serves_all(&[address]));
        assert!(std::net::TcpListener::bind(address).is_err(), "no other program can bind it meanwhile");
    }

    #[test]
    fn sockets_without_a_listener_can_be_closed() {
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
    fn a_wanted_listener_is_bound_before_its_publication_and_closed_when_it_is_dropped() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut sockets = Sockets::new(Vec::new(), &[], 1);
        let taken = || std::net::TcpListener::bind(free).is_err();
        assert_eq!(sockets.prepare(&[("theirs".into(), free)]), []);
        assert!(taken() && !sockets.serves_all(&[free]));
        sockets.follow(&Snapshot::default());
        assert!(taken(), "another publication does not end it");
        sockets.follow(&snapshot(&[&listener("theirs", free)]));
        assert!(sockets.serves_all(&[free]));
        assert_eq!(sockets.prepare(&[]), []);
        assert!(taken(), "as long as it is lent");
        sockets.follow(&Snapshot::default());
        assert!(!taken());
        assert_eq!(sockets.prepare(&[("theirs".into(), free)]), []);
        assert_eq!(sockets.prepare(&[]), []);
        assert!(!taken(), "it was never lent");
    }

    #[test]
    fn listeners_that_cannot_be_bound_are_returned_with_reasons() {
        let occupied = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let own = group("outbound");
        let (taken, ours) = (occupied.local_addr().unwrap(), own.address());
        let mut sockets = Sockets::new(vec![own], &[listener("outbound", ours)], 1);
        let free = "127.0.0.1:0".parse().unwrap();
        let wanted = [
            ("a".into(), taken),
            ("b".into(), ours),
            ("outbound".into(), free),
            ("c".into(), free),
            ("d".into(), free),
        ];
        let unbound = sockets.prepare(&wanted);
        let names: Vec<_> = unbound.iter().map(|unbound| &*unbound.name).collect();
        assert_eq!(names, ["a", "b", "outbound"], "{unbound:?}");
        assert!(
            unbound[0].reason.contains("in use") && unbound[1].reason.contains("\"outbound\""),
            "{unbound:?}"
        );
        sockets.follow(&snapshot(&[&listener("c", free), &listener("d", free)]));
        let addresses: Vec<_> = sockets.lent().borrow().iter().map(|lent| lent.group.address()).collect();
        assert_eq!(addresses.len(), 3);
        assert_ne!(addresses[1], addresses[2], "port 0 is another one for each");
    }

    #[test]
    fn an_address_passes_from_one_listener_to_another() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut sockets = Sockets::new(Vec::new(), &[], 1);
        sockets.prepare(&[("old".into(), free)]);
        sockets.follow(&snapshot(&[&listener("old", free)]));
        assert_eq!(sockets.prepare(&[("new".into(), free)]), []);
        sockets.follow(&snapshot(&[&listener("new", free)]));
        let names: Vec<_> = sockets.lent().borrow().iter().map(|lent| lent.group.name().clone()).collect();
        assert_eq!(names, ["new".into()]);
    }

    #[test]
    fn a_published_listener_without_a_socket_is_bound() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut sockets = Sockets::new(Vec::new(), &[], 1);
        sockets.follow(&snapshot(&[&listener("theirs", free)]));
        assert!(sockets.serves_all(&[free]));
        let group = Arc::clone(&sockets.extra[0].group);
        sockets.follow(&Snapshot::default());
        assert!(group.is_retired(), "its workers close it");
        drop(group);
        assert!(std::net::TcpListener::bind(free).is_ok(), "closed with its listener");
    }
}
