//! The one task that owns the registrations: it decides by the book, writes to the store, and publishes, in this order,
//! so that discovery never shows what a restart would forget.
//!
//! Messages that wait are taken together and written in one transaction. What cannot be written is in discovery all the
//! same, since requests must find their way; its workload is told that it is not kept, and says it again. It is written
//! when the store works again, so that nothing that was acknowledged is lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use outrigger_core::Name;
use outrigger_core::identity::SpiffeId;
use outrigger_proto::registration::RegisterRequest;
use prost::Message;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::book::{Book, StreamId};
use super::workload::{Malformed, PortRefusal, read};
use crate::metrics::Metrics;
use crate::model::mesh::Mesh;
use crate::model::registration::{Registrations, WorkloadKey};
use crate::state::registration::{RegistrationChange, RegistrationRecord};
use crate::state::{StateError, Store};

/// How soon what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How many messages may wait. More make their streams wait.
const QUEUE: usize = 256;

/// How streams reach the task.
#[derive(Debug, Clone)]
pub(crate) struct RegistrarHandle {
    commands: mpsc::Sender<Command>,
    lease: Duration,
}

/// The task. It ends when the last handle is gone.
#[derive(Debug)]
pub(crate) struct Registrar {
    book: Book,
    /// Of full names of services.
    cluster_domain: Name,
    commands: mpsc::Receiver<Command>,
    publish: watch::Sender<Registrations>,
    mesh: watch::Receiver<Arc<Mesh>>,
    store: Store,
    /// What the store does not have yet, by identity and instance.
    unwritten: BTreeMap<(String, String), RegistrationChange>,
    metrics: Arc<Metrics>,
}

/// Why a message has no outcome: the stream ends with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    Malformed(Malformed),
    /// It is in discovery, and cannot be written down.
    NotKept,
}

#[derive(Debug)]
enum Command {
    Hear { identity: SpiffeId, stream: StreamId, request: RegisterRequest, answer: oneshot::Sender<Answer> },
    Ended { key: WorkloadKey, stream: StreamId },
}

/// What a message came to.
pub(super) type Answer = Result<Result<WorkloadKey, Vec<PortRefusal>>, Unanswered>;

impl Registrar {
    /// Brings back what the store remembers, each with a whole lease from now. Run what it returns with
    /// [`Registrar::run`]; `publish` has the registrations at once.
    ///
    /// Fails when the store cannot be read. A record that cannot be read is logged and left out.
    pub(crate) fn restore(
        lease: Duration,
        cluster_domain: Name,
        store: Store,
        mesh: watch::Receiver<Arc<Mesh>>,
        publish: watch::Sender<Registrations>,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, RegistrarHandle), StateError> {
        let mut book = Book::new(lease);
        let now = Instant::now();
        for RegistrationRecord { identity, instance, request } in store.registrations()? {
            let workload = SpiffeId::parse(&identity)
                .ok()
                .zip(RegisterRequest::decode(request.as_slice()).ok())
                .and_then(|(identity, request)| read(&identity, &cluster_domain, &request).ok()?.ok());
            match workload {
                Some(workload) => book.restore(workload, now),
                None => tracing::error!(identity, instance, "a stored registration cannot be read"),
            }
        }
        let (sender, commands) = mpsc::channel(QUEUE);
        let registrar = Self {
            book,
            cluster_domain,
            commands,
            publish,
            mesh,
            store,
            unwritten: BTreeMap::new(),
            metrics,
        };
        registrar.announce();
        Ok((registrar, RegistrarHandle { commands: sender, lease }))
    }

    /// Serves until the last handle is gone.
    pub(crate) async fn run(mut self) {
        let mut waiting = Vec::new();
        loop {
            let expiry = self.book.next_expiry();
            tokio::select! {
                taken = self.commands.recv_many(&mut waiting, QUEUE) => match taken {
                    0 => return,
                    _ => self.carry_out(&mut waiting).await,
                },
                () = sleep_until(expiry) => self.expire().await,
                () = tokio::time::sleep(RETRY), if !self.unwritten.is_empty() => self.settle(Vec::new()).await,
            }
        }
    }

