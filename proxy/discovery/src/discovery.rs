//! What the server crate calls: [`Discovery::start`], and the [`Handle`] that comes back.
//!
//! Everything that can fail for good fails here, before the first byte of traffic: an unwritable state directory, roots
//! that cannot be read, no way to an identity. Once started, nothing ends discovery but its handle.

use std::collections::BTreeMap;
use std::path::PathBuf;

use outrigger_config::binding::Binder;
use outrigger_config::build::Builder;
use outrigger_config::demand::DemandFeed;
use outrigger_config::kind::Kind;
use outrigger_config::publish::Published;
use outrigger_config::secrets::SecretStore;
use outrigger_core::Name;
use outrigger_core::identity::{IdentityError as NameError, SpiffeId, TrustDomain};
use thiserror::Error;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::clock::Clock;
use crate::control_plane::channel::{ChannelError, ControlPlane};
use crate::dns::{Dns, DnsError};
use crate::identity::publication::Publication;
use crate::identity::{Identity, IdentityError};
use crate::registration::{Left, Registration, RegistrationHandle, WorkloadPort};
use crate::state_dir::StateDir;
use crate::status::{Status, StatusBoard};
use crate::xds::ads;
use crate::xds::store::SharedStore;
use crate::xds::subscriptions::Mode;
use crate::xds::supervisor::Supervisor;

/// Namespace and account of every control plane, in the proxy's own trust domain.
const CONTROL_PLANE: (&str, &str) = ("outrigger-system", "control-plane");

/// Settings, as the proxy's flags give them.
#[derive(Debug, Clone)]
pub struct Config {
    /// `HOST:PORT` of the control plane.
    pub control_plane: String,
    /// PEM file of the trust roots: for the control plane, and for every peer of our trust domain.
    pub control_plane_ca: PathBuf,
    /// File of the join token. Read again for each request that needs it, so that it may be replaced.
    pub token_file: Option<PathBuf>,
    /// Directory for key, certificate and cache. Made with mode 0700 if missing.
    pub state_dir: PathBuf,
    /// Name of this instance: the xDS node, and the registration. Unique among the workloads of one identity.
    pub instance: String,
    /// Who chooses what the proxy gets.
    pub mode: Mode,
    /// The trust domain of the mesh.
    pub trust_domain: TrustDomain,
    /// Ports of the workload. Without any, nothing is registered.
    pub ports: Vec<WorkloadPort>,
    /// Labels of the workload, such as `version`.
    pub labels: BTreeMap<String, String>,
}

/// The other ends: where discovery's results go and its questions come from.
#[derive(Debug)]
pub struct Wiring {
    /// Makes snapshots of resources; has the proxy's own listeners already.
    pub builder: Builder,
    /// Where snapshots go.
    pub published: Published,
    /// What the data path asks for.
    pub demands: DemandFeed,
    /// Who binds listeners.
    pub binder: Binder,
    /// Where certificate and roots go.
    pub secrets: SecretStore,
    /// The process's resolver.
    pub dns: Dns,
}

/// Discovery: see [`Discovery::start`].
#[derive(Debug)]
pub enum Discovery {}

impl Discovery {
    /// Starts discovery on the present runtime. When it returns, what was saved is read back: identity and configuration
    /// of the last run are published, if there were any, whether or not a control plane is in reach.
    ///
    /// Fails only for what no retry can mend; the error says what and where, in one line.
    pub async fn start(config: Config, wiring: Wiring) -> Result<Handle, StartError> {
        let namespace_account = CONTROL_PLANE;
        let peer = SpiffeId::new(config.trust_domain.clone(), namespace_account.0, namespace_account.1)?;
        let control_plane = ControlPlane::new(
            &config.control_plane,
            peer,
            config.control_plane_ca.clone(),
            wiring.dns.clone(),
        )?;
        Self::start_towards(control_plane, config, wiring, Clock::default()).await
    }

