//! The task that owns the registrations. It decides by the leases, writes to the store, and publishes, in this order, so
//! that xDS never serves an endpoint that a restart would lose.
//!
//! Queued messages are handled together and written in one transaction. If the store fails, the registrations are
//! published nevertheless, because requests need the endpoints; the workload gets an error and retries. They are written
//! when the store works again, so that no acknowledged registration is lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use outrigger_core::Name;
use outrigger_core::identity::SpiffeId;
use outrigger_proto::registration::RegisterRequest;
use prost::Message;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::leases::{Leases, StreamId};
use super::workload::{Malformed, PortRefusal, read};
use crate::metrics::Metrics;
use crate::model::mesh::Mesh;
use crate::model::registration::{Registrations, WorkloadKey};
use crate::state::registration::{RegistrationChange, RegistrationRecord};
use crate::state::{StateError, Store};

/// Delay before a failed write is retried.
const RETRY: Duration = Duration::from_secs(1);
/// Capacity of the command queue. When it is full, the streams wait.
const COMMAND_QUEUE: usize = 256;

/// Sends commands to the task.
#[derive(Debug, Clone)]
pub(crate) struct RegistrarHandle {
    commands: mpsc::Sender<Command>,
    lease: Duration,
}

/// The task. It ends when the last handle is dropped.
#[derive(Debug)]
pub(crate) struct Registrar {
    leases: Leases,
    /// The DNS suffix of services.
    cluster_domain: Name,
    commands: mpsc::Receiver<Command>,
    publish: watch::Sender<Registrations>,
    mesh: watch::Receiver<Arc<Mesh>>,
    store: Store,
    /// Changes that are not in the store yet, by identity and instance.
    unwritten: BTreeMap<(String, String), RegistrationChange>,
    metrics: Arc<Metrics>,
}

/// Why a message gets no response; the error ends the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RegistrarError {
    Malformed(Malformed),
    /// It is published but cannot be written to the store.
    NotPersisted,
}

#[derive(Debug)]
enum Command {
    Register {
        identity: SpiffeId,
        stream: StreamId,
        request: RegisterRequest,
        answer: oneshot::Sender<RegisterResult>,
    },
    Ended {
        key: WorkloadKey,
        stream: StreamId,
    },
}

/// The result of a message: the workload's key, or why its ports are refused.
pub(super) type RegisterResult = Result<Result<WorkloadKey, Vec<PortRefusal>>, RegistrarError>;

impl Registrar {
    /// Restores the persisted registrations, each with a new lease. Run the returned registrar with [`Registrar::run`];
    /// `publish` has the registrations immediately.
    ///
    /// Returns an error if the store cannot be read. A record that cannot be read is logged and skipped.
    pub(crate) fn restore(
        lease: Duration,
        cluster_domain: Name,
        store: Store,
        mesh: watch::Receiver<Arc<Mesh>>,
        publish: watch::Sender<Registrations>,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, RegistrarHandle), StateError> {
        let mut leases = Leases::new(lease);
        let now = Instant::now();
        for RegistrationRecord { identity, instance, request } in store.registrations()? {
            let workload = SpiffeId::parse(&identity)
                .ok()
                .zip(RegisterRequest::decode(request.as_slice()).ok())
                .and_then(|(identity, request)| read(&identity, &cluster_domain, &request).ok()?.ok());
            match workload {
                Some(workload) => leases.restore(workload, now),
                None => tracing::error!(identity, instance, "a stored registration cannot be read"),
            }
        }
        let (sender, commands) = mpsc::channel(COMMAND_QUEUE);
        let registrar = Self {
            leases,
            cluster_domain,
            commands,
            publish,
            mesh,
            store,
            unwritten: BTreeMap::new(),
            metrics,
        };
        registrar.publish_registrations();
        Ok((registrar, RegistrarHandle { commands: sender, lease }))
    }

    /// Runs until the last handle is dropped.
    pub(crate) async fn run(mut self) {
        let mut waiting = Vec::new();
        loop {
            let expiry = self.leases.next_expiry();
            tokio::select! {
                taken = self.commands.recv_many(&mut waiting, COMMAND_QUEUE) => match taken {
                    0 => return,
                    _ => self.execute(&mut waiting).await,
                },
                () = sleep_until(expiry) => self.expire().await,
                () = tokio::time::sleep(RETRY), if !self.unwritten.is_empty() => self.persist_and_publish(Vec::new()).await,
            }
        }
    }

    async fn execute(&mut self, waiting: &mut Vec<Command>) {
        let mut changes = Vec::new();
        let mut answers = Vec::new();
        let now = Instant::now();
        for command in waiting.drain(..) {
            match command {
                Command::Register { identity, stream, request, answer } => {
                    let outcome = self.register(&identity, stream, &request, now, &mut changes);
                    answers.push((answer, outcome));
                }
                Command::Ended { key, stream } => {
                    if self.leases.stream_ended(&key, stream) {
                        changes.push(removal(&key));
                    }
                }
            }
        }
        self.persist_and_publish(changes).await;
        for (answer, outcome) in answers {
            let outcome = match outcome {
                Ok(Ok(key)) if self.unwritten.contains_key(&key_text(&key)) => {
                    Err(RegistrarError::NotPersisted)
                }
                outcome => outcome,
            };
            // The stream may have ended.
            let _ = answer.send(outcome);
        }
    }

