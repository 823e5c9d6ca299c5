//! The rules of leases and claims. Decides and remembers; reads no clock, writes nothing.
//!
//! A lease ends by time alone; a broken stream ends nothing. An address belongs to whoever claimed it first, until it
//! drains or its lease ends. One exception serves restarts: a workload may take an address over from another
//! instance of its *own identity* whose stream is gone, since two processes cannot listen on one address, and nobody
//! gains anything that it could not sign for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::workload::{NOT_OPEN, PortRefusal, check_services};
use crate::model::mesh::Mesh;
use crate::model::registration::{Registrations, WorkloadEntry, WorkloadKey};

/// Workloads of one identity that may be registered at a time.
const OF_IDENTITY: usize = 1024;

/// Tells one stream of a workload from the next.
pub(super) type StreamId = u64;

/// Everybody who is registered, and until when.
#[derive(Debug)]
pub(super) struct Book {
    lease: Duration,
    leases: HashMap<WorkloadKey, Lease>,
    registrations: Registrations,
}

#[derive(Debug)]
struct Lease {
    expires: Instant,
    /// The stream that speaks for it; none while it is broken.
    stream: Option<StreamId>,
}

/// What came of an admission.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Admitted {
    /// It says something else than before.
    pub(super) changed: bool,
    /// Whose place it took.
    pub(super) evicted: Vec<WorkloadKey>,
}

impl Book {
    pub(super) fn new(lease: Duration) -> Self {
        Self { lease, leases: HashMap::new(), registrations: Registrations::default() }
    }

    pub(super) fn registrations(&self) -> &Registrations {
        &self.registrations
    }

    pub(super) fn has(&self, key: &WorkloadKey) -> bool {
        self.leases.contains_key(key)
    }

    pub(super) fn len(&self) -> usize {
        self.leases.len()
    }

    /// Takes in what a workload says, on every message. What it said before stays when this is refused, and either
    /// way it is alive: its lease begins again. But one whose account a Service has been closed to since is taken out.
    pub(super) fn hear(
        &mut self,
        workload: WorkloadEntry,
        stream: StreamId,
        mesh: &Mesh,
        now: Instant,
    ) -> Result<Admitted, Vec<PortRefusal>> {
        let key = workload.key.clone();
        self.touch(&key, stream, now);
        let mut refusals = check_services(&workload, mesh);
        if let Some(known) = self.registrations.workload(&key)
            && known.ports == workload.ports
        {
            // A Service or port that is gone since asks nobody for it, and is no reason to miss that the workload leaves.
            refusals.retain(|refusal| refusal.reason == NOT_OPEN);
            let changed = **known != workload;
            if !refusals.is_empty() {
                self.remove(&key);
                return Err(refusals);
            }
            if !changed {
                return Ok(Admitted { changed, evicted: Vec::new() });
            }
        }
        let mut evicted = Vec::new();
        let siblings = || self.leases.keys().filter(|known| known.identity == key.identity).count();
        if !self.leases.contains_key(&key) && siblings() >= OF_IDENTITY {
            let text = format!("{} has {OF_IDENTITY} workloads registered already", key.identity);
            refusals.push(PortRefusal { port: 0, reason: "identity-limit", text });
        }
        for (index, port) in workload.ports.iter().enumerate() {
            let holder = self.registrations.claimant(&port.advertised);
            let Some(holder) = holder.filter(|holder| holder.key != key) else { continue };
            if self.may_take_over(&key, holder, now) {
                evicted.push(holder.key.clone());
                continue;
            }
            let text = format!("{} is claimed by {}", port.advertised, holder.key);
            refusals.push(PortRefusal { port: index, reason: "address-claimed", text });
        }
        if !refusals.is_empty() {
            return Err(refusals);
        }
        evicted.sort_unstable();
        evicted.dedup();
        for gone in &evicted {
            self.remove(gone);
        }
        self.registrations.insert(Arc::new(workload));
        self.leases.insert(key, Lease { expires: now + self.lease, stream: Some(stream) });
        Ok(Admitted { changed: true, evicted })
    }

    fn may_take_over(&self, claimant: &WorkloadKey, holder: &WorkloadEntry, now: Instant) -> bool {
        let Some(lease) = self.leases.get(&holder.key) else { return true };
        let restarted = holder.key.identity == claimant.identity && lease.stream.is_none();
        holder.draining || lease.expires <= now || restarted
    }

    fn touch(&mut self, key: &WorkloadKey, stream: StreamId, now: Instant) {
        if let Some(lease) = self.leases.get_mut(key) {
            *lease = Lease { expires: now + self.lease, stream: Some(stream) };
        }
    }

    /// Puts in what the store remembers, with a lease that begins now and no stream yet. Its service may be gone
    /// from the configuration, which then asks nobody for it.
    pub(super) fn restore(&mut self, workload: WorkloadEntry, now: Instant) {
        self.leases.insert(workload.key.clone(), Lease { expires: now + self.lease, stream: None });
        self.registrations.insert(Arc::new(workload));
    }

