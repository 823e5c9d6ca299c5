//! Validated settings of a control plane.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use outrigger_core::identity::{IdentityError, TrustDomain};
use thiserror::Error;

use crate::ca::authority::{MAX_TTL, ServerName};
use crate::injection::InjectionArgs;
use crate::kubernetes::client::ClusterAccess;

/// Minimum lifetime, which leaves time for a renewal.
const MIN_LIFETIME: Duration = Duration::from_secs(1);

/// Validated settings of a control plane.
#[derive(Debug, Clone)]
pub struct Settings {
    pub(super) mode: Mode,
    pub(super) listen: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) metrics: Option<SocketAddr>,
    pub(super) trust_domain: TrustDomain,
    pub(super) cluster_domain: String,
    pub(super) certificate_ttl: Duration,
    pub(super) lease: Duration,
    pub(super) issuer: Option<IssuerFiles>,
    pub(super) server_names: Vec<ServerName>,
    pub(super) webhook: Option<WebhookSettings>,
}

/// The webhook, in a cluster.
#[derive(Debug, Clone)]
pub(super) struct WebhookSettings {
    pub(super) listen: SocketAddr,
    pub(super) injection: InjectionArgs,
}

/// Where resources and workloads come from.
#[derive(Debug, Clone)]
pub(super) enum Mode {
    /// Resources from a directory; workloads register. `state_dir` has the CA, tokens, registrations and history.
    Directory { config: PathBuf, state_dir: PathBuf },
    /// Both from the API server of a cluster.
    Kubernetes(ClusterAccess),
}

/// An operator's intermediate CA.
#[derive(Debug, Clone)]
pub struct IssuerFiles {
    /// Its PEM chain, the root last.
    pub chain: PathBuf,
    /// Its PEM key.
    pub key: PathBuf,
}

/// Why a setting is invalid.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The admin address is not a loopback address.
    #[error("--admin {0}: not a loopback address")]
    Admin(SocketAddr),
    /// An invalid trust domain.
    #[error("--trust-domain: {0}")]
    TrustDomain(#[from] IdentityError),
    /// The cluster domain is not a DNS name.
    #[error("--cluster-domain {0:?}: not a DNS name in lower case")]
    ClusterDomain(String),
    /// The server name is neither a DNS name nor an address.
    #[error("--server-name {0:?}: neither a DNS name nor an IP address")]
    ServerName(String),
    /// The lifetime is too short or too long.
    #[error("--{0}: from 1s to 24h, not {1:?}")]
    Lifetime(&'static str, Duration),
    /// The CA of a cluster is not in files.
    #[error(
        "--ca-cert and --ca-key: not with --kubernetes. There, the CA is the Secret outrigger-ca of outrigger-system (tls.crt, tls.key, \
         ca.crt), which all replicas read and replace together"
    )]
    IssuerOfCluster,
}

impl Settings {
    /// Returns settings for a directory of resources, with the flags' defaults. Port 0 binds a free port.
    pub fn new(
        config: impl Into<PathBuf>,
        state_dir: impl Into<PathBuf>,
        listen: SocketAddr,
        admin: SocketAddr,
        trust_domain: &str,
    ) -> Result<Self, SettingsError> {
        let mode = Mode::Directory { config: config.into(), state_dir: state_dir.into() };
        Self::of_mode(mode, listen, admin, trust_domain)
    }

    /// Returns settings for a cluster, with the flags' defaults.
    pub fn kubernetes(
        access: ClusterAccess,
        listen: SocketAddr,
        admin: SocketAddr,
        trust_domain: &str,
    ) -> Result<Self, SettingsError> {
        Self::of_mode(Mode::Kubernetes(access), listen, admin, trust_domain)
    }

    fn of_mode(
        mode: Mode,
        listen: SocketAddr,
        admin: SocketAddr,
        trust_domain: &str,
    ) -> Result<Self, SettingsError> {
        if !admin.ip().is_loopback() {
            return Err(SettingsError::Admin(admin));
        }
        Ok(Self {
            mode,
            listen,
            admin,
            metrics: None,
            trust_domain: TrustDomain::parse(trust_domain)?,
            cluster_domain: "cluster.local".into(),
            certificate_ttl: MAX_TTL,
            lease: Duration::from_secs(30),
            issuer: None,
            server_names: Vec::new(),
            webhook: None,
        })
    }

