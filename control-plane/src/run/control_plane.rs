//! Starts the control plane: binds its addresses, reads its state and configuration, then serves.
//!
//! Addresses are bound first, so that an address in use is reported at once. Proxies' connections are accepted only when the
//! model is complete; until then, they wait in the kernel's accept queue. The admin pages are served before, and say what is
//! missing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::istio_auth::istio_certificate_service_server::IstioCertificateServiceServer;
use outrigger_proto::registration::registration_server::RegistrationServer;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinError, JoinSet};

use super::backend::{Backend, Source, WorkloadSource};
use super::error::StartError;
use super::settings::Settings;
use crate::admin::pages::Pages;
use crate::admin::server::Listeners;
use crate::ca::service::CertificateService;
use crate::injection::Capture;
use crate::kubernetes::cni::repair;
use crate::kubernetes::replica::Replica;
use crate::kubernetes::status::{self, StatusInputs};
use crate::kubernetes::webhook::Webhook;
use crate::listener::accept::{self, ListenerConfig};
use crate::listener::server_certificate::{ServerCertificate, usual_names};
use crate::listener::services::Services;
use crate::listener::tls::server_configs;
use crate::metrics::Metrics;
use crate::model::mesh::Mesh;
use crate::model::registration::Registrations;
use crate::registration::registrar::Registrar;
use crate::registration::service::RegistrationService;
use crate::source::assembler::View;
use crate::translate::scope;
use crate::xds::server::Server;

