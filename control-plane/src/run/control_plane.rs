//! The whole control plane in one value: bind everything, read everything, then serve.
//!
//! Proxies that connect while sources are read wait in the kernel's queue: the port is bound early, so that a port
//! that is taken is noticed at once, and served only when the model is complete.

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
use crate::admin::pages::{Pages, Proxies};
use crate::admin::server::bind_socket;
use crate::admin_client::SOCKET;
use crate::ca::authority::Authority;
use crate::ca::issuer::{CertificateIssuer, IssuerError};
use crate::ca::service::{CertificateService, pem};
use crate::history::{HistoryError, HistoryLog};
use crate::listener::accept::{self, Port};
use crate::listener::server_certificate::{ServerCertificate, ServerCertificateError};
use crate::listener::services::Services;
use crate::listener::tls::{TlsError, server_config};
use crate::metrics::Metrics;
use crate::model::mesh::Mesh;
use crate::model::registration::Registrations;
use crate::registration::registrar::Registrar;
use crate::registration::service::RegistrationService;
use crate::source::watch::{Source, SourceError, View};
use crate::state::{StateError, Store};

/// The trust roots in the state directory, for proxies' `--control-plane-ca`.
const ROOTS: &str = "roots.pem";
/// How long streams may go on after a shutdown began. They come back to the next control plane by themselves.
const GRACE: Duration = Duration::from_secs(1);
/// The largest CSR with its metadata, and the largest registration.
const MAX_MESSAGE: usize = 256 * 1024;

/// A control plane that serves. Dropped, it ends at once, as if killed.
#[derive(Debug)]
pub struct ControlPlane {
    listen: SocketAddr,
    admin: SocketAddr,
    shutdown: Option<oneshot::Sender<()>>,
    server: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
    /// Everything else that runs; it ends with this value.
    tasks: JoinSet<()>,
    source: Source,
    history: HistoryLog,
}

