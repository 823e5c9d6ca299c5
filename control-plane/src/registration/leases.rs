//! The rules of leases and addresses. Reads no clock and writes nothing.
//!
//! A lease ends only by time, not with a broken stream. An address belongs to the first workload that registered it,
//! until that drains or its lease expires. There is one exception, for restarts: a workload may take an address over from
//! another instance of its *own identity* whose stream has ended, because two processes cannot listen on one address, and
//! both have the same certificate anyway.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::workload::{ACCOUNT_NOT_ALLOWED, PortRefusal, check_services};
use crate::model::mesh::Mesh;
use crate::model::registration::{Registrations, WorkloadEntry, WorkloadKey};

/// Maximum number of registered workloads of one identity.
const MAX_WORKLOADS_PER_IDENTITY: usize = 1024;

/// Identifies a stream of a workload.
pub(super) type StreamId = u64;

/// The registered workloads and their leases.
#[derive(Debug)]
pub(super) struct Leases {
    lease: Duration,
    leases: HashMap<WorkloadKey, Lease>,
    registrations: Registrations,
}

#[derive(Debug)]
struct Lease {
    expires: Instant,
    /// The current stream of the workload; None after it ended.
    stream: Option<StreamId>,
}

/// The result of an accepted registration.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Registered {
    /// The registration differs from the previous one.
    pub(super) changed: bool,
    /// The workloads whose addresses it took over.
    pub(super) evicted: Vec<WorkloadKey>,
}

impl Leases {
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