    fn register(
        &mut self,
        identity: &SpiffeId,
        stream: StreamId,
        request: &RegisterRequest,
        now: Instant,
        changes: &mut Vec<RegistrationChange>,
    ) -> RegisterResult {
        let workload =
            match read(identity, &self.cluster_domain, request).map_err(RegistrarError::Malformed)? {
                Ok(workload) => workload,
                Err(refusals) => return Ok(Err(self.refuse(identity, refusals))),
            };
        let key = workload.key.clone();
        let mesh = Arc::clone(&self.mesh.borrow());
        let known = self.leases.has(&key);
        match self.leases.register(workload, stream, &mesh, now) {
            Ok(registered) => {
                changes.extend(registered.evicted.iter().map(removal));
                if registered.changed {
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
                if known && !self.leases.has(&key) {
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
        let ended = self.leases.expire(Instant::now());
        for WorkloadKey { identity, instance } in &ended {
            tracing::warn!(%identity, %instance, "lease expired: workload removed");
        }
        self.persist_and_publish(ended.iter().map(removal).collect()).await;
    }

    /// Writes the changes, then publishes the registrations.
    async fn persist_and_publish(&mut self, changes: Vec<RegistrationChange>) {
        let changed = !changes.is_empty();
        self.unwritten.extend(changes.into_iter().map(|change| (key_of(&change), change)));
        if !self.unwritten.is_empty() {
            let (store, changes) = (self.store.clone(), self.unwritten.values().cloned().collect::<Vec<_>>());
            let written = tokio::task::spawn_blocking(move || store.change_registrations(&changes)).await;
            match written {
                Ok(Ok(())) => self.unwritten.clear(),
                // The store logs its failure once.
                Ok(Err(error)) => tracing::debug!(%error, "cannot write registrations yet"),
                Err(error) => tracing::error!(%error, "cannot write registrations yet"),
            }
        }
        if changed {
            self.publish_registrations();
        }
    }

    fn publish_registrations(&self) {
        self.metrics.set_registrations(self.leases.len());
        self.publish.send_replace(self.leases.registrations().clone());
    }
}

impl RegistrarHandle {
    /// Returns the duration of a lease, which every message renews.
    pub(super) fn lease(&self) -> Duration {
        self.lease
    }

    /// Registers a workload with its complete state. Returns None if the control plane is shutting down.
    pub(super) async fn register(
        &self,
        identity: SpiffeId,
        stream: StreamId,
        request: RegisterRequest,
    ) -> Option<RegisterResult> {
        let (answer, outcome) = oneshot::channel();
        self.commands.send(Command::Register { identity, stream, request, answer }).await.ok()?;
        outcome.await.ok()
    }

    /// Waits until the control plane is shutting down.
    pub(super) async fn closed(&self) {
        self.commands.closed().await;
    }

    /// Reports the end of a stream.
    pub(super) async fn ended(&self, key: WorkloadKey, stream: StreamId) {
        let _ = self.commands.send(Command::Ended { key, stream }).await;
    }
}

fn removal(key: &WorkloadKey) -> RegistrationChange {
    let WorkloadKey { identity, instance } = key;
    RegistrationChange::Remove { identity: identity.as_str().into(), instance: instance.as_ref().into() }
}

fn key_text(WorkloadKey { identity, instance }: &WorkloadKey) -> (String, String) {
    (identity.as_str().into(), instance.as_ref().into())
}

fn key_of(change: &RegistrationChange) -> (String, String) {
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

    /// Returns a registrar whose store has instance `a` of `cart` from before a restart.
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
            Metrics::default().into(),
        )
        .unwrap();
        tokio::spawn(registrar.run());
        (handle, registrations, store)
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_restart_a_silent_workload_stays_for_a_full_lease() {
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
    async fn heartbeats_keep_a_workload_registered() {
        let directory = tempfile::tempdir().unwrap();
        let (handle, registrations, store) = restarted(directory.path());
        for _ in 0..10 {
            tokio::time::advance(LEASE / 3).await;
            assert!(handle.register(cart(), 1, request("a", 9000)).await.unwrap().unwrap().is_ok());
        }
        assert_eq!(
            (registrations.borrow().workloads().count(), store.registrations().unwrap().len()),
            (1, 1)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_registration_that_cannot_be_written_is_published_and_not_acknowledged() {
        let (directory, disk) = (tempfile::tempdir().unwrap(), Disk::default());
        let store = Store::open_with(directory.path(), disk.opener()).unwrap();
        let mesh = watch::channel(Arc::default()).1;
        let (publish, registrations) = watch::channel(Registrations::default());
        let metrics = Metrics::default().into();
        let domain = "cluster.local".into();
        let (mut registrar, handle) =
            Registrar::restore(LEASE, domain, store.clone(), mesh, publish, metrics).unwrap();
        // A known workload needs no Service.
        let known = read(&cart(), "cluster.local", &request("a", 9000)).unwrap().unwrap();
        registrar.leases.restore(known, Instant::now());
        tokio::spawn(registrar.run());
        tokio::spawn(store.clone().keep_open());

        disk.fill(true);
        let draining = RegisterRequest { drain: true, ..request("a", 9000) };
        assert_eq!(
            handle.register(cart(), 1, draining.clone()).await,
            Some(Err(RegistrarError::NotPersisted))
        );
        assert!(registrations.borrow().workloads().all(|workload| workload.draining));
        assert_eq!(
            handle.register(cart(), 2, draining.clone()).await,
            Some(Err(RegistrarError::NotPersisted))
        );

        disk.fill(false);
        while handle.register(cart(), 3, draining.clone()).await.unwrap().is_err() {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(store.registrations().unwrap().len(), 1);
    }
}