/// How long everything is served after SIGTERM in a cluster: until no node sends new connections to this replica.
const LEAVE_TIME: Duration = Duration::from_secs(5);
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
    source: Source,
    replica: Option<Replica>,
    leaving: watch::Sender<bool>,
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
        let webhook = match &settings.webhook {
            Some(webhook) => Some((webhook.clone(), bind("--webhook-listen", webhook.listen).await?)),
            None => None,
        };
        let (listen, admin) = (listener.local_addr()?, admin_listener.local_addr()?);
        let metrics_address = metrics_listener.as_ref().map(TcpListener::local_addr).transpose()?;

        let metrics = Arc::new(Metrics::default());
        let domains = scope::MeshSettings {
            cluster_domain: settings.cluster_domain.as_str().into(),
            trust_domain: settings.trust_domain.clone(),
        };
        let xds = Server::new(domains, Arc::clone(&metrics));
        let (publish_mesh, mesh) = watch::channel(Arc::default());
        let (publish_view, view) = watch::channel(View::default());
        let (publish_registrations, registrations) = watch::channel(Registrations::default());
        let mut tasks = JoinSet::new();

        let backend = Backend::start(&settings).await?;
        let (store, pods_without_sidecar) = (backend.store(), backend.pods_without_sidecar());
        let cni = backend.cni();
        let Backend { assembler, sync, source, authority, tokens, workloads, socket, replica, server_names } =
            backend;
        let (leaving, observe_leaving) = watch::channel(false);
        let pages = Pages {
            trust_domain: authority.trust_domain().clone(),
            view,
            sync,
            mesh: mesh.clone(),
            xds: xds.clone(),
            store,
            pods_without_sidecar,
            metrics: Arc::clone(&metrics),
            authority: Arc::clone(&authority),
            leaving: observe_leaving.clone(),
        };
        let admin_listeners = Listeners { loopback: admin_listener, socket, public: metrics_listener };
        tasks.spawn(admin_listeners.serve(pages.into()));

        if let (Some((webhook, listener)), Some(replica)) = (webhook, &replica) {
            if webhook.injection.capture == Capture::Cni {
                tasks.spawn(repair::run(replica.client(), replica.leadership(), cni));
            }
            let webhook = Webhook {
                listener,
                client: replica.client(),
                authority: Arc::clone(&authority),
                names: server_names.clone(),
                injection: webhook.injection,
                cluster_domain: settings.cluster_domain.clone(),
                metrics: Arc::clone(&metrics),
                leaving: observe_leaving,
            };
            tasks.spawn(webhook.run());
        }

        let mut configured = assembler.synced().await.ok_or(StartError::Unsynced)?;
        authority.ready().await;
        let ca = CertificateService::new(Arc::clone(&authority), tokens, Arc::clone(&metrics));
        let ca = IstioCertificateServiceServer::new(ca).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let mut services = Services::default().with(xds.service()).with(ca);
        match workloads {
            WorkloadSource::Registrations(store) => {
                let (registrar, handle) = Registrar::restore(
                    settings.lease,
                    settings.cluster_domain.as_str().into(),
                    store.clone(),
                    mesh.clone(),
                    publish_registrations,
                    Arc::clone(&metrics),
                )?;
                tasks.spawn(registrar.run());
                tasks.spawn(store.clone().keep_open());
                let registration = RegistrationService::new(handle, mesh, Arc::clone(&metrics));
                services = services
                    .with(RegistrationServer::new(registration).max_decoding_message_size(MAX_MESSAGE_BYTES));
            }
            WorkloadSource::Pods(pods) => {
                let pods = pods.first(&mut configured, &publish_registrations).await;
                let pods = pods.ok_or(StartError::Unsynced)?;
                tasks.spawn(pods.run(configured.clone(), publish_registrations));
            }
        }
        if let (Source::Cluster(cluster), Some(replica)) = (&source, &replica) {
            let inputs = StatusInputs {
                routes: cluster.routes.clone(),
                view: configured.clone(),
                xds: xds.clone(),
                cluster_domain: settings.cluster_domain.as_str().into(),
            };
            tasks.spawn(status::write(replica.client(), inputs, replica.leadership()));
        }
        let publisher =
            MeshPublisher { configured, registrations, xds: xds.clone(), publish_view, publish_mesh };
        let mut publisher = publisher.reassemble().await?;
        tasks.spawn(async move {
            while publisher.changed().await {
                publisher = match publisher.reassemble().await {
                    Ok(publisher) => publisher,
                    Err(error) => return tracing::error!(%error, "the mesh is no longer updated"),
                };
            }
        });

        let usual = [usual_names(listen.ip()), server_names].concat();
        let certificate = ServerCertificate::new(Arc::clone(&authority), &settings.server_names, &usual)?;
        let certificate = Arc::new(certificate);
        let (tls, follow_roots) = server_configs(Arc::clone(&certificate), Arc::clone(&authority))?;
        tasks.spawn(follow_roots);
        tasks.spawn(async move { certificate.keep_fresh().await });
        let port = ListenerConfig { tls, trust_domain: authority.trust_domain().clone(), metrics };
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
            replica,
            leaving,
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

    /// In a cluster, keeps serving for some seconds and is not ready, so that proxies and the API server go to other replicas.
    pub async fn leave(&self) {
        if self.replica.is_some() {
            self.leaving.send_replace(true);
            tokio::time::sleep(LEAVE_TIME).await;
        }
    }

    /// Shuts down: accepts no more connections, ends the streams, gives running calls a second, and releases the state.
    pub async fn shut_down(mut self) {
        drop(self.shutdown.take());
        self.xds.close();
        if let Some(replica) = self.replica.take() {
            replica.stop().await;
        }
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

async fn bind(flag: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let failed = |error| StartError::Listen { flag, address: address.to_string(), error };
    TcpListener::bind(address).await.map_err(failed)
}

/// Assembles the mesh from the configuration and the registrations, and publishes it.
struct MeshPublisher {
    configured: watch::Receiver<View>,
    registrations: watch::Receiver<Registrations>,
    xds: Server,
    publish_view: watch::Sender<View>,
    publish_mesh: watch::Sender<Arc<Mesh>>,
}

impl MeshPublisher {
    /// Waits until either part changes. Returns false if the configuration has ended.
    async fn changed(&mut self) -> bool {
        tokio::select! {
            changed = self.configured.changed() => changed.is_ok(),
            Ok(()) = self.registrations.changed() => true,
        }
    }

    /// Reassembles and publishes the mesh. xDS gets it before the other receivers, so that a caller that waits for a
    /// workload to leave the mesh knows that xDS no longer serves it.
    async fn reassemble(mut self) -> Result<Self, JoinError> {
        let registrations = self.registrations.borrow_and_update().clone();
        let view = self.configured.borrow_and_update().clone();
        // In a large mesh, finding the affected viewers is slow, and so is dropping the previous mesh.
        tokio::task::spawn_blocking(move || {
            let mesh = Arc::new(view.mesh.with_registrations(registrations));
            self.publish_view.send_replace(view);
            self.xds.publish(Arc::clone(&mesh));
            drop(self.publish_mesh.send_replace(mesh));
            self
        })
        .await
    }
}
