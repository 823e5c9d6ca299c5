//! The status of discovery, for `/ready`, `/metrics`, `/config_dump`.
//!
//! Every task of this crate updates its part; readers get a copy. No decision depends on it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use outrigger_core::identity::SpiffeId;
use outrigger_proto::kind::{Kind, PerKind};

/// A resource that cannot be used, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// A copy of the status at one moment.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The ADS stream.
    pub stream: StreamStatus,
    /// One entry per resource type; all zero for a type that was never requested.
    pub kinds: BTreeMap<Kind, KindStatus>,
    /// The workload's certificate.
    pub identity: IdentityStatus,
    /// The registration of the workload.
    pub registration: RegistrationStatus,
    /// When, and from where, configuration was first published. None if there was none; the static listeners do not count.
    pub published: Option<Published>,
    /// Why the saved configuration was not used. None if it was, or if there was none.
    pub saved_not_used: Option<String>,
    /// Snapshots published.
    pub snapshots: u64,
    /// When configuration of the mesh was last published.
    pub last_published: Option<SystemTime>,
}

/// The ADS stream.
#[derive(Debug, Clone, Default)]
pub struct StreamStatus {
    /// When the current stream was established. None if there is no stream.
    pub connected_since: Option<SystemTime>,
    /// Streams that were established.
    pub connections: u64,
    /// Streams that broke or could not be established.
    pub failures: u64,
    /// Why the last one failed.
    pub last_failure: Option<String>,
}

/// One resource type.
#[derive(Debug, Clone, Default)]
pub struct KindStatus {
    /// Subscribed names, including the wildcard.
    pub subscribed: usize,
    /// Accepted resources in memory.
    pub held: usize,
    /// Responses acknowledged.
    pub acknowledged: u64,
    /// Responses that were rejected (NACK).
    pub refused: u64,
    /// Why the last response was rejected as a whole.
    pub last_refused_response: Option<Refusal>,
    /// Resources whose newest version was refused, by name. Removed when a good version arrives or the resource is removed.
    pub refusals: BTreeMap<String, Refusal>,
}

/// A refusal, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The cause.
    pub reason: String,
    /// When it was first refused.
    pub since: SystemTime,
}

/// The workload's certificate.
#[derive(Debug, Clone, Default)]
pub struct IdentityStatus {
    /// The current certificate; None until there is one.
    pub certificate: Option<CertificateStatus>,
    /// Certificates issued to this process.
    pub issued: u64,
    /// Failed requests.
    pub failures: u64,
    /// Why the last request failed; None after a success.
    pub last_failure: Option<String>,
}

/// A certificate.
#[derive(Debug, Clone)]
pub struct CertificateStatus {
    /// Its SPIFFE ID.
    pub identity: SpiffeId,
    /// Its serial number in hexadecimal.
    pub serial: String,
    /// Start of its validity.
    pub not_before: SystemTime,
    /// End of its validity.
    pub not_after: SystemTime,
}

/// The registration of the workload.
#[derive(Debug, Clone, Default)]
pub struct RegistrationStatus {
    /// When the current registration began. None if the workload is not known to be registered.
    pub registered_since: Option<SystemTime>,
    /// How long the control plane keeps the registration without a heartbeat.
    pub lease: Option<Duration>,
    /// Ports that the control plane refused: index in the settings, and reason.
    pub refused: Vec<(usize, String)>,
    /// Streams that broke or could not be established.
    pub failures: u64,
    /// Why the last one failed.
    pub last_failure: Option<String>,
}

/// The source of the first published configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// Restored from the state directory.
    FromSaved(SystemTime),
    /// From a control plane.
    FromControlPlane(SystemTime),
}

/// The writable status, shared by the tasks.
#[derive(Debug, Clone, Default)]
pub(crate) struct StatusBoard(Arc<Mutex<Board>>);

#[derive(Debug, Default)]
struct Board {
    stream: StreamStatus,
    kinds: PerKind<KindStatus>,
    identity: IdentityStatus,
    registration: RegistrationStatus,
    published: Option<Published>,
    saved_not_used: Option<String>,
    snapshots: u64,
    last_published: Option<SystemTime>,
}