    /// Sets the domain of service names.
    pub fn with_cluster_domain(mut self, domain: String) -> Result<Self, SettingsError> {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let label = |label: &str| !label.is_empty() && label.len() <= 63 && label.bytes().all(legal);
        if domain.len() > 253 || !domain.split('.').all(label) {
            return Err(SettingsError::ClusterDomain(domain));
        }
        self.cluster_domain = domain;
        Ok(self)
    }

    /// Sets the lifetimes of certificates and leases.
    pub fn with_lifetimes(mut self, certificate: Duration, lease: Duration) -> Result<Self, SettingsError> {
        for (flag, lifetime) in [("certificate-ttl", certificate), ("lease", lease)] {
            if !(MIN_LIFETIME..=MAX_TTL).contains(&lifetime) {
                return Err(SettingsError::Lifetime(flag, lifetime));
            }
        }
        (self.certificate_ttl, self.lease) = (certificate, lease);
        Ok(self)
    }

    /// Adds DNS names or addresses to the control plane's own certificate.
    pub fn with_server_names(mut self, names: &[String]) -> Result<Self, SettingsError> {
        let read =
            |name: &String| ServerName::parse(name).ok_or_else(|| SettingsError::ServerName(name.clone()));
        self.server_names = names.iter().map(read).collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// Serves `/metrics`, `/ready` and `/healthz` at this address too, which need not be loopback.
    pub fn with_metrics_listen(mut self, address: Option<SocketAddr>) -> Self {
        self.metrics = address;
        self
    }

    /// Serves the webhook that injects sidecars, in a cluster.
    pub fn with_webhook(mut self, listen: SocketAddr, injection: InjectionArgs) -> Self {
        let in_cluster = matches!(self.mode, Mode::Kubernetes(_));
        self.webhook = in_cluster.then_some(WebhookSettings { listen, injection });
        self
    }

    /// Signs with an operator's intermediate CA instead of a self-made root. Returns an error in a cluster: a replica that starts with
    /// another file does not have the former key, so it could only sign with one whose root no proxy trusts yet.
    pub fn with_issuer(mut self, files: IssuerFiles) -> Result<Self, SettingsError> {
        if matches!(self.mode, Mode::Kubernetes(_)) {
            return Err(SettingsError::IssuerOfCluster);
        }
        self.issuer = Some(files);
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(admin: &str, domain: &str) -> Result<Settings, SettingsError> {
        Settings::new("c", "s", "127.0.0.1:0".parse().unwrap(), admin.parse().unwrap(), domain)
    }

    #[test]
    fn invalid_settings_are_refused_by_flag() {
        let good = || settings("127.0.0.1:0", "cluster.local").unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let in_cluster = Settings::kubernetes(ClusterAccess::default(), any, any, "cluster.local").unwrap();
        let files = IssuerFiles { chain: "chain.pem".into(), key: "key.pem".into() };
        let hour = Duration::from_secs(3600);
        for (refused, text) in [
            (settings("10.0.0.1:1", "cluster.local"), "--admin 10.0.0.1:1"),
            (settings("0.0.0.0:1", "cluster.local"), "--admin 0.0.0.0:1"),
            (settings("[::1]:1", "Cluster"), "--trust-domain"),
            (good().with_cluster_domain("a..b".into()), "--cluster-domain"),
            (good().with_server_names(&["a b".into()]), "--server-name"),
            (good().with_lifetimes(Duration::ZERO, hour), "--certificate-ttl"),
            (good().with_lifetimes(hour, hour * 25), "--lease"),
            (in_cluster.with_issuer(files), "--ca-cert and --ca-key: not with --kubernetes"),
        ] {
            let refused = refused.unwrap_err().to_string();
            assert!(refused.starts_with(text), "{refused}");
        }
    }
}
