//! The crate's interface: [`Discovery::start`], and the [`Handle`] that it returns.
//!
//! Permanent errors are returned at start-up, before any traffic: an unwritable state directory, unreadable roots, no way to
//! obtain an identity. Once started, discovery runs until its handle stops it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use outrigger_config::binding::Binder;
use outrigger_config::build::Builder;
use outrigger_config::compiled::{Compiled, Raw};
use outrigger_config::on_demand::OnDemandFeed;
use outrigger_config::publish::Published;
use outrigger_config::secrets::SecretStore;
use outrigger_core::Name;
use outrigger_core::identity::{SpiffeId, TrustDomain};
use outrigger_proto::kind::Kind;
use thiserror::Error;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::control_plane::channel::ControlPlane;
use crate::control_plane::failure::ChannelError;
use crate::dns::{Dns, DnsError};
use crate::identity::publication::Publication;
use crate::identity::{Identity, IdentityError};
use crate::registration::{Deregistration, Registration, RegistrationHandle, WorkloadPort};
use crate::resource_json::Renderer;
use crate::state_dir::{StateDir, StateLock};
use crate::status::{Status, StatusBoard};
use crate::xds::ads;
use crate::xds::store::SharedStore;
use crate::xds::subscriptions::Mode;
use crate::xds::supervisor::Supervisor;

/// How long a start waits for the lock of the state directory.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
const LOCK_RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Settings, from the proxy's flags.
#[derive(Debug, Clone)]
pub struct Config {
    /// `HOST:PORT` of the control plane.
    pub control_plane: String,
    /// PEM file of the trust roots, for the control plane and for every peer of this trust domain.
    pub control_plane_ca: PathBuf,
    /// File of the join token. It is read for each request that needs it, so it can be replaced.
    pub token_file: Option<PathBuf>,
    /// Directory for key, certificate and cache. Created with mode 0700 if missing.
    pub state_dir: PathBuf,
    /// Name of this instance, in the xDS node and the registration. Unique among the workloads of one identity.
    pub instance: String,
    /// How destinations are chosen.
    pub mode: Mode,
    /// The trust domain of the mesh.
    pub trust_domain: TrustDomain,
    /// Ports of the workload. If empty, nothing is registered.
    pub ports: Vec<WorkloadPort>,
    /// Labels of the workload, such as `version`.
    pub labels: BTreeMap<String, String>,
}

/// The parts of the proxy that discovery reads from and writes to.
#[derive(Debug)]
pub struct Wiring {
    /// Builds snapshots from resources; already contains the static listeners.
    pub builder: Builder,
    /// Receives snapshots.
    pub published: Published,
    /// On-demand subscriptions of the data path.
    pub on_demand: OnDemandFeed,
    /// Binds listeners.
    pub binder: Binder,
    /// Receives the certificate and the roots.
    pub secrets: SecretStore,
    /// The resolver of the process.
    pub dns: Dns,
}

/// Discovery: see [`Discovery::start`].
#[derive(Debug)]
pub enum Discovery {}

impl Discovery {
    /// Starts discovery on the current runtime. When it returns, the saved identity and configuration are published, if there
    /// are any, whether or not a control plane is reachable.
    ///
    /// Returns an error only if retrying cannot fix it. The error is one line.
    pub async fn start(config: Config, wiring: Wiring) -> Result<Handle, StartError> {
        let peer = SpiffeId::control_plane(config.trust_domain.clone());
        let control_plane = ControlPlane::new(
            &config.control_plane,
            peer,
            config.control_plane_ca.clone(),
            wiring.dns.clone(),
        )?;
        Self::start_with(control_plane, config, wiring, Clock::default()).await
    }

    pub(crate) async fn start_with(
        control_plane: ControlPlane,
        config: Config,
        wiring: Wiring,
        clock: Clock,
    ) -> Result<Handle, StartError> {
        let Config { token_file, state_dir, instance, mode, trust_domain, ports, labels, .. } = config;
        let Wiring { builder, published, on_demand, binder, secrets, dns: _ } = wiring;
        let dir = StateDir::open(&state_dir)
            .map_err(|error| StartError::StateDir { path: state_dir.clone(), reason: error.to_string() })?;
        let lock = lock(&dir).await.map_err(|reason| StartError::StateDir { path: state_dir, reason })?;
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
            ads::node(&instance, mode, &labels),
            mode,
            store.clone(),
            dir,
            published,
            on_demand,
            binder,
            events,
            status.clone(),
        );
        supervisor.restore().await;

        // One connection at a time, shared by both streams.
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
        let task = tokio::spawn(async move {
            supervisor.run(tasks, stopped).await;
            drop(lock);
        });
        Ok(Handle { status, store, registration: registration_handle, stop: Some(stop), task })
    }
}