    async fn carry_out(&mut self, waiting: &mut Vec<Command>) {
        let mut changes = Vec::new();
        let mut answers = Vec::new();
        let now = Instant::now();
        for command in waiting.drain(..) {
            match command {
                Command::Hear { identity, stream, request, answer } => {
                    let outcome = self.hear(&identity, stream, &request, now, &mut changes);
                    answers.push((answer, outcome));
                }
                Command::Ended { key, stream } => {
                    if self.book.stream_ended(&key, stream) {
                        changes.push(removal(&key));
                    }
                }
            }
        }
        self.settle(changes).await;
        for (answer, outcome) in answers {
            let outcome = match outcome {
                Ok(Ok(key)) if self.unwritten.contains_key(&place(&key)) => Err(Unanswered::NotKept),
                outcome => outcome,
            };
            // A stream that is gone needs no answer.
            let _ = answer.send(outcome);
        }
    }

    fn hear(
        &mut self,
        identity: &SpiffeId,
        stream: StreamId,
        request: &RegisterRequest,
        now: Instant,
        changes: &mut Vec<RegistrationChange>,
    ) -> Answer {
        let workload = match read(identity, &self.cluster_domain, request).map_err(Unanswered::Malformed)? {
            Ok(workload) => workload,
            Err(refusals) => return Ok(Err(self.refuse(identity, refusals))),
        };
        let key = workload.key.clone();
        let mesh = Arc::clone(&self.mesh.borrow());
        let known = self.book.has(&key);
        match self.book.hear(workload, stream, &mesh, now) {
            Ok(admitted) => {
                changes.extend(admitted.evicted.iter().map(removal));
                if admitted.changed {
                    tracing::info!(%identity, instance = %key.instance, drain = request.drain, "registered");
                    changes.push(RegistrationChange::Put(RegistrationRecord {
                        identity: identity.as_str().into(),
                        instance: key.instance.as_ref().into(),
                        request: request.encode_to_vec(),
                    }));
                }
                Ok(Ok(key))
            }
            Err(refusals) => {
                if known && !self.book.has(&key) {
                    changes.push(removal(&key));
                }
                Ok(Err(self.refuse(identity, refusals)))
            }
        }
    }

    fn refuse(&self, identity: &SpiffeId, refusals: Vec<PortRefusal>) -> Vec<PortRefusal> {
        for PortRefusal { port, reason, text } in &refusals {
            self.metrics.registration_refused(reason);
            tracing::warn!(%identity, port, reason, error = text, "registration refused");
        }
        refusals
    }

    async fn expire(&mut self) {
        let ended = self.book.expire(Instant::now());
        for WorkloadKey { identity, instance } in &ended {
            tracing::warn!(%identity, %instance, "the lease ended: out of discovery");
        }
        self.settle(ended.iter().map(removal).collect()).await;
    }

    /// Writes, then publishes.
    async fn settle(&mut self, changes: Vec<RegistrationChange>) {
        let changed = !changes.is_empty();
        self.unwritten.extend(changes.into_iter().map(|change| (place_of(&change), change)));
        if !self.unwritten.is_empty() {
            let (store, changes) = (self.store.clone(), self.unwritten.values().cloned().collect::<Vec<_>>());
            let written = tokio::task::spawn_blocking(move || store.change_registrations(&changes)).await;
            match written {
                Ok(Ok(())) => self.unwritten.clear(),
                // The store says itself what is wrong with it, once.
                Ok(Err(error)) => tracing::debug!(%error, "registrations are not written yet"),
                Err(error) => tracing::error!(%error, "registrations are not written yet"),
            }
        }
        if changed {
            self.announce();
        }
    }

    fn announce(&self) {
        self.metrics.set_registrations(self.book.len());
        self.publish.send_replace(self.book.registrations().clone());
    }
}

impl RegistrarHandle {
    /// The lease that every message begins again.
    pub(super) fn lease(&self) -> Duration {
        self.lease
    }

    /// Says everything that a workload says now. None when the control plane is ending.
    pub(super) async fn hear(
        &self,
        identity: SpiffeId,
        stream: StreamId,
        request: RegisterRequest,
    ) -> Option<Answer> {
        let (answer, outcome) = oneshot::channel();
        self.commands.send(Command::Hear { identity, stream, request, answer }).await.ok()?;
        outcome.await.ok()
    }

    /// Waits until the control plane is ending.
    pub(super) async fn closed(&self) {
        self.commands.closed().await;
    }

    /// Says that a stream ended.
    pub(super) async fn ended(&self, key: WorkloadKey, stream: StreamId) {
        let _ = self.commands.send(Command::Ended { key, stream }).await;
    }
}

