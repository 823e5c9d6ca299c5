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
use super::client::minor_version;
use crate::ca::authority::{Authority, ServerName};
use crate::injection::InjectionArgs;
use crate::listener::server_certificate::{ServerCertificate, ServerCertificateError};
use crate::metrics::Metrics;

/// Delay before a failed step of the start is repeated.
const RETRY: Duration = Duration::from_secs(1);

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
        // An upgrade of the API server comes before that of the nodes, which run the pods: it has an effect on pods when this replica is
        // started again, as when its own node is upgraded.
        let minor = kubernetes_minor(&client).await;
        let settings = injection.settings(authority.trust_domain().as_str(), &cluster_domain, minor);
        let (certificate, tls) = loop {
            match certificate(&authority, &names) {
                Ok(made) => break made,
                Err(error) => tracing::error!(%error, "the webhook has no certificate"),
            }
            tokio::time::sleep(RETRY).await;
        };
        tracing::info!(listen = ?listener.local_addr().ok(), kubernetes = minor, "the webhook serves");
        let injector = Arc::new(Injector::new(settings, metrics, leaving));
        tokio::join!(
            certificate.keep_fresh(),
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
async fn kubernetes_minor(client: &Client) -> u32 {
    loop {
        let problem = match client.apiserver_version().await {
            Ok(version) => match minor_version(&version.minor) {
                Some(minor) => return minor,
                None => format!("{:?} is no number", version.minor),
            },
            Err(error) => error.to_string(),
        };
        tracing::warn!(problem, "the minor version of the API server cannot be read");
        tokio::time::sleep(RETRY).await;
    }
}
