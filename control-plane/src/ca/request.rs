//! Reads a CSR. Only its public key is used.
//!
//! Its names are compared with the identity of the caller: a CSR for another identity is an attack or a mistake, and is
//! refused instead of corrected.

use outrigger_core::identity::SpiffeId;
use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::refusal::Refusal;

/// Maximum size of a CSR. With a P-256 key it has about 500 bytes, with an RSA 8192 key about 3 KiB.
const MAX_BYTES: usize = 16 * 1024;

/// A CSR with a valid signature and an accepted key.
#[derive(Debug)]
pub(crate) struct SigningRequest {
    /// The key to certify.
    pub key: SubjectPublicKeyInfo,
    /// SHA-256 of the SubjectPublicKeyInfo, to which a join token is bound.
    pub fingerprint: [u8; 32],
    names: Vec<RequestedName>,
}

#[derive(Debug)]
enum RequestedName {
    Uri(String),
    Other(String),
}

impl SigningRequest {
    /// Reads a PEM CSR.
    pub(crate) fn read(pem: &str) -> Result<Self, Refusal> {
        if pem.len() > MAX_BYTES {
            return Err(Refusal::Malformed(format!("longer than {MAX_BYTES} bytes")));
        }
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| Refusal::Malformed(error.to_string()))?;
        let (rest, csr) = X509CertificationRequest::from_der(&der)
            .map_err(|error| Refusal::Malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(Refusal::Malformed("bytes after the end".into()));
        }
        let spki = &csr.certification_request_info.subject_pki;
        let parsed = spki.parsed().map_err(|error| Refusal::WeakKey(error.to_string()))?;
        let key = accept_key(&parsed, spki.raw)?;
        csr.verify_signature().map_err(|_| Refusal::Signature)?;
        Ok(Self { key, fingerprint: Sha256::digest(spki.raw).into(), names: names(&csr)? })
    }

    /// Returns an error if the CSR has a name that is not the caller's. No names are fine.
    pub(crate) fn check_names(&self, identity: &SpiffeId) -> Result<(), Refusal> {
        let foreign = self.names.iter().find_map(|name| match name {
            RequestedName::Uri(uri) if uri == identity.as_str() => None,
            RequestedName::Uri(name) | RequestedName::Other(name) => Some(name),
        });
        foreign.map_or(Ok(()), |name| {
            Err(Refusal::ForeignName { name: name.clone(), identity: identity.clone() })
        })
    }
}

/// Accepts P-256, P-384, Ed25519, and RSA from 2048 bits, which rustls, Envoy and Go verify.
fn accept_key(key: &PublicKey<'_>, spki: &[u8]) -> Result<SubjectPublicKeyInfo, Refusal> {
    if let PublicKey::RSA(rsa) = key
        && !(2048..=8192).contains(&rsa.key_size())
    {
        return Err(Refusal::WeakKey(format!("RSA of {} bits, not 2048 to 8192", rsa.key_size())));
    }
    let info = SubjectPublicKeyInfo::from_der(spki)
        .map_err(|_| Refusal::WeakKey("not P-256, P-384, Ed25519 or RSA".into()))?;
    let algorithm = rcgen::PublicKeyData::algorithm(&info);
    let accepted = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ];
    match accepted.contains(&algorithm) || matches!(key, PublicKey::RSA(_)) {
        true => Ok(info),
        false => Err(Refusal::WeakKey("not P-256, P-384, Ed25519 or RSA".into())),
    }
}

/// Returns all requested subject alternative names. The subject is ignored: clients of Istio's CA send an empty one or
/// their organization's, and it is not in the certificate.
fn names(csr: &X509CertificationRequest<'_>) -> Result<Vec<RequestedName>, Refusal> {
    let mut names = Vec::new();
    for extension in csr.requested_extensions().into_iter().flatten() {
        match extension {
            ParsedExtension::SubjectAlternativeName(found) => {
                names.extend(found.general_names.iter().map(|name| match name {
                    GeneralName::URI(uri) => RequestedName::Uri((*uri).into()),
                    GeneralName::DNSName(name) => RequestedName::Other(format!("the DNS name {name}")),
                    other => RequestedName::Other(format!("{other}")),
                }));
            }
            ParsedExtension::ParseError { error } => return Err(Refusal::Malformed(error.to_string())),
            // The CA decides about usage and constraints, and ignores requested ones.
            _ => {}
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn identity() -> SpiffeId {
        SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap()
    }

    fn csr(names: &[SanType], key: &KeyPair) -> String {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        params.serialize_request(key).unwrap().pem().unwrap()
    }

    fn uri(uri: &str) -> SanType {
        SanType::URI(uri.try_into().unwrap())
    }

    #[test]
    fn strong_keys_are_accepted() {
        for algorithm in [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ED25519,
            &rcgen::PKCS_RSA_SHA256,
        ] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let request = SigningRequest::read(&csr(&[uri(identity().as_str())], &key)).unwrap();
            request.check_names(&identity()).unwrap();
            let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
            assert_eq!(request.fingerprint, <[u8; 32]>::from(Sha256::digest(&spki)));
        }
    }

    #[test]
    fn unreadable_forged_and_weak_requests_are_refused() {
        let key = KeyPair::generate().unwrap();
        let good = csr(&[], &key);
        let mut der = CertificateSigningRequestDer::from_pem_slice(good.as_bytes()).unwrap().to_vec();
        let last = der.len() - 1;
        der[last] ^= 1;
        let p521 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
        for (pem, reason) in [
            (String::new(), "malformed-csr"),
            (key.serialize_pem(), "malformed-csr"),
            (good.replace("MI", "AA"), "malformed-csr"),
            ("x".repeat(MAX_BYTES + 1), "malformed-csr"),
            (pem(&der), "csr-signature"),
            (csr(&[], &p521), "weak-key"),
            (RSA_1024.into(), "weak-key"),
        ] {
            assert_eq!(SigningRequest::read(&pem).unwrap_err().reason(), reason, "{pem}");
        }
    }

    #[test]
    fn names_of_others_are_refused() {
        let key = KeyPair::generate().unwrap();
        let own = uri(identity().as_str());
        for names in [
            vec![uri("spiffe://cluster.local/ns/shop/sa/payments")],
            vec![own.clone(), uri("spiffe://other.org/ns/shop/sa/cart")],
            vec![own.clone(), SanType::DnsName("cart.shop.svc".try_into().unwrap())],
            vec![own, SanType::IpAddress([10, 0, 0, 1].into())],
        ] {
            let request = SigningRequest::read(&csr(&names, &key)).unwrap();
            assert_eq!(request.check_names(&identity()).unwrap_err().reason(), "foreign-name", "{names:?}");
        }
    }

    fn pem(der: &[u8]) -> String {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
    }

    /// Made with `openssl req -new -newkey rsa:1024 -nodes -subj /`, since rcgen refuses to.
    const RSA_1024: &str = include_str!("testdata/rsa-1024.csr");
}