impl StatusBoard {
    pub(crate) fn read(&self) -> Status {
        self.with(|board| Status {
            stream: board.stream.clone(),
            kinds: board.kinds.iter().map(|(kind, status)| (kind, status.clone())).collect(),
            identity: board.identity.clone(),
            registration: board.registration.clone(),
            published: board.published,
            saved_not_used: board.saved_not_used.clone(),
            snapshots: board.snapshots,
            last_published: board.last_published,
        })
    }

    pub(crate) fn connected(&self) {
        self.with(|board| {
            board.stream.connected_since = Some(SystemTime::now());
            board.stream.connections += 1;
        });
    }

    pub(crate) fn disconnected(&self, reason: String) {
        self.with(|board| {
            board.stream.connected_since = None;
            board.stream.failures += 1;
            board.stream.last_failure = Some(reason);
        });
    }

    pub(crate) fn subscribed(&self, kind: Kind, names: usize) {
        self.with(|board| board.kinds[kind].subscribed = names);
    }

    pub(crate) fn held(&self, kind: Kind, resources: usize) {
        self.with(|board| board.kinds[kind].held = resources);
    }

    /// Records the response to an update: what it refused, and what is now accepted or removed.
    pub(crate) fn response_applied<'a>(
        &self,
        kind: Kind,
        refused: &[Refused],
        recovered: impl Iterator<Item = &'a str>,
    ) {
        let since = SystemTime::now();
        self.with(|board| {
            let status = &mut board.kinds[kind];
            if refused.is_empty() {
                status.acknowledged += 1;
            } else {
                status.refused += 1;
            }
            recovered.for_each(|name| drop(status.refusals.remove(name)));
            for Refused { name, reason } in refused {
                status.refusals.insert(name.clone(), Refusal { reason: reason.clone(), since });
            }
        });
    }

    pub(crate) fn refused_whole(&self, kind: Option<Kind>, reason: String) {
        let Some(kind) = kind else { return };
        self.with(|board| {
            board.kinds[kind].refused += 1;
            board.kinds[kind].last_refused_response = Some(Refusal { reason, since: SystemTime::now() });
        });
    }

    pub(crate) fn forget_refusals(&self, kind: Kind, wanted: impl Fn(&str) -> bool) {
        self.with(|board| board.kinds[kind].refusals.retain(|name, _| wanted(name)));
    }

    /// Records a published snapshot. `source` is None if it contains only static listeners.
    pub(crate) fn published(&self, source: Option<Published>) {
        self.with(|board| {
            board.published = board.published.or(source);
            board.snapshots += 1;
            if let Some(Published::FromSaved(at) | Published::FromControlPlane(at)) = source {
                board.last_published = Some(at);
            }
        });
    }

    pub(crate) fn saved_not_used(&self, reason: String) {
        self.with(|board| board.saved_not_used = Some(reason));
    }

    pub(crate) fn certificate(&self, certificate: CertificateStatus) {
        self.with(|board| board.identity.certificate = Some(certificate));
    }

    pub(crate) fn certificate_issued(&self) {
        self.with(|board| {
            board.identity.issued += 1;
            board.identity.last_failure = None;
        });
    }

    pub(crate) fn certificate_failed(&self, reason: String) {
        self.with(|board| {
            board.identity.failures += 1;
            board.identity.last_failure = Some(reason);
        });
    }

    pub(crate) fn registered(&self, lease: Duration) {
        self.with(|board| {
            board.registration.registered_since.get_or_insert_with(SystemTime::now);
            board.registration.lease = Some(lease);
            board.registration.refused.clear();
        });
    }

    pub(crate) fn registration_refused(&self, ports: Vec<(usize, String)>) {
        self.with(|board| board.registration.refused = ports);
    }

    pub(crate) fn registration_left(&self) {
        self.with(|board| board.registration.registered_since = None);
    }

    pub(crate) fn registration_failed(&self, reason: String) {
        self.with(|board| {
            board.registration.registered_since = None;
            board.registration.failures += 1;
            board.registration.last_failure = Some(reason);
        });
    }

    fn with<T>(&self, use_board: impl FnOnce(&mut Board) -> T) -> T {
        use_board(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
