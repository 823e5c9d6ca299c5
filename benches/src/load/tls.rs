//! TLS of the load's connections, from the files that the arguments name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::accept_all::AcceptAll;
use super::spec::Tls;

/// Which certificates are used and accepted.
#[derive(Debug, Clone, Args)]
pub(super) struct TlsFiles {
    /// The certificates that may sign the server's (PEM). Without it, those of the system.
    #[arg(long, value_name = "FILE")]
    ca_cert: Option<PathBuf>,
    /// The client's certificate with its chain (PEM).
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The client's private key (PEM).
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Accepts every server certificate.
    #[arg(long, conflicts_with = "ca_cert")]
    insecure: bool,
    /// The name that the server's certificate must have, if it is not the URL's host.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Application protocols that are offered (ALPN), in place of those of the URL's scheme.
    #[arg(long, value_delimiter = ',', value_name = "PROTOCOL")]
    alpn: Vec<String>,
}

impl TlsFiles {
    /// Returns true if any flag is given.
    pub(super) fn is_given(&self) -> bool {
        let files = [&self.ca_cert, &self.cert, &self.key];
        files.iter().any(|file| file.is_some())
            || self.insecure
            || self.server_name.is_some()
            || !self.alpn.is_empty()
    }

    /// Reads the files. Returns an error that names the file or the name that cannot be used.
    pub(super) fn load(&self, host: &str, alpn: &[&str]) -> Result<Tls, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let name = self.server_name.as_deref().unwrap_or(host).trim_matches(['[', ']']);
        let server_name =
            ServerName::try_from(name.to_owned()).map_err(|error| format!("{name}: {error}"))?;
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match self.insecure {
            true => builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAll(provider))),
            false => builder.with_root_certificates(self.roots()?),
        };
        let mut config = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| format!("{}: {error}", key.display()))?;
                builder
                    .with_client_auth_cert(certificates(cert)?, key)
                    .map_err(|error| format!("{}: {error}", cert.display()))?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = match self.alpn.is_empty() {
            true => alpn.iter().map(|name| name.as_bytes().to_vec()).collect(),
            false => self.alpn.iter().map(|name| name.clone().into_bytes()).collect(),
        };
        // Each connection pays for a whole handshake, so that figures do not depend on which one came first.
        config.resumption = Resumption::disabled();
        Ok(Tls { config: Arc::new(config), server_name })
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        match &self.ca_cert {
            Some(file) => {
                for certificate in certificates(file)? {
                    roots.add(certificate).map_err(|error| format!("{}: {error}", file.display()))?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    return Err("the system has no CA certificates: use --ca-cert or --insecure".into());
                }
            }
        }
        Ok(roots)
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |error| format!("{}: {error}", file.display());
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(file).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)?;
    match certificates.is_empty() {
        true => Err(format!("{}: no certificate in PEM", file.display())),
        false => Ok(certificates),
    }
}

#[cfg(test)]
mod tests;
