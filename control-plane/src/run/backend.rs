//! What differs between the modes: where resources and workloads come from, and where the CA is kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::net::UnixListener;
use tokio::sync::watch;

use super::error::StartError;
use super::settings::{IssuerFiles, Mode, Settings};
use crate::admin::server::bind_socket;
use crate::admin_client::SOCKET_FILE;
use crate::ca::authority::{Authority, ServerName};
use crate::ca::caller::TokenVerifier;
use crate::ca::issuer::CertificateIssuer;
use crate::ca::roots::KnownRoots;
use crate::history;
use crate::kubernetes::client::{ClusterAccess, connect};
use crate::kubernetes::cni::state::CniState;
use crate::kubernetes::events;
use crate::kubernetes::pod_watch::PodWatch;
use crate::kubernetes::replica::{Replica, server_names};
use crate::kubernetes::source::ClusterSource;
use crate::source::assembler::Assembler;
use crate::source::change::ChangeEvent;
use crate::source::sync::SyncStatus;
use crate::source::watch::DirectorySource;
use crate::state::{StateError, Store};
use crate::status::PodStatus;

/// The trust roots in the state directory, for proxies' `--control-plane-ca`.
const ROOTS_FILE: &str = "roots.pem";
/// The last good versions of resources whose files are currently refused.
const LAST_GOOD_FILE: &str = "last-good.json";

/// The parts of one mode.
pub(super) struct Backend {
    pub(super) assembler: Assembler,
    pub(super) sync: SyncStatus,
    pub(super) source: Source,
    pub(super) authority: Arc<Authority>,
    /// What verifies the tokens of workloads.
    pub(super) tokens: TokenVerifier,
    pub(super) workloads: WorkloadSource,
    /// The admin socket in the state directory.
    pub(super) socket: Option<UnixListener>,
    /// This replica among others, on Kubernetes.
    pub(super) replica: Option<Replica>,
    /// Names in the control plane's own certificate, beside those that every machine has.
    pub(super) server_names: Vec<ServerName>,
}

/// The source of resources. Dropping it stops it.
#[derive(Debug)]
pub(super) enum Source {
    Directory(#[expect(dead_code, reason = "held until shutdown")] DirectorySource),
    Cluster(ClusterSource),
}

/// The source of workloads.
#[derive(Debug)]
pub(super) enum WorkloadSource {
    /// They register. The store has their registrations, tokens, and the history.
    Registrations(Store),
    /// They are pods.
    Pods(Box<PodWatch>),
}

impl Backend {
    /// Returns the pods that run without the sidecar that they are to have. On plain Linux there are none.
    pub(super) fn pods_without_sidecar(&self) -> watch::Receiver<Arc<[PodStatus]>> {
        match &self.workloads {
            WorkloadSource::Registrations(_) => watch::channel(Arc::default()).1,
            WorkloadSource::Pods(pods) => pods.without_sidecar(),
        }
    }

    /// Returns what pods are to the CNI plugin. On plain Linux there are none.
    pub(super) fn cni(&self) -> watch::Receiver<Arc<CniState>> {
        match &self.workloads {
            WorkloadSource::Registrations(_) => watch::channel(Arc::default()).1,
            WorkloadSource::Pods(pods) => pods.cni(),
        }
    }

    /// Returns the store. Returns None on Kubernetes, whose API server is the store.
    pub(super) fn store(&self) -> Option<Store> {
        match &self.workloads {
            WorkloadSource::Registrations(store) => Some(store.clone()),
            WorkloadSource::Pods(_) => None,
        }
    }

    /// Prepares the parts of the mode in `settings`. Resources are read, but not complete yet on Kubernetes.
    pub(super) async fn start(settings: &Settings) -> Result<Self, StartError> {
        match &settings.mode {
            Mode::Directory { config, state_dir } => {
                let (settings, config, state_dir) = (settings.clone(), config.clone(), state_dir.clone());
                // Disk access blocks.
                tokio::task::spawn_blocking(move || directory(&settings, config, &state_dir)).await?
            }
            Mode::Kubernetes(access) => kubernetes(settings, access).await,
        }
    }
}

/// Loads the store, the CA and the configuration from disk. Writes the trust roots and the socket that others use.
fn directory(settings: &Settings, config: PathBuf, state_dir: &Path) -> Result<Backend, StartError> {
    let Settings { trust_domain, certificate_ttl, issuer, .. } = settings;
    let known = KnownRoots::read(state_dir.join(ROOTS_FILE))?;
    if issuer.is_none() && !Store::exists(state_dir) {
        // Checked before a new store is created beside the roots of the old one.
        known.allow_new()?;
    }
    let store = Store::open(state_dir)?;
    let now = SystemTime::now();
    let own = issuer.is_none();
    let issuer = match issuer {
        Some(IssuerFiles { chain, key }) => CertificateIssuer::from_files(chain, key, now)?,
        None => {
            let make = || {
                known.allow_new()?;
                CertificateIssuer::make_root(trust_domain, now)
                    .map_err(|error| StateError::Damaged(format!("cannot create a root: {error}")))
            };
            CertificateIssuer::from_record(&store.authority(trust_domain, make)?, now)?
        }
    };
    let authority = Arc::new(Authority::new(trust_domain.clone(), issuer, *certificate_ttl));
    let roots: Vec<_> = authority.roots().into_values().flatten().collect();
    if own {
        known.allow(&roots)?;
    }
    known.replace(&roots)?;
    let mut assembler = Assembler::new(history::recorder(store.clone())?);
    let source = DirectorySource::start(config, state_dir.join(LAST_GOOD_FILE), assembler.add_source())?;
    let path: PathBuf = state_dir.join(SOCKET_FILE);
    let socket = bind_socket(&path).map_err(|error| StartError::Listen {
        flag: "--state-dir",
        address: path.display().to_string(),
        error,
    })?;
    Ok(Backend {
        assembler,
        sync: SyncStatus::default(),
        source: Source::Directory(source),
        authority,
        tokens: TokenVerifier::Join(store.clone()),
        workloads: WorkloadSource::Registrations(store),
        socket: Some(socket),
        replica: None,
        server_names: Vec::new(),
    })
}

/// Connects to the cluster.
async fn kubernetes(settings: &Settings, access: &ClusterAccess) -> Result<Backend, StartError> {
    let Settings { trust_domain, certificate_ttl, cluster_domain, .. } = settings;
    let authority = Arc::new(Authority::without_issuer(trust_domain.clone(), *certificate_ttl));
    let client = connect(access).await?;
    let (log, (send_events, pod_events, events)) = (history::logger(), events::channel());
    let mut assembler = Assembler::new(move |changes: &[ChangeEvent]| {
        log(changes);
        send_events(changes);
    });
    let sync = SyncStatus::default();
    let (source, pods) = ClusterSource::start(&client, trust_domain, assembler.add_source(), &sync)?;
    let missing_sidecars = (pods.missing_sidecars(), pod_events);
    Ok(Backend {
        workloads: WorkloadSource::Pods(Box::new(pods)),
        assembler,
        replica: Some(Replica::start(client.clone(), &authority, &sync, events, missing_sidecars)),
        sync,
        source: Source::Cluster(source),
        authority,
        tokens: TokenVerifier::kubernetes(client),
        socket: None,
        server_names: server_names(cluster_domain),
    })
}