fn removal(key: &WorkloadKey) -> RegistrationChange {
    let WorkloadKey { identity, instance } = key;
    RegistrationChange::Remove { identity: identity.as_str().into(), instance: instance.as_ref().into() }
}

fn place(WorkloadKey { identity, instance }: &WorkloadKey) -> (String, String) {
    (identity.as_str().into(), instance.as_ref().into())
}

fn place_of(change: &RegistrationChange) -> (String, String) {
    match change {
        RegistrationChange::Put(record) => (record.identity.clone(), record.instance.clone()),
        RegistrationChange::Remove { identity, instance } => (identity.clone(), instance.clone()),
    }
}

async fn sleep_until(expiry: Option<Instant>) {
    match expiry {
        Some(expiry) => tokio::time::sleep_until(expiry).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::super::workload::tests::{cart, request};
    use super::*;
    use crate::state::Disk;

    const LEASE: Duration = Duration::from_secs(30);

    /// A registrar over a store in which `cart` registered its instance `a` before a restart.
    fn restarted(directory: &std::path::Path) -> (RegistrarHandle, watch::Receiver<Registrations>, Store) {
        let store = Store::open(directory).unwrap();
        let put = RegistrationChange::Put(RegistrationRecord {
            identity: cart().as_str().into(),
            instance: "a".into(),
            request: request("a", 9000).encode_to_vec(),
        });
        store.change_registrations(&[put]).unwrap();
        let mesh = watch::channel(Arc::default()).1;
        let (publish, registrations) = watch::channel(Registrations::default());
        let (registrar, handle) = Registrar::restore(
            LEASE,
            "cluster.local".into(),
            store.clone(),
            mesh,
            publish,
            Metrics::new().into(),
        )
        .unwrap();
        tokio::spawn(registrar.run());
        (handle, registrations, store)
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_restart_a_silent_workload_stays_for_one_whole_lease() {
        let directory = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let (_handle, mut registrations, store) = restarted(directory.path());
        assert_eq!(registrations.borrow_and_update().workloads().count(), 1);
        registrations.changed().await.unwrap();
        assert!(start.elapsed() >= LEASE && start.elapsed() < LEASE * 2);
        assert_eq!(registrations.borrow().workloads().count(), 0);
        assert_eq!(store.registrations().unwrap(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn heartbeats_keep_a_workload_for_as_long_as_they_come() {
        let directory = tempfile::tempdir().unwrap();
        let (handle, registrations, store) = restarted(directory.path());
        for _ in 0..10 {
            tokio::time::advance(LEASE / 3).await;
            assert!(handle.hear(cart(), 1, request("a", 9000)).await.unwrap().unwrap().is_ok());
        }
        assert_eq!(
            (registrations.borrow().workloads().count(), store.registrations().unwrap().len()),
            (1, 1)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_written_is_in_discovery_and_is_not_acknowledged_until_it_is() {
        let (directory, disk) = (tempfile::tempdir().unwrap(), Disk::default());
        let store = Store::open_with(directory.path(), disk.opener()).unwrap();
        let mesh = watch::channel(Arc::default()).1;
        let (publish, registrations) = watch::channel(Registrations::default());
        let metrics = Metrics::new().into();
        let domain = "cluster.local".into();
        let (mut registrar, handle) =
            Registrar::restore(LEASE, domain, store.clone(), mesh, publish, metrics).unwrap();
        // Known from before, so that no Service is asked for.
        let known = read(&cart(), "cluster.local", &request("a", 9000)).unwrap().unwrap();
        registrar.book.restore(known, Instant::now());
        tokio::spawn(registrar.run());
        tokio::spawn(store.clone().keep_open());

        disk.fill(true);
        let draining = RegisterRequest { drain: true, ..request("a", 9000) };
        assert_eq!(handle.hear(cart(), 1, draining.clone()).await, Some(Err(Unanswered::NotKept)));
        assert!(registrations.borrow().workloads().all(|workload| workload.draining));
        assert_eq!(handle.hear(cart(), 2, draining.clone()).await, Some(Err(Unanswered::NotKept)));

        disk.fill(false);
        while handle.hear(cart(), 3, draining.clone()).await.unwrap().is_err() {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(store.registrations().unwrap().len(), 1);
    }
}
