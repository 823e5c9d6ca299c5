//! TLS to an https collector: roots and client certificate from the files that the `OTEL_*` variables name.
//!
//! Unrelated to the mesh's identities: a collector is outside the mesh and is verified by its DNS name.

use std::fmt;

use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use crate::error::Error;

/// A variable for traces and one for all signals; the first takes precedence.
type Names = [&'static str; 2];

const ROOTS: Names = ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];
const CERTIFICATES: Names =
    ["OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"];
const KEYS: Names = ["OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "OTEL_EXPORTER_OTLP_CLIENT_KEY"];

/// Roots, and optionally a client certificate with its key.
#[derive(Clone)]
pub(crate) struct Tls(ClientTlsConfig);

impl Tls {
    /// Reads the files. `first` returns the first variable that is set, with its value. Without roots the system's are used.
    /// Returns an error, with the name of the variable, if a file cannot be read or has unexpected content.
    pub(super) fn read(first: &impl Fn(Names) -> Option<(&'static str, String)>) -> Result<Self, Error> {
        let mut config = ClientTlsConfig::new();
        config = match pem(first, ROOTS)? {
            Some((_, roots)) => config.ca_certificate(Certificate::from_pem(certificates(roots)?)),
            None => config.with_native_roots(),
        };
        match (pem(first, CERTIFICATES)?, pem(first, KEYS)?) {
            (Some((_, certificate)), Some((_, key))) => {
                if PrivateKeyDer::from_pem_slice(&key.content).is_err() {
                    return Err(key.problem("holds no private key"));
                }
                let certificate = certificates(certificate)?;
                config = config.identity(Identity::from_pem(certificate, key.content));
            }
            (None, None) => {}
            (Some((name, file)), None) | (None, Some((name, file))) => {
                let other = if CERTIFICATES.contains(&name) { KEYS[1] } else { CERTIFICATES[1] };
                return Err(file.problem(&format!("requires {other}")));
            }
        }
        Ok(Self(config))
    }

    /// Returns the exporter's TLS settings.
    pub(super) fn config(&self) -> ClientTlsConfig {
        self.0.clone()
    }
}

/// Keeps the client's private key out of logs.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

/// A file that a variable names.
struct File {
    variable: &'static str,
    path: String,
    content: Vec<u8>,
}

impl File {
    fn problem(&self, problem: &str) -> Error {
        Error::Environment { variable: self.variable, problem: format!("`{}` {problem}", self.path) }
    }
}

fn pem(
    first: &impl Fn(Names) -> Option<(&'static str, String)>,
    names: Names,
) -> Result<Option<(&'static str, File)>, Error> {
    let Some((name, path)) = first(names) else { return Ok(None) };
    let mut file = File { variable: name, path, content: Vec::new() };
    match std::fs::read(&file.path) {
        Ok(content) => {
            file.content = content;
            Ok(Some((name, file)))
        }
        Err(error) => Err(file.problem(&format!("cannot be read: {error}"))),
    }
}

fn certificates(file: File) -> Result<Vec<u8>, Error> {
    let mut all = CertificateDer::pem_slice_iter(&file.content).peekable();
    if all.peek().is_none() || all.any(|certificate| certificate.is_err()) {
        return Err(file.problem("holds no certificate in PEM"));
    }
    Ok(file.content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&'static str, &str)]) -> Result<Tls, String> {
        let set = |name: &&str| files.iter().find(|(variable, _)| variable == name).copied();
        let first = |names: Names| names.iter().find_map(set).map(|(name, path)| (name, path.to_owned()));
        Tls::read(&first).map_err(|error| error.to_string())
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_variable_and_file() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/root.pem");
        let other = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        assert!(read(&[]).is_ok() && read(&[(ROOTS[1], root)]).is_ok());
        for (files, problem) in [
            (&[(ROOTS[0], "/missing")][..], "cannot be read"),
            (&[(ROOTS[1], other)], "holds no certificate"),
            (&[(CERTIFICATES[1], root)], "requires OTEL_EXPORTER_OTLP_CLIENT_KEY"),
            (&[(KEYS[0], root)], "requires OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"),
            (&[(KEYS[0], root), (CERTIFICATES[0], root)], "holds no private key"),
        ] {
            let (variable, path) = files[0];
            let error = read(files).expect_err(problem);
            assert!(
                error.starts_with(&format!("{variable}: `{path}` ")) && error.contains(problem),
                "{error}"
            );
        }
    }
}
