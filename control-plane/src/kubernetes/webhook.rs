//! The admission webhook that adds sidecars to pods (`POST /inject` on port 15017).
//!
//! Its certificate is signed by the CA of the mesh, and renewed in process; the API server trusts it by the CA bundle that
//! [`ca_bundle`] writes. Every replica serves it, and needs nothing for a response but the request.

mod server;
mod review;
mod ca_bundle;

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use outrigger_core::alpn;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::watch;

use self::server::Injector;
use crate::ca::authority::{Authority, ServerName};
use crate::injection::{InjectionArgs, Settings};
use crate::listener::server_certificate::{ServerCertificate, ServerCertificateError};
use crate::metrics::Metrics;

/// Delay before a failed step of the start is repeated.
const RETRY: Duration = Duration::from_secs(1);
/// How often the version of the cluster is read, which may be upgraded.
const VERSION_INTERVAL: Duration = Duration::from_secs(300);

/// The webhook of one replica.
pub(crate) struct Webhook {
    pub(crate) listener: TcpListener,
    pub(crate) client: Client,
    pub(crate) authority: Arc<Authority>,
    /// The names by which the API server calls it.
    pub(crate) names: Vec<ServerName>,
    pub(crate) injection: InjectionArgs,
    pub(crate) cluster_domain: String,
    pub(crate) metrics: Arc<Metrics>,
    /// Whether this replica will end soon.
    pub(crate) leaving: watch::Receiver<bool>,
}

impl Webhook {
    /// Serves the webhook for as long as it is polled. It waits for the CA and for the API server first.
    pub(crate) async fn run(self) {
        let Self { listener, client, authority, names, injection, cluster_domain, metrics, leaving } = self;
        authority.ready().await;
        let minor = first_minor(&client).await;
        let settings = injection.settings(authority.trust_domain().as_str(), &cluster_domain, minor);
        let (certificate, tls) = loop {
            match certificate(&authority, &names) {
                Ok(made) => break made,
                Err(error) => tracing::error!(%error, "the webhook has no certificate"),
            }
            tokio::time::sleep(RETRY).await;
        };
        tracing::info!(listen = ?listener.local_addr().ok(), kubernetes = minor, "the webhook serves");
        let (settings, current) = watch::channel(settings);
        let injector = Arc::new(Injector::new(current, metrics, leaving));
        tokio::join!(
            certificate.keep_fresh(),
            follow_upgrades(&client, settings),
            ca_bundle::maintain(client.clone(), authority),
            server::serve(listener, tls, injector),
        );
    }
}

fn certificate(
    authority: &Arc<Authority>,
    names: &[ServerName],
) -> Result<(Arc<ServerCertificate>, Arc<ServerConfig>), ServerCertificateError> {
    let certificate = Arc::new(ServerCertificate::new(Arc::clone(authority), names, &[])?);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| ServerCertificateError::Key(error.to_string()))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&certificate) as _);
    config.alpn_protocols = vec![alpn::HTTP1.into()];
    Ok((certificate, Arc::new(config)))
}

/// Returns the minor version of the cluster, once the API server answers.
async fn first_minor(client: &Client) -> u32 {
    loop {
        match kubernetes_minor(client).await {
            Ok(minor) => return minor,
            Err(error) => tracing::warn!(error, "the version of the API server cannot be read"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Reads the minor version of the cluster.
async fn kubernetes_minor(client: &Client) -> Result<u32, String> {
    let minor = client.apiserver_version().await.map_err(|error| error.to_string())?.minor;
    // A vendor may append to the number, as in `34+`.
    let number = minor.trim_end_matches(|c: char| !c.is_ascii_digit()).parse();
    number.map_err(|_| format!("the minor version {minor:?} is no number"))
}

/// Applies the version of the cluster after its upgrade, for as long as it is polled.
async fn follow_upgrades(client: &Client, settings: watch::Sender<Settings>) {
    loop {
        tokio::time::sleep(VERSION_INTERVAL).await;
        // An API server that does not answer creates no pods.
        let Ok(minor) = kubernetes_minor(client).await else { continue };
        if settings.borrow().kubernetes_minor != minor {
            tracing::info!(kubernetes = minor, "the cluster has another version");
            settings.send_modify(|settings| settings.kubernetes_minor = minor);
        }
    }
}