    /// Applies a registration, with every message. If it is refused, the previous one stays; the lease is renewed in
    /// either case. A workload that uses a Service that is no longer open to its account is removed.
    pub(super) fn register(
        &mut self,
        workload: WorkloadEntry,
        stream: StreamId,
        mesh: &Mesh,
        now: Instant,
    ) -> Result<Registered, Vec<PortRefusal>> {
        let key = workload.key.clone();
        self.touch(&key, stream, now);
        let mut refusals = check_services(&workload, mesh);
        if let Some(known) = self.registrations.workload(&key)
            && known.ports == workload.ports
        {
            // A Service or port that was deleted receives no traffic, and must not prevent the workload from draining.
            refusals.retain(|refusal| refusal.reason == ACCOUNT_NOT_ALLOWED);
            let changed = **known != workload;
            if !refusals.is_empty() {
                self.remove(&key);
                return Err(refusals);
            }
            if !changed {
                return Ok(Registered { changed, evicted: Vec::new() });
            }
        }
        let mut evicted = Vec::new();
        let siblings = || self.leases.keys().filter(|known| known.identity == key.identity).count();
        if !self.leases.contains_key(&key) && siblings() >= MAX_WORKLOADS_PER_IDENTITY {
            let text =
                format!("{} has {MAX_WORKLOADS_PER_IDENTITY} workloads registered already", key.identity);
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
        Ok(Registered { changed: true, evicted })
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

    /// Restores a persisted registration, with a new lease and without a stream. Its Service may have been deleted from
    /// the configuration.
    pub(super) fn restore(&mut self, workload: WorkloadEntry, now: Instant) {
        self.leases.insert(workload.key.clone(), Lease { expires: now + self.lease, stream: None });
        self.registrations.insert(Arc::new(workload));
    }

    /// Records the end of a stream. Removes the workload if it was draining. Returns true if it was removed.
    pub(super) fn stream_ended(&mut self, key: &WorkloadKey, stream: StreamId) -> bool {
        let Some(lease) = self.leases.get_mut(key) else { return false };
        // The workload may have a newer stream.
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

    /// Removes the workloads whose leases have expired.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<WorkloadKey> {
        let ended = self.leases.iter().filter(|(_, lease)| lease.expires <= now);
        let ended: Vec<_> = ended.map(|(key, _)| key.clone()).collect();
        for key in &ended {
            self.remove(key);
        }
        ended
    }

    /// Returns the time at which the next lease expires.
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
    use crate::model::service::{AppProtocol, Service};

    const LEASE: Duration = Duration::from_secs(30);

    /// A mesh of `shop/cart:80`, open to some service accounts.
    fn mesh(accounts: &[&str]) -> Mesh {
        let service = Service {
            service_accounts: accounts.iter().map(|name| Name::from(*name)).collect(),
            ..Service::of_shop("cart", 8080, AppProtocol::Detect)
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

    fn texts(refused: Result<Registered, Vec<PortRefusal>>) -> Vec<String> {
        refused.unwrap_err().into_iter().map(|refusal| refusal.text).collect()
    }

    #[test]
    fn a_heartbeat_changes_nothing_and_keeps_the_lease() {
        let (mut leases, mesh, start) = (Leases::new(LEASE), mesh(&[]), Instant::now());
        let a = || workload("cart", "a", 9000);
        assert!(leases.register(a(), 1, &mesh, start).unwrap().changed);
        assert!(!leases.register(a(), 1, &mesh, start + LEASE / 3).unwrap().changed);
        assert!(leases.expire(start + LEASE).is_empty());
        assert_eq!(leases.expire(start + LEASE / 3 + LEASE), [a().key]);
        assert_eq!((leases.len(), leases.next_expiry()), (0, None));
    }

    #[test]
    fn a_service_or_account_that_the_configuration_does_not_allow_is_refused_by_name() {
        let (mut leases, now) = (Leases::new(LEASE), Instant::now());
        let a = || workload("cart", "a", 9000);
        let refused = leases.register(a(), 1, &Mesh::default(), now);
        assert_eq!(texts(refused), ["there is no Service cart.shop"]);
        let refused = leases.register(a(), 1, &mesh(&["checkout"]), now);
        assert!(texts(refused)[0].starts_with("Service cart.shop is not open to service account cart"));
        let mut other_port = a();
        other_port.ports[0].service_port = 81;
        assert_eq!(
            texts(leases.register(other_port, 1, &mesh(&[]), now)),
            ["Service cart.shop has no port 81"]
        );
        assert!(leases.register(a(), 1, &mesh(&["checkout", "cart"]), now).is_ok());
    }

    #[test]
    fn a_workload_can_leave_though_its_service_is_gone() {
        let (mut leases, now) = (Leases::new(LEASE), Instant::now());
        let a = || workload("cart", "a", 9000);
        leases.register(a(), 1, &mesh(&[]), now).unwrap();
        assert!(leases.register(draining(a()), 1, &Mesh::default(), now).unwrap().changed);
        assert!(leases.registrations().workload(&a().key).unwrap().draining);
    }

    #[test]
    fn an_account_that_a_service_no_longer_allows_is_removed_with_its_next_heartbeat() {
        let (mut leases, now) = (Leases::new(LEASE), Instant::now());
        let a = || workload("cart", "a", 9000);
        leases.register(a(), 1, &mesh(&[]), now).unwrap();
        assert!(leases.register(a(), 1, &Mesh::default(), now).is_ok(), "the Service may come back");
        let refused = texts(leases.register(a(), 1, &mesh(&["checkout"]), now));
        assert!(refused[0].contains("is not open to service account cart") && !leases.has(&a().key));
        assert!(leases.register(a(), 1, &mesh(&["checkout"]), now).is_err());
        assert!(leases.register(a(), 1, &mesh(&["cart"]), now).unwrap().changed);
    }

    #[test]
    fn the_later_of_two_claims_is_refused_by_name() {
        let (mut leases, mesh, now) = (Leases::new(LEASE), mesh(&[]), Instant::now());
        leases.register(workload("cart", "a", 9000), 1, &mesh, now).unwrap();
        for later in [workload("cart", "b", 9000), workload("rogue", "a", 9000)] {
            let refused = texts(leases.register(later, 2, &mesh, now));
            let holder = "claimed by spiffe://cluster.local/ns/shop/sa/cart, instance a";
            assert!(refused[0].contains("127.0.0.1:9000") && refused[0].contains(holder), "{refused:?}");
        }
        assert!(leases.register(workload("cart", "a", 9001), 3, &mesh, now).unwrap().changed);
        assert!(leases.register(workload("rogue", "a", 9000), 2, &mesh, now).is_ok());
    }

    #[test]
    fn an_address_is_free_after_its_owner_drained_expired_or_ended() {
        let (mesh, start) = (mesh(&[]), Instant::now());
        let a = || workload("cart", "a", 9000);
        let evicts =
            |leases: &mut Leases, later, now| leases.register(later, 2, &mesh, now).map(|done| done.evicted);
        let held = || {
            let mut leases = Leases::new(LEASE);
            leases.register(a(), 1, &mesh, start).unwrap();
            leases
        };

        let mut drained = held();
        drained.register(draining(a()), 1, &mesh, start).unwrap();
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
    fn a_broken_stream_removes_no_workload_and_an_old_one_is_ignored() {
        let (mut leases, mesh, now) = (Leases::new(LEASE), mesh(&[]), Instant::now());
        let a = || workload("cart", "a", 9000);
        leases.register(a(), 1, &mesh, now).unwrap();
        assert!(!leases.stream_ended(&a().key, 1));
        leases.register(draining(a()), 2, &mesh, now).unwrap();
        assert!(!leases.stream_ended(&a().key, 1));
        assert_eq!(leases.len(), 1);
        assert!(leases.stream_ended(&a().key, 2));
        assert_eq!(leases.len(), 0);
    }

    #[test]
    fn the_workloads_of_an_identity_are_limited() {
        let (mut leases, mesh, now) = (Leases::new(LEASE), mesh(&[]), Instant::now());
        for index in 0..MAX_WORKLOADS_PER_IDENTITY {
            let port = 9000 + u32::try_from(index).unwrap();
            leases.register(workload("cart", &index.to_string(), port), 1, &mesh, now).unwrap();
        }
        let refused = texts(leases.register(workload("cart", "one-more", 8000), 1, &mesh, now));
        assert!(refused[0].ends_with("1024 workloads registered already"), "{refused:?}");
        assert!(leases.register(workload("cart", "0", 8000), 1, &mesh, now).unwrap().changed);
        assert!(leases.register(workload("checkout", "a", 8001), 1, &mesh, now).is_ok());
    }

    #[test]
    fn a_refused_change_keeps_the_previous_registration() {
        let (mut leases, mesh, now) = (Leases::new(LEASE), mesh(&[]), Instant::now());
        leases.register(workload("cart", "a", 9000), 1, &mesh, now).unwrap();
        leases.register(workload("cart", "b", 9001), 2, &mesh, now).unwrap();
        assert!(leases.register(workload("cart", "a", 9001), 1, &mesh, now).is_err());
        let known = leases.registrations().workload(&workload("cart", "a", 0x1).key).cloned().unwrap();
        assert_eq!(*known, workload("cart", "a", 9000));
    }

    #[test]
    fn a_restored_workload_has_a_full_lease() {
        let (mut leases, now) = (Leases::new(LEASE), Instant::now());
        leases.restore(read(&cart(), "cluster.local", &request("a", 9000)).unwrap().unwrap(), now);
        assert!(leases.expire(now + LEASE - Duration::from_millis(1)).is_empty());
        assert_eq!(leases.expire(now + LEASE).len(), 1);
    }
}
