//! Starts the control plane: binds its addresses, reads its state and configuration, then serves.
//!
//! Addresses are bound first, so that an address in use is reported at once. Connections are accepted only when the
//! model is complete; until then, they wait in the kernel's accept queue.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_proto::istio_auth::istio_certificate_service_server::IstioCertificateServiceServer;
use outrigger_proto::registration::registration_server::RegistrationServer;
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinError, JoinSet};

use super::settings::{IssuerFiles, Settings};
use crate::admin::pages::Pages;
use crate::admin::server::{Listeners, bind_socket};
use crate::admin_client::SOCKET_FILE;
use crate::ca::authority::Authority;
use crate::ca::issuer::{CertificateIssuer, IssuerError};
use crate::ca::roots::KnownRoots;
use crate::ca::service::CertificateService;
use crate::history;
use crate::listener::accept::{self, ListenerConfig};
use crate::listener::server_certificate::{ServerCertificate, ServerCertificateError, usual_names};
use crate::listener::services::Services;
use crate::listener::tls::{TlsError, server_config};
use crate::metrics::Metrics;
use crate::model::mesh::Mesh;
use crate::model::registration::Registrations;
use crate::registration::registrar::Registrar;
use crate::registration::service::RegistrationService;
use crate::source::assembler::{Assembler, View};
use crate::source::watch::{DirectorySource, SourceError};
use crate::state::{StateError, Store};
use crate::translate::scope;
use crate::xds::server::Server;

/// The trust roots in the state directory, for proxies' `--control-plane-ca`.
const ROOTS_FILE: &str = "roots.pem";
/// The last good versions of resources whose files are currently refused.
const LAST_GOOD_FILE: &str = "last-good.json";
/// How long streams may continue after shutdown began. Proxies reconnect to the next control plane by themselves.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);
/// Maximum size of a CSR request, and of a registration.
const MAX_MESSAGE_BYTES: usize = 256 * 1024;

/// A running control plane. Dropping it stops it at once, without a graceful shutdown.
#[derive(Debug)]
pub struct ControlPlane {
    listen: SocketAddr,
    admin: SocketAddr,
    metrics: Option<SocketAddr>,
    shutdown: Option<oneshot::Sender<()>>,
    server: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
    xds: Server,
    /// All other tasks; dropping this value aborts them.
    tasks: JoinSet<()>,
    source: DirectorySource,
}