    pub(crate) async fn start_towards(
        control_plane: ControlPlane,
        config: Config,
        wiring: Wiring,
        clock: Clock,
    ) -> Result<Handle, StartError> {
        let Config { token_file, state_dir, instance, mode, trust_domain, ports, labels, .. } = config;
        let Wiring { builder, published, demands, binder, secrets, dns: _ } = wiring;
        let dir = StateDir::open(&state_dir)
            .map_err(|error| StartError::StateDir { path: state_dir, reason: error.to_string() })?;
        let status = StatusBoard::default();
        let identity = Identity::open(dir.clone(), token_file, control_plane.clone(), clock)?;
        let credentials = identity.subscribe();
        let mut publication = Publication::new(secrets, trust_domain, control_plane.clone(), status.clone());
        let saved = credentials.borrow().clone();
        if let Some(credential) = saved {
            publication.publish(&credential);
        }
        let store = SharedStore::new(builder, mode);
        let (ads, events) = tokio::sync::mpsc::channel(1);
        let mut supervisor = Supervisor::new(
            &instance,
            mode,
            store.clone(),
            dir,
            published,
            demands,
            binder,
            events,
            status.clone(),
        );
        supervisor.restore().await;

        // One connection for both streams at a time.
        let (connected, channels) = watch::channel(None);
        let (registration, registration_handle) =
            Registration::new(&instance, &ports, &labels, status.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(identity.maintain(status.clone()));
        tasks.spawn(publication.maintain(credentials.clone()));
        tasks.spawn(ads::maintain(channels.clone(), ads));
        tasks.spawn(registration.maintain(channels));
        tasks.spawn(control_plane.follow(credentials, connected));
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(supervisor.run(tasks, stopped));
        Ok(Handle { status, store, registration: registration_handle, stop: Some(stop), task })
    }
}

/// Discovery at work. Dropping it stops discovery; [`Handle::shutdown`] also saves what is not saved yet.
#[derive(Debug)]
pub struct Handle {
    status: StatusBoard,
    store: SharedStore,
    registration: RegistrationHandle,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Handle {
    /// The state at this moment: for `/ready`, `/metrics`, `/config_dump`.
    pub fn status(&self) -> Status {
        self.status.read()
    }

    /// Reads the state from elsewhere, such as an admin endpoint, for as long as it likes.
    pub fn reader(&self) -> Reader {
        Reader { status: self.status.clone(), store: self.store.clone() }
    }

    /// Says whether the workload takes traffic: the listeners are bound and the application is there. False at first.
    pub fn set_ready(&self, ready: bool) {
        self.registration.ready(ready);
    }

    #[cfg(test)]
    pub(crate) fn store(&self) -> &SharedStore {
        &self.store
    }

    /// Takes the workload out of discovery, and waits until the control plane confirms, 2 s have passed, or it is not in
    /// reach. First step of a shutdown: what comes after finds nobody sending new requests here. The control plane keeps
    /// the workload as draining, and its listeners with it, until [`Handle::shutdown`].
    pub async fn drain_registration(&self) -> Left {
        self.registration.drain().await
    }

    /// Ends every task, and saves what was not saved yet.
    pub async fn shutdown(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Err(error) = self.task.await {
            tracing::error!(%error, "discovery ended badly");
        }
    }
}

/// Reads discovery's state without owning it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    status: StatusBoard,
    store: SharedStore,
}

impl Reader {
    /// As [`Handle::status`].
    pub fn status(&self) -> Status {
        self.status.read()
    }

    /// Every resource that is held, in order of kind and name. Waits for a build that is going on, off this thread.
    pub async fn resources(&self) -> Vec<ResourceVersion> {
        let versions = self.store.with(|store| {
            let all = Kind::ALL.into_iter().flat_map(|kind| {
                let held = store.accepted().of(kind).iter();
                held.map(move |(name, resource)| ResourceVersion {
                    kind,
                    name: name.clone(),
                    version: resource.raw().version.clone(),
                })
            });
            all.collect()
        });
        versions.await.unwrap_or_default()
    }
}

/// A resource that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceVersion {
    /// Its type.
    pub kind: Kind,
    /// Its name.
    pub name: Name,
    /// The version that was accepted last.
    pub version: String,
}

/// Why discovery cannot start: one line that says what and where.
#[derive(Debug, Error)]
pub enum StartError {
    /// The state directory cannot be made or written.
    #[error("state directory {path:?}: {reason}")]
    StateDir {
        /// Where.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The control plane's address or the trust roots.
    #[error(transparent)]
    ControlPlane(#[from] ChannelError),
    /// Key, certificate or token.
    #[error("identity: {0}")]
    Identity(#[from] IdentityError),
    /// The trust domain.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The resolver.
    #[error(transparent)]
    Dns(#[from] DnsError),
}