/// Why it does not start: what, and where.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address that cannot be listened on.
    #[error("cannot listen on {address} ({flag}): {error}")]
    Listen {
        /// The flag.
        flag: &'static str,
        /// The address or path.
        address: String,
        /// What the system said.
        error: io::Error,
    },
    /// The store or the state directory.
    #[error("--state-dir: {0}")]
    State(#[from] StateError),
    /// The operator's CA, or the one in the store.
    #[error("the CA: {0}")]
    Issuer(#[from] IssuerError),
    /// The configuration.
    #[error("--config: {0}")]
    Source(#[from] SourceError),
    /// The control plane's own certificate.
    #[error("the control plane's certificate: {0}")]
    Certificate(#[from] ServerCertificateError),
    /// TLS.
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    /// A thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
    /// The history.
    #[error("the history: {0}")]
    History(#[from] HistoryError),
    /// A step that panicked.
    #[error("start-up failed: {0}")]
    Join(#[from] JoinError),
}

impl ControlPlane {
    /// Starts everything; when this returns, it serves.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let (listener, admin_listener) =
            (bind("--listen", settings.listen).await?, bind("--admin", settings.admin).await?);
        let (listen, admin) = (listener.local_addr()?, admin_listener.local_addr()?);

        // The disk, on a thread that may wait for it.
        let read = settings.clone();
        let Opened { store, authority, source, history, socket } =
            tokio::task::spawn_blocking(move || open(&read)).await??;
        let metrics = Arc::new(Metrics::new());
        let mut tasks = JoinSet::new();

        let view = source.view();
        let configured = Arc::clone(&view.borrow().mesh);
        let (publish_mesh, mesh) = watch::channel(configured);
        let (publish_registrations, registrations) = watch::channel(Registrations::default());
        let (registrar, handle) = Registrar::restore(
            settings.lease,
            store.clone(),
            mesh.clone(),
            publish_registrations,
            Arc::clone(&metrics),
        )?;
        publish_mesh.send_replace(merge(&view.borrow(), &registrations.borrow()));
        tasks.spawn(registrar.run());
        tasks.spawn(keep_merged(view.clone(), registrations, publish_mesh));

        let certificate = Arc::new(ServerCertificate::new(Arc::clone(&authority))?);
        let tls = Arc::new(server_config(Arc::clone(&certificate), &authority.roots())?);
        tasks.spawn(async move { certificate.keep_fresh().await });

        let trust_domain = authority.trust_domain().clone();
        let proxies: Proxies = Arc::new(Vec::new);
        let pages = Pages {
            trust_domain: trust_domain.clone(),
            view,
            mesh: mesh.clone(),
            proxies,
            store: store.clone(),
            metrics: Arc::clone(&metrics),
        };
        tasks.spawn(crate::admin::server::serve(admin_listener, socket, pages.into()));

        let ca = CertificateService::new(authority, store, Arc::clone(&metrics));
        let registration = RegistrationService::new(handle, mesh);
        let services = Services::default()
            .with(IstioCertificateServiceServer::new(ca).max_decoding_message_size(MAX_MESSAGE))
            .with(RegistrationServer::new(registration).max_decoding_message_size(MAX_MESSAGE));
        let port = Port { tls, trust_domain, metrics };
        let (shutdown, ended) = oneshot::channel();
        let ended = async move { drop(ended.await) };
        let server = tokio::spawn(accept::serve(listener, port, services, ended));
        Ok(Self { listen, admin, shutdown: Some(shutdown), server, tasks, source, history })
    }

    /// Where proxies connect.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where the admin pages are.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Waits until the server fails, which it does not by itself.
    pub async fn failed(&mut self) -> String {
        match (&mut self.server).await {
            Ok(Ok(())) => "it ended".into(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Ends: takes no more connections, gives streams a second, and writes what is still to be written.
    pub async fn shut_down(mut self) {
        drop(self.shutdown.take());
        if tokio::time::timeout(GRACE, &mut self.server).await.is_err() {
            self.server.abort();
        }
        self.tasks.shutdown().await;
        let Self { source, history, .. } = self;
        drop(source);
        // Joins the writer, whose last recorder goes with the source's thread.
        let _ = tokio::task::spawn_blocking(move || history.finish()).await;
    }
}

struct Opened {
    store: Store,
    authority: Arc<Authority>,
    source: Source,
    history: HistoryLog,
    socket: UnixListener,
}

/// What the disk has: store, CA, configuration. Leaves the roots and the socket for others to find.
fn open(settings: &Settings) -> Result<Opened, StartError> {
    let Settings { state_dir, trust_domain, certificate_ttl, issuer, config, .. } = settings;
    let store = Store::open(state_dir)?;
    let now = SystemTime::now();
    let issuer = match issuer {
        Some(IssuerFiles { chain, key }) => CertificateIssuer::from_files(chain, key, now)?,
        None => {
            let make = || {
                CertificateIssuer::make_root(trust_domain, now)
                    .map_err(|error| StateError::Damaged(format!("no root can be made: {error}")))
            };
            CertificateIssuer::from_record(&store.authority(trust_domain, make)?, now)?
        }
    };
    let authority = Arc::new(Authority::new(trust_domain.clone(), issuer, *certificate_ttl));
    let roots: String = authority.roots().values().flatten().map(pem).collect();
    crate::state::directory::replace(&state_dir.join(ROOTS), roots.as_bytes())?;
    let history = HistoryLog::start(store.clone())?;
    let source = Source::start(config.clone(), history.recorder())?;
    history.started();
    let path: PathBuf = state_dir.join(SOCKET);
    let socket = bind_socket(&path).map_err(|error| StartError::Listen {
        flag: "--state-dir",
        address: path.display().to_string(),
        error,
    })?;
    Ok(Opened { store, authority, source, history, socket })
}

async fn bind(flag: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let failed = |error| StartError::Listen { flag, address: address.to_string(), error };
    TcpListener::bind(address).await.map_err(failed)
}

/// Keeps the mesh what the configuration and the registrations make together.
async fn keep_merged(
    mut view: watch::Receiver<View>,
    mut registrations: watch::Receiver<Registrations>,
    publish: watch::Sender<Arc<Mesh>>,
) {
    loop {
        let changed = tokio::select! {
            changed = view.changed() => changed,
            changed = registrations.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        let merged = merge(&view.borrow_and_update(), &registrations.borrow_and_update());
        publish.send_replace(merged);
    }
}

fn merge(view: &View, registrations: &Registrations) -> Arc<Mesh> {
    Arc::new(view.mesh.with_registrations(registrations.clone()))
}