/// Why the control plane could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address cannot be bound.
    #[error("cannot listen on {address} ({flag}): {error}{}", in_use(flag, error))]
    Listen {
        /// The flag.
        flag: &'static str,
        /// The address or path.
        address: String,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The store or the state directory is not usable.
    #[error("--state-dir: {0}")]
    State(#[from] StateError),
    /// The operator's CA or the stored CA is not usable.
    #[error("the CA: {0}")]
    Issuer(#[from] IssuerError),
    /// The configuration cannot be read.
    #[error("--config: {0}")]
    Source(#[from] SourceError),
    /// The control plane's own certificate cannot be issued.
    #[error("the control plane's certificate: {0}")]
    Certificate(#[from] ServerCertificateError),
    /// TLS cannot be configured.
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
    /// A source of configuration ended before all had been read.
    #[error("a source of configuration ended before it was synced")]
    Unsynced,
    /// A start-up step panicked.
    #[error("start-up failed: {0}")]
    Join(#[from] JoinError),
}

/// Returns what to do if another process listens on an address.
fn in_use(flag: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("; another process listens there: stop it, or give {flag} another address")
        }
        _ => String::new(),
    }
}

impl ControlPlane {
    /// Starts the control plane, which serves when this returns.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let (listener, admin_listener) =
            (bind("--listen", settings.listen).await?, bind("--admin", settings.admin).await?);
        let metrics_listener = match settings.metrics {
            Some(address) => Some(bind("--metrics-listen", address).await?),
            None => None,
        };
        let (listen, admin) = (listener.local_addr()?, admin_listener.local_addr()?);
        let metrics_address = metrics_listener.as_ref().map(TcpListener::local_addr).transpose()?;

        // Disk access blocks, so it runs on a blocking thread.
        let read = settings.clone();
        let LoadedState { store, authority, assembler, source, socket } =
            tokio::task::spawn_blocking(move || load(&read)).await??;
        let metrics = Arc::new(Metrics::default());
        let mut tasks = JoinSet::new();

        let view = assembler.synced().await.ok_or(StartError::Unsynced)?;
        let configured = Arc::clone(&view.borrow().mesh);
        let (publish_mesh, mesh) = watch::channel(configured);
        let (publish_registrations, registrations) = watch::channel(Registrations::default());
        let (registrar, handle) = Registrar::restore(
            settings.lease,
            settings.cluster_domain.as_str().into(),
            store.clone(),
            mesh.clone(),
            publish_registrations,
            Arc::clone(&metrics),
        )?;
        let domains = scope::MeshSettings {
            cluster_domain: settings.cluster_domain.as_str().into(),
            trust_domain: settings.trust_domain,
        };
        let xds = Server::new(domains, Arc::clone(&metrics));
        let publisher =
            MeshPublisher { view: view.clone(), registrations, xds: xds.clone(), publish: publish_mesh };
        let mut publisher = publisher.reassemble().await?;
        tasks.spawn(registrar.run());
        tasks.spawn(store.clone().keep_open());
        tasks.spawn(async move {
            while publisher.changed().await {
                publisher = match publisher.reassemble().await {
                    Ok(publisher) => publisher,
                    Err(error) => return tracing::error!(%error, "the mesh is no longer updated"),
                };
            }
        });

        let usual = usual_names(listen.ip());
        let certificate = ServerCertificate::new(Arc::clone(&authority), &settings.server_names, &usual)?;
        let certificate = Arc::new(certificate);
        let tls = Arc::new(server_config(Arc::clone(&certificate), &authority.roots())?);
        tasks.spawn(async move { certificate.keep_fresh().await });

        let trust_domain = authority.trust_domain().clone();
        let pages = Pages {
            trust_domain: trust_domain.clone(),
            view,
            mesh: mesh.clone(),
            xds: xds.clone(),
            store: store.clone(),
            metrics: Arc::clone(&metrics),
            ca_not_after: authority.not_after(),
        };
        let admin_listeners = Listeners { loopback: admin_listener, socket, public: metrics_listener };
        tasks.spawn(admin_listeners.serve(pages.into()));

        let ca = CertificateService::new(authority, store, Arc::clone(&metrics));
        let registration = RegistrationService::new(handle, mesh, Arc::clone(&metrics));
        let services = Services::default()
            .with(xds.service())
            .with(IstioCertificateServiceServer::new(ca).max_decoding_message_size(MAX_MESSAGE_BYTES))
            .with(RegistrationServer::new(registration).max_decoding_message_size(MAX_MESSAGE_BYTES));
        let port = ListenerConfig { tls, trust_domain, metrics };
        let (shutdown, ended) = oneshot::channel();
        let ended = async move { drop(ended.await) };
        let server = tokio::spawn(accept::serve(listener, port, services, ended));
        Ok(Self {
            listen,
            admin,
            metrics: metrics_address,
            shutdown: Some(shutdown),
            server,
            xds,
            tasks,
            source,
        })
    }

    /// Returns the address that proxies connect to.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Returns the address of the admin pages.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Returns the address for scrapers and probes.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// Waits until the server fails. It does not end otherwise.
    pub async fn failed(&mut self) -> String {
        match (&mut self.server).await {
            Ok(Ok(())) => "it ended".into(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Shuts down: accepts no more connections, ends the streams, gives running calls a second, and releases the state.
    pub async fn shut_down(mut self) {
        drop(self.shutdown.take());
        self.xds.close();
        // Dropping the registrar ends the registration streams too.
        self.tasks.shutdown().await;
        if tokio::time::timeout(SHUTDOWN_GRACE, &mut self.server).await.is_err() {
            self.server.abort();
        }
        let source = self.source;
        // Waits for the thread, which may be reading files.
        let _ = tokio::task::spawn_blocking(move || drop(source)).await;
    }
}

struct LoadedState {
    store: Store,
    authority: Arc<Authority>,
    assembler: Assembler,
    source: DirectorySource,
    socket: UnixListener,
}

/// Loads the store, the CA and the configuration from disk. Writes the trust roots and the socket that others use.
fn load(settings: &Settings) -> Result<LoadedState, StartError> {
    let Settings { state_dir, trust_domain, certificate_ttl, issuer, config, .. } = settings;
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
    let source =
        DirectorySource::start(config.clone(), state_dir.join(LAST_GOOD_FILE), assembler.add_source())?;
    let path: PathBuf = state_dir.join(SOCKET_FILE);
    let socket = bind_socket(&path).map_err(|error| StartError::Listen {
        flag: "--state-dir",
        address: path.display().to_string(),
        error,
    })?;
    Ok(LoadedState { store, authority, assembler, source, socket })
}

async fn bind(flag: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let failed = |error| StartError::Listen { flag, address: address.to_string(), error };
    TcpListener::bind(address).await.map_err(failed)
}

/// Assembles the mesh from the configuration and the registrations, and publishes it.
struct MeshPublisher {
    view: watch::Receiver<View>,
    registrations: watch::Receiver<Registrations>,
    xds: Server,
    publish: watch::Sender<Arc<Mesh>>,
}

impl MeshPublisher {
    /// Waits until either part changes. Returns false if one of them has ended.
    async fn changed(&mut self) -> bool {
        let changed = tokio::select! {
            changed = self.view.changed() => changed,
            changed = self.registrations.changed() => changed,
        };
        changed.is_ok()
    }

    /// Reassembles and publishes the mesh. xDS gets it before the other receivers, so that a caller that waits for a
    /// workload to leave the mesh knows that xDS no longer serves it.
    async fn reassemble(mut self) -> Result<Self, JoinError> {
        let registrations = self.registrations.borrow_and_update().clone();
        let configured = Arc::clone(&self.view.borrow_and_update().mesh);
        // In a large mesh, finding the affected viewers is slow, and so is dropping the previous mesh.
        tokio::task::spawn_blocking(move || {
            let mesh = Arc::new(configured.with_registrations(registrations));
            self.xds.publish(Arc::clone(&mesh));
            drop(self.publish.send_replace(mesh));
            self
        })
        .await
    }
}
