//! A certificate authority for tests.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_config::secrets::{Roots, Secrets, WorkloadIdentity};
use outrigger_config::verify::PeerVerifier;
use outrigger_core::identity::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

pub fn spiffe(account: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/{account}")).unwrap()
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    /// A TLS client that is no proxy: believes this authority, and shows what it is given.
    pub fn connector(&self, shows: Option<Secrets>) -> tokio_rustls::TlsConnector {
        let verifier = PeerVerifier::new(self.secrets("nobody").roots, None);
        let builder =
            rustls::ClientConfig::builder().dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let config = match shows {
            Some(secrets) => {
                let key = SingleCertAndKey::from(Arc::clone(&secrets.identity.key));
                builder.with_client_cert_resolver(Arc::new(key))
            }
            None => builder.with_no_client_auth(),
        };
        Arc::new(config).into()
    }

    /// A new certificate for `account`, and this authority's root.
    pub fn secrets(&self, account: &str) -> Secrets {
        let id = spiffe(account);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let certified = CertifiedKey::new(vec![leaf.der().clone()], any_supported_type(&private).unwrap());
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let by_domain = [(id.trust_domain().clone(), Arc::new(roots))].into_iter().collect();
        let now = SystemTime::now();
        Secrets {
            identity: Arc::new(WorkloadIdentity {
                id,
                key: Arc::new(certified),
                not_before: now,
                not_after: now + Duration::from_secs(3600),
                serial: "01".into(),
            }),
            roots: Arc::new(Roots { generation: 1, by_domain }),
        }
    }
}
