//! The certificate and key that the CA signs with: its own root, created on the first start, or an operator's
//! intermediate.
//!
//! An operator's chain is verified at start-up, so that an invalid one fails there and not with every workload.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use outrigger_core::identity::TrustDomain;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::certificate::{serial, set_validity, time};
use crate::state::authority::AuthorityRecord;

/// Lifetime of a root that we create.
const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How far a root is backdated, for machines whose clocks are behind.
const ROOT_BACKDATE: Duration = Duration::from_secs(3600);

/// A signing key and its certificate chain.
pub struct CertificateIssuer {
    pub(super) issuer: Issuer<'static, KeyPair>,
    /// The issuer first, the root last.
    pub chain: Vec<CertificateDer<'static>>,
    /// The earliest end of validity in the chain, which limits all certificates.
    pub not_after: SystemTime,
}

/// Omits the key.
impl std::fmt::Debug for CertificateIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateIssuer").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// Why there is no issuer. The text names the file.
#[derive(Debug, Error)]
pub enum IssuerError {
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        error: std::io::Error,
    },
    /// Others may read the key.
    #[error("{}: the key is open to others (mode {mode:04o}); close it with chmod 600", path.display())]
    OpenToOthers {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key or the chain is invalid.
    #[error("{from}: {problem}")]
    Unusable {
        /// The file, or the store.
        from: String,
        /// What is wrong.
        problem: String,
    },
}

impl CertificateIssuer {
    /// Creates a root: ECDSA P-256, 10 years, path length 0, named after the trust domain.
    pub fn make_root(trust_domain: &TrustDomain, now: SystemTime) -> Result<AuthorityRecord, rcgen::Error> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Outrigger");
        params.distinguished_name.push(DnType::CommonName, format!("Root of {trust_domain}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial()?);
        set_validity(&mut params, now.checked_sub(ROOT_BACKDATE).unwrap_or(now), now + ROOT_LIFE);
        let certificate = params.self_signed(&key)?;
        Ok(AuthorityRecord {
            trust_domain: trust_domain.as_str().into(),
            key: key.serialize_pem(),
            chain: certificate.pem(),
        })
    }

    /// Reads a root that [`CertificateIssuer::make_root`] created.
    pub fn from_record(record: &AuthorityRecord, now: SystemTime) -> Result<Self, IssuerError> {
        Self::read(&record.chain, &record.key, now)
            .map_err(|problem| IssuerError::Unusable { from: "the CA in the store".into(), problem })
    }

    /// Reads the operator's intermediate: a PEM chain, the intermediate first and the root last, and its key.
    ///
    /// Returns an error if other users can read the key file, if the key does not match, if a certificate is not a CA or
    /// has expired, or if the chain is incomplete or does not end with a self-signed root.
    pub fn from_files(chain: &Path, key: &Path, now: SystemTime) -> Result<Self, IssuerError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error| IssuerError::Io { path, error }
        };
        let mode = std::fs::metadata(key).map_err(io(key))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(IssuerError::OpenToOthers { path: key.into(), mode });
        }
        let key_text = std::fs::read_to_string(key).map_err(io(key))?;
        let chain_text = std::fs::read_to_string(chain).map_err(io(chain))?;
        Self::read(&chain_text, &key_text, now).map_err(|problem| IssuerError::Unusable {
            from: format!("{} with {}", chain.display(), key.display()),
            problem,
        })
    }

    /// Reads an issuer from PEM: its chain and its key. `roots` complete a chain that does not end with a root.
    ///
    /// Returns what is wrong with them otherwise, as [`from_files`](Self::from_files) does.
    pub(crate) fn from_pem(
        chain: &str,
        key: &str,
        roots: &[CertificateDer<'static>],
        now: SystemTime,
    ) -> Result<Self, String> {
        let key = KeyPair::from_pem(key).map_err(|error| format!("the key cannot be read: {error}"))?;
        let mut chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| format!("the chain cannot be read: {error}"))?;
        while let Some(signer) = chain.last().and_then(|last| signer_of(last, roots))
            && !chain.contains(signer)
        {
            chain.push(signer.clone());
        }
        let not_after = check_chain(&chain, &key, now)?;
        let first = chain.first().ok_or("the chain is empty")?;
        let issuer = Issuer::from_ca_cert_der(first, key).map_err(|error| error.to_string())?;
        Ok(Self { issuer, chain, not_after })
    }

    fn read(chain: &str, key: &str, now: SystemTime) -> Result<Self, String> {
        Self::from_pem(chain, key, &[], now)
    }
}

/// Returns the certificate that signed another.
fn signer_of<'a>(
    certificate: &CertificateDer<'_>,
    candidates: &'a [CertificateDer<'static>],
) -> Option<&'a CertificateDer<'static>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    candidates.iter().find(|candidate| {
        let parsed = X509Certificate::from_der(candidate.as_ref());
        parsed.is_ok_and(|(_, signer)| {
            certificate.issuer().as_raw() == signer.subject().as_raw()
                && certificate.verify_signature(Some(signer.public_key())).is_ok()
        })
    })
}

