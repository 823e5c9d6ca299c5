//! Certificates for the peers: a CA and one SPIFFE identity of the kind that the mesh issues (ECDSA P-256), which both sides of a
//! connection use. Outrigger gets its own from its control plane.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::client_tls;
use crate::load::Tls;

/// The identity of both sides.
pub(super) const SPIFFE_ID: &str = "spiffe://cluster.local/ns/mesh/sa/peer";

/// Files in PEM.
#[derive(Debug)]
pub(crate) struct Certificates {
    pub(crate) roots: PathBuf,
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
    /// Chain and key in one file.
    pub(super) combined: PathBuf,
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

impl Certificates {
    /// Creates them in `directory`.
    pub(crate) fn create(directory: &Path) -> Result<Self, String> {
        let text = |error: rcgen::Error| format!("cannot create certificates: {error}");
        let key = KeyPair::generate().map_err(text)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named("the peers' CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key).map_err(text)?;
        let issuer = Issuer::from_params(&params, &key);

        let leaf_key = KeyPair::generate().map_err(text)?;
        let mut params =
            CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).map_err(text)?;
        // OpenSSL takes a certificate with its issuer's name for a self-signed one.
        params.distinguished_name = named("a peer");
        params.subject_alt_names.push(SanType::URI(SPIFFE_ID.try_into().map_err(text)?));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = params.signed_by(&leaf_key, &issuer).map_err(text)?;

        let write = |name: &str, pem: String| {
            let file = directory.join(name);
            std::fs::write(&file, pem).map_err(|error| format!("{}: {error}", file.display()))?;
            Ok::<_, String>(file)
        };
        Ok(Self {
            roots: write("roots.pem", root.pem())?,
            chain: write("chain.pem", leaf.pem())?,
            key: write("key.pem", leaf_key.serialize_pem())?,
            combined: write("combined.pem", leaf.pem() + &leaf_key.serialize_pem())?,
        })
    }
    /// TLS of a client with this identity.
    pub(super) fn client(&self) -> Result<Tls, String> {
        let text = |error: rustls_pki_types::pem::Error| error.to_string();
        let chain = CertificateDer::pem_file_iter(&self.chain).map_err(text)?;
        let chain = chain.collect::<Result<_, _>>().map_err(text)?;
        client_tls::client(chain, PrivateKeyDer::from_pem_file(&self.key).map_err(text)?, "localhost")
    }
}