/// Locks the state directory. Waits a moment for a predecessor that is about to end. A filesystem without locks is used without
/// one.
async fn lock(dir: &StateDir) -> Result<Option<StateLock>, String> {
    let until = Instant::now() + LOCK_TIMEOUT;
    loop {
        match dir.lock() {
            Ok(Some(lock)) => return Ok(Some(lock)),
            Ok(None) if Instant::now() >= until => {
                return Err("another running proxy uses it; give each proxy a --state-dir of its own".into());
            }
            Ok(None) => tokio::time::sleep(LOCK_RETRY_INTERVAL).await,
            Err(error) => {
                tracing::warn!(%error, "the state directory cannot be locked; no other proxy may use it");
                return Ok(None);
            }
        }
    }
}

/// Running discovery. Dropping it stops discovery; [`Handle::shutdown`] also saves pending changes.
#[derive(Debug)]
pub struct Handle {
    status: StatusBoard,
    store: SharedStore,
    registration: RegistrationHandle,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Handle {
    /// Returns the current status, for `/ready`, `/metrics`, `/config_dump`.
    pub fn status(&self) -> Status {
        self.status.read()
    }

    /// Returns a reader of the status, such as for the admin endpoint.
    pub fn reader(&self) -> Reader {
        Reader { status: self.status.clone(), store: self.store.clone() }
    }

    /// Sets whether the workload is ready for traffic: its listeners are bound and its application answers. Initially false.
    pub fn set_ready(&self, ready: bool) {
        self.registration.ready(ready);
    }

    #[cfg(test)]
    pub(crate) fn store(&self) -> &SharedStore {
        &self.store
    }

    /// Removes the workload from discovery. Waits until the control plane confirms, 2 s have passed, or it is found unreachable.
    /// This is the first step of a shutdown; afterwards peers send no new requests here. The control plane keeps the workload
    /// as draining, with its listeners, until [`Handle::shutdown`].
    pub fn drain_registration(&self) -> impl Future<Output = Deregistration> + use<> {
        let registration = self.registration.clone();
        async move { registration.drain().await }
    }

    /// Ends every task and saves pending changes.
    pub async fn shutdown(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the discovery task failed");
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
    /// Returns the current status, like [`Handle::status`].
    pub fn status(&self) -> Status {
        self.status.read()
    }

    /// Returns every resource that was accepted or is still used, by kind and name. Blocks: waits for a build in progress, then
    /// renders the resources.
    pub fn resources(&self) -> Vec<AcceptedResource> {
        let (accepted, published) = {
            let store = self.store.lock();
            (store.accepted().clone(), store.published().clone())
        };
        let renderer = Renderer::new();
        let mut resources = Vec::new();
        for kind in Kind::ALL {
            let names: BTreeSet<_> = accepted.of(kind).keys().chain(published.of(kind).keys()).collect();
            resources.extend(names.into_iter().map(|name| {
                let (newest, active) = (accepted.get(kind, name), published.get(kind, name));
                let warming =
                    newest.filter(|newest| active.is_none_or(|active| !active.same_content(newest)));
                AcceptedResource {
                    kind,
                    name: name.clone(),
                    active: active.map(|resource| ResourceState::new(resource, &renderer)),
                    warming: warming.map(|resource| ResourceState::new(resource, &renderer)),
                }
            }));
        }
        resources
    }
}

/// A resource that was accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct AcceptedResource {
    /// Its type.
    pub kind: Kind,
    /// Its name.
    pub name: Name,
    /// What traffic uses; None until it is warm.
    pub active: Option<ResourceState>,
    /// What replaces it once it is warm.
    pub warming: Option<ResourceState>,
}

/// One version of a resource.
#[derive(Debug, Clone, PartialEq)]
pub struct ResourceState {
    /// The server's version.
    pub version: String,
    /// When it was received; None if that was before a restart.
    pub received: Option<SystemTime>,
    /// The message, without secrets.
    pub json: serde_json::Value,
}

impl ResourceState {
    fn new(resource: &Compiled, renderer: &Renderer) -> Self {
        let Raw { name: _, aliases: _, version, body } = resource.raw();
        Self { version: version.clone(), received: resource.received(), json: renderer.render(body) }
    }
}

/// Why discovery cannot start. Displayed as one line.
#[derive(Debug, Error)]
pub enum StartError {
    /// The state directory cannot be created or written.
    #[error("state directory {path:?}: {reason}")]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// The control plane's address or the trust roots are invalid.
    #[error(transparent)]
    ControlPlane(#[from] ChannelError),
    /// The key, certificate or token cannot be used.
    #[error("identity: {0}")]
    Identity(#[from] IdentityError),
    /// The resolver cannot be created.
    #[error(transparent)]
    Dns(#[from] DnsError),
}