/// Verifies the chain and returns its earliest end of validity.
fn check_chain(chain: &[CertificateDer<'_>], key: &KeyPair, now: SystemTime) -> Result<SystemTime, String> {
    let parsed: Vec<X509Certificate<'_>> = chain
        .iter()
        .map(|der| X509Certificate::from_der(der).map(|(_, certificate)| certificate))
        .collect::<Result<_, _>>()
        .map_err(|error| format!("a certificate cannot be read: {error}"))?;
    let first = parsed.first().ok_or("the chain holds no certificate")?;
    if first.public_key().raw != rcgen::PublicKeyData::subject_public_key_info(key) {
        return Err("the key is not that of the first certificate".into());
    }
    let mut earliest_end = None;
    for (index, certificate) in parsed.iter().enumerate() {
        let subject = certificate.subject();
        if !certificate.is_ca() {
            return Err(format!("certificate {index} ({subject}) is not a CA"));
        }
        let usage = certificate.key_usage().map_err(|error| error.to_string())?;
        if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(format!("certificate {index} ({subject}) may not sign certificates"));
        }
        let (begin, end) = (
            time(certificate.validity().not_before.timestamp()),
            time(certificate.validity().not_after.timestamp()),
        );
        if now < begin || now >= end {
            return Err(format!("certificate {index} ({subject}) is not valid now"));
        }
        earliest_end = Some(earliest_end.map_or(end, |earliest: SystemTime| earliest.min(end)));
        // The last certificate must be self-signed: without the root, workloads have no trust anchor.
        let signer = parsed.get(index + 1).unwrap_or(certificate);
        if certificate.issuer().as_raw() != signer.subject().as_raw()
            || certificate.verify_signature(Some(signer.public_key())).is_err()
        {
            return Err(match index + 1 == parsed.len() {
                true => format!("the chain does not end with a root: {subject} is not signed by itself"),
                false => format!("certificate {index} ({subject}) is not signed by the next"),
            });
        }
    }
    earliest_end.ok_or_else(|| "the chain holds no certificate".into())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use rcgen::Certificate;

    use super::*;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn params(name: &str, is_ca: IsCa) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = is_ca;
        set_validity(&mut params, now() - Duration::from_secs(60), now() + Duration::from_secs(3600));
        params
    }

    fn ca() -> IsCa {
        IsCa::Ca(BasicConstraints::Unconstrained)
    }

    /// A root, and a certificate with `params` that it signed, with their keys.
    fn signed(params: &CertificateParams) -> (Certificate, Certificate, KeyPair) {
        let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let root = self::params("root", ca());
        let certificate = root.self_signed(&root_key).unwrap();
        let signed = params.signed_by(&key, &Issuer::new(root, root_key)).unwrap();
        (certificate, signed, key)
    }

    #[test]
    fn an_operators_intermediate_is_accepted_with_its_root() {
        let (root, intermediate, key) = signed(&params("intermediate", ca()));
        let chain = intermediate.pem() + &root.pem();
        let issuer = CertificateIssuer::read(&chain, &key.serialize_pem(), now()).unwrap();
        assert_eq!(issuer.chain, [intermediate.der().clone(), root.der().clone()]);
        assert_eq!(issuer.not_after, now() + Duration::from_secs(3600));
    }

    #[test]
    fn a_chain_that_would_fail_later_is_refused_at_start() {
        let (root, intermediate, key) = signed(&params("intermediate", ca()));
        let (_, leaf, leaf_key) = signed(&params("leaf", IsCa::ExplicitNoCa));
        let mut mute = params("mute", ca());
        mute.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let (mute_root, mute, mute_key) = signed(&mute);
        let (other_root, _, _) = signed(&params("other", ca()));
        let other_key = KeyPair::generate().unwrap();
        let soon = Duration::from_secs(3600);
        for (chain, key, at, problem) in [
            (intermediate.pem() + &root.pem(), &other_key, now(), "the key is not that of"),
            (leaf.pem() + &root.pem(), &leaf_key, now(), "is not a CA"),
            (mute.pem() + &mute_root.pem(), &mute_key, now(), "may not sign"),
            (intermediate.pem() + &root.pem(), &key, now() + soon, "not valid now"),
            (intermediate.pem() + &root.pem(), &key, now() - soon, "not valid now"),
            (intermediate.pem(), &key, now(), "does not end with a root"),
            (intermediate.pem() + &other_root.pem(), &key, now(), "not signed by the next"),
            (String::new(), &key, now(), "no certificate"),
            (
                "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----".into(),
                &key,
                now(),
                "cannot be read",
            ),
        ] {
            let refused = CertificateIssuer::read(&chain, &key.serialize_pem(), at).unwrap_err();
            assert!(refused.contains(problem), "{refused:?} does not say {problem:?}");
        }
    }

    #[test]
    fn a_key_file_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (root, intermediate, key) = signed(&params("intermediate", ca()));
        let (chain_file, key_file) = (directory.path().join("ca.pem"), directory.path().join("ca.key"));
        std::fs::write(&chain_file, intermediate.pem() + &root.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        let read = |mode| {
            std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(mode)).unwrap();
            CertificateIssuer::from_files(&chain_file, &key_file, now())
        };
        assert!(matches!(read(0o640), Err(IssuerError::OpenToOthers { mode: 0o640, .. })));
        assert!(read(0o600).is_ok());
        let missing = CertificateIssuer::from_files(&chain_file, &directory.path().join("no.key"), now());
        assert!(missing.unwrap_err().to_string().contains("no.key"));
    }
}
