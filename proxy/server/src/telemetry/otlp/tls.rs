//! TLS to an https collector: roots and client certificate from the files that the `OTEL_*` variables name.
//!
//! Unrelated to the mesh's identities: a collector is outside the mesh and is verified by its DNS name.

use std::sync::Arc;

use hyper_rustls::ConfigBuilderExt as _;
use rustls::client::WantsClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};

use super::environment::{Environment, Variable};
use crate::error::Error;
use crate::telemetry::signal::Signal;

const ROOTS: &str = "CERTIFICATE";
const CERTIFICATE: &str = "CLIENT_CERTIFICATE";
const KEY: &str = "CLIENT_KEY";

/// Reads the files of `signal`. Without roots the system's are used. Returns an error, with the name of the variable, if a file
/// cannot be read or has unexpected content.
pub(super) fn read(environment: &Environment, signal: Signal) -> Result<ClientConfig, Error> {
    let builder = match environment.otlp(signal, ROOTS) {
        Some(variable) => builder()?.with_root_certificates(roots(variable)?),
        None => builder()?.with_native_roots().map_err(|error| unusable(&error))?,
    };
    match (environment.otlp(signal, CERTIFICATE), environment.otlp(signal, KEY)) {
        (Some(certificate), Some(key)) => authenticated(builder, certificate, key),
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(one), None) => Err(one.refused(format_args!("requires OTEL_EXPORTER_OTLP_{KEY}"))),
        (None, Some(one)) => Err(one.refused(format_args!("requires OTEL_EXPORTER_OTLP_{CERTIFICATE}"))),
    }
}

/// Returns a configuration that trusts no certificate, for plaintext endpoints.
pub(super) fn none() -> Result<ClientConfig, Error> {
    Ok(builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, Error> {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))
}

fn unusable(error: &dyn std::error::Error) -> Error {
    Error::Failed(format!(
        "no TLS to the collector: {error}; OTEL_EXPORTER_OTLP_CERTIFICATE names trust roots"
    ))
}

fn roots(variable: Variable<'_>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(variable)? {
        roots.add(certificate).map_err(|error| variable.refused(format_args!("cannot be used: {error}")))?;
    }
    Ok(roots)
}

fn authenticated(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    certificate: Variable<'_>,
    key: Variable<'_>,
) -> Result<ClientConfig, Error> {
    let private = PrivateKeyDer::from_pem_slice(&content(key)?)
        .map_err(|_| key.refused("holds no private key in PEM"))?;
    builder
        .with_client_auth_cert(certificates(certificate)?, private)
        .map_err(|error| certificate.refused(format_args!("cannot be used: {error}")))
}

fn certificates(variable: Variable<'_>) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content(variable)?).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(variable.refused("holds no certificate in PEM")),
    }
}

/// Returns the content of the file that `variable` names.
fn content(variable: Variable<'_>) -> Result<Vec<u8>, Error> {
    std::fs::read(variable.value).map_err(|error| variable.refused(format_args!("cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_files(files: &[(&str, &str)]) -> Result<ClientConfig, String> {
        let variables = files.iter().map(|(name, path)| ((*name).to_owned(), (*path).to_owned()));
        read(&Environment::new(variables), Signal::Logs).map_err(|error| error.to_string())
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_variable_and_file() {
        const OURS: [&str; 3] = [
            "OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY",
        ];
        const GENERAL: [&str; 3] = [
            "OTEL_EXPORTER_OTLP_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_CLIENT_KEY",
        ];
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/root.pem");
        let other = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        assert!(read_files(&[]).is_ok() && read_files(&[(GENERAL[0], root)]).is_ok());
        for (files, problem) in [
            (&[(OURS[0], "/missing")][..], "cannot be read"),
            (&[(GENERAL[0], other)], "holds no certificate"),
            (&[(GENERAL[1], root)], "requires OTEL_EXPORTER_OTLP_CLIENT_KEY"),
            (&[(OURS[2], root)], "requires OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"),
            (&[(OURS[2], root), (OURS[1], root)], "holds no private key"),
        ] {
            let (variable, path) = files[0];
            let error = read_files(files).expect_err(problem);
            assert!(
                error.starts_with(&format!("{variable}: `{path}` ")) && error.contains(problem),
                "{error}"
            );
        }
    }
}