    /// A stream ended. Only a workload that drained goes with it; true when it did.
    pub(super) fn stream_ended(&mut self, key: &WorkloadKey, stream: StreamId) -> bool {
        let Some(lease) = self.leases.get_mut(key) else { return false };
        // A newer stream may speak for it by now.
        if lease.stream != Some(stream) {
            return false;
        }
        lease.stream = None;
        let drained = self.registrations.workload(key).is_some_and(|workload| workload.draining);
        if drained {
            self.remove(key);
        }
        drained
    }

    /// Takes out everybody whose lease has ended.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<WorkloadKey> {
        let ended = self.leases.iter().filter(|(_, lease)| lease.expires <= now);
        let ended: Vec<_> = ended.map(|(key, _)| key.clone()).collect();
        for key in &ended {
            self.remove(key);
        }
        ended
    }

    /// When the next lease ends, unless it is renewed.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.leases.values().map(|lease| lease.expires).min()
    }

    fn remove(&mut self, key: &WorkloadKey) {
        self.leases.remove(key);
        self.registrations.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use outrigger_core::Name;
    use outrigger_core::identity::SpiffeId;

    use super::super::workload::read;
    use super::super::workload::tests::{cart, request};
    use super::*;
    use crate::model::endpoint::Endpoints;
    use crate::model::mesh::ServiceEntry;
    use crate::model::route::ServiceRoutes;
    use crate::model::service::{AppProtocol, Service, ServiceKey, ServicePort, ServiceType, TargetPort};

    const LEASE: Duration = Duration::from_secs(30);

    /// A mesh of `shop/cart:80`, open to some service accounts.
    fn mesh(accounts: &[&str]) -> Mesh {
        let port = ServicePort {
            name: "".into(),
            number: 80,
            target: TargetPort::Number(8080),
            protocol: AppProtocol::Detect,
        };
        let service = Service {
            key: ServiceKey::new("shop", "cart"),
            service_type: ServiceType::ClusterIps(Vec::new()),
            ports: vec![port],
            service_accounts: accounts.iter().map(|name| Name::from(*name)).collect(),
            publish_not_ready: false,
        };
        let (endpoints, routes) = (Arc::<Endpoints>::default(), Arc::<ServiceRoutes>::default());
        Mesh::from_iter([ServiceEntry { service: Arc::new(service), endpoints, routes }])
    }

    fn workload(account: &str, instance: &str, port: u32) -> WorkloadEntry {
        let identity = SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/{account}")).unwrap();
        read(&identity, "cluster.local", &request(instance, port)).unwrap().unwrap()
    }

    fn draining(mut workload: WorkloadEntry) -> WorkloadEntry {
        workload.draining = true;
        workload
    }

    fn texts(refused: Result<Admitted, Vec<PortRefusal>>) -> Vec<String> {
        refused.unwrap_err().into_iter().map(|refusal| refusal.text).collect()
    }

    #[test]
    fn a_heartbeat_changes_nothing_and_keeps_the_lease() {
        let (mut book, mesh, start) = (Book::new(LEASE), mesh(&[]), Instant::now());
        let a = || workload("cart", "a", 9000);
        assert!(book.hear(a(), 1, &mesh, start).unwrap().changed);
        assert!(!book.hear(a(), 1, &mesh, start + LEASE / 3).unwrap().changed);
        assert!(book.expire(start + LEASE).is_empty());
        assert_eq!(book.expire(start + LEASE / 3 + LEASE), [a().key]);
        assert_eq!((book.len(), book.next_expiry()), (0, None));
    }

    #[test]
    fn what_the_configuration_does_not_have_or_allow_is_refused_by_name() {
        let (mut book, now) = (Book::new(LEASE), Instant::now());
        let a = || workload("cart", "a", 9000);
        let refused = book.hear(a(), 1, &Mesh::default(), now);
        assert_eq!(texts(refused), ["there is no Service cart.shop"]);
        let refused = book.hear(a(), 1, &mesh(&["checkout"]), now);
        assert!(texts(refused)[0].starts_with("Service cart.shop is not open to service account cart"));
        let mut other_port = a();
        other_port.ports[0].service_port = 81;
        assert_eq!(texts(book.hear(other_port, 1, &mesh(&[]), now)), ["Service cart.shop has no port 81"]);
        assert!(book.hear(a(), 1, &mesh(&["checkout", "cart"]), now).is_ok());
    }

    #[test]
    fn a_workload_can_leave_though_its_service_is_gone() {
        let (mut book, now) = (Book::new(LEASE), Instant::now());
        let a = || workload("cart", "a", 9000);
        book.hear(a(), 1, &mesh(&[]), now).unwrap();
        assert!(book.hear(draining(a()), 1, &Mesh::default(), now).unwrap().changed);
        assert!(book.registrations().workload(&a().key).unwrap().draining);
    }

    #[test]
    fn an_account_that_a_service_is_closed_to_later_is_taken_out_with_its_next_heartbeat() {
        let (mut book, now) = (Book::new(LEASE), Instant::now());
        let a = || workload("cart", "a", 9000);
        book.hear(a(), 1, &mesh(&[]), now).unwrap();
        assert!(book.hear(a(), 1, &Mesh::default(), now).is_ok(), "the Service may come back");
        let refused = texts(book.hear(a(), 1, &mesh(&["checkout"]), now));
        assert!(refused[0].contains("is not open to service account cart") && !book.has(&a().key));
        assert!(book.hear(a(), 1, &mesh(&["checkout"]), now).is_err());
        assert!(book.hear(a(), 1, &mesh(&["cart"]), now).unwrap().changed);
    }

    #[test]
    fn the_later_of_two_claims_is_refused_by_name() {
        let (mut book, mesh, now) = (Book::new(LEASE), mesh(&[]), Instant::now());
        book.hear(workload("cart", "a", 9000), 1, &mesh, now).unwrap();
        for later in [workload("cart", "b", 9000), workload("rogue", "a", 9000)] {
            let refused = texts(book.hear(later, 2, &mesh, now));
            let holder = "claimed by spiffe://cluster.local/ns/shop/sa/cart, instance a";
            assert!(refused[0].contains("127.0.0.1:9000") && refused[0].contains(holder), "{refused:?}");
        }
        assert!(book.hear(workload("cart", "a", 9001), 3, &mesh, now).unwrap().changed);
        assert!(book.hear(workload("rogue", "a", 9000), 2, &mesh, now).is_ok());
    }

    #[test]
    fn an_address_is_free_once_its_holder_drained_expired_or_died() {
        let (mesh, start) = (mesh(&[]), Instant::now());
        let a = || workload("cart", "a", 9000);
        let evicts = |book: &mut Book, later, now| book.hear(later, 2, &mesh, now).map(|done| done.evicted);
        let held = || {
            let mut book = Book::new(LEASE);
            book.hear(a(), 1, &mesh, start).unwrap();
            book
        };

        let mut drained = held();
        drained.hear(draining(a()), 1, &mesh, start).unwrap();
        assert_eq!(evicts(&mut drained, workload("other", "b", 9000), start), Ok(vec![a().key]));

        let mut expired = held();
        assert_eq!(evicts(&mut expired, workload("other", "b", 9000), start + LEASE), Ok(vec![a().key]));

        let mut died = held();
        died.stream_ended(&a().key, 1);
        assert!(evicts(&mut died, workload("other", "b", 9000), start).is_err());
        assert_eq!(evicts(&mut died, workload("cart", "b", 9000), start), Ok(vec![a().key]));
        assert_eq!(died.len(), 1);
    }

    #[test]
    fn a_broken_stream_removes_nobody_and_an_old_one_says_nothing() {
        let (mut book, mesh, now) = (Book::new(LEASE), mesh(&[]), Instant::now());
        let a = || workload("cart", "a", 9000);
        book.hear(a(), 1, &mesh, now).unwrap();
        assert!(!book.stream_ended(&a().key, 1));
        book.hear(draining(a()), 2, &mesh, now).unwrap();
        assert!(!book.stream_ended(&a().key, 1));
        assert_eq!(book.len(), 1);
        assert!(book.stream_ended(&a().key, 2));
        assert_eq!(book.len(), 0);
    }

    #[test]
    fn an_identity_registers_so_many_workloads_and_no_more() {
        let (mut book, mesh, now) = (Book::new(LEASE), mesh(&[]), Instant::now());
        for index in 0..OF_IDENTITY {
            let port = 9000 + u32::try_from(index).unwrap();
            book.hear(workload("cart", &index.to_string(), port), 1, &mesh, now).unwrap();
        }
        let refused = texts(book.hear(workload("cart", "one-more", 8000), 1, &mesh, now));
        assert!(refused[0].ends_with("1024 workloads registered already"), "{refused:?}");
        assert!(book.hear(workload("cart", "0", 8000), 1, &mesh, now).unwrap().changed);
        assert!(book.hear(workload("checkout", "a", 8001), 1, &mesh, now).is_ok());
    }

    #[test]
    fn a_refused_change_leaves_what_was_said_before() {
        let (mut book, mesh, now) = (Book::new(LEASE), mesh(&[]), Instant::now());
        book.hear(workload("cart", "a", 9000), 1, &mesh, now).unwrap();
        book.hear(workload("cart", "b", 9001), 2, &mesh, now).unwrap();
        assert!(book.hear(workload("cart", "a", 9001), 1, &mesh, now).is_err());
        let known = book.registrations().workload(&workload("cart", "a", 0x1).key).cloned().unwrap();
        assert_eq!(*known, workload("cart", "a", 9000));
    }

    #[test]
    fn the_restored_have_a_whole_lease() {
        let (mut book, now) = (Book::new(LEASE), Instant::now());
        book.restore(read(&cart(), "cluster.local", &request("a", 9000)).unwrap().unwrap(), now);
        assert!(book.expire(now + LEASE - Duration::from_millis(1)).is_empty());
        assert_eq!(book.expire(now + LEASE).len(), 1);
    }
}
