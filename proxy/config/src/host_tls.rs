//! TLS to a host outside the mesh (`UpstreamTlsContext` with a `validation_context` of its own): verified by its DNS name, and without a
//! certificate of the workload.

use std::sync::{Arc, LazyLock};

use outrigger_core::Name;
use outrigger_policy::field::{Unusable, flag, non_empty, required, unsupported_any};
use outrigger_proto::xds::tls::common_tls_context::ValidationContextType;
use outrigger_proto::xds::{core, matcher, tls as wire_tls};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName};

use crate::common_tls::CommonTls;

/// TLS to a host outside the mesh.
#[derive(Debug, Clone)]
pub struct HostTls {
    /// The name that is sent in the ClientHello and that the host's certificate must have.
    pub name: Name,
    /// ALPN protocols that may be offered.
    pub alpn: Box<[Name]>,
    /// Whether version 1.2 is accepted too.
    pub accepts_tls12: bool,
    /// The roots that may certify it. Empty if the machine has none.
    pub roots: Arc<RootCertStore>,
    source: RootSource,
}

/// Where roots come from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum RootSource {
    /// The machine (`system_root_certs`).
    System,
    /// The configuration (`trusted_ca`), in PEM.
    Pem(Box<[u8]>),
}

impl HostTls {
    /// Decodes the settings. `sni` is that of the `UpstreamTlsContext`.
    pub(crate) fn decode(wire: wire_tls::CommonTlsContext, sni: String) -> Result<Self, Unusable> {
        let CommonTls { tls_params, certificates, alpn, validation } = CommonTls::decode(wire)?;
        unsupported_any(&[("tls_certificate_sds_secret_configs", !certificates.is_empty())])?;
        let Some(ValidationContextType::ValidationContext(validation)) = validation else {
            return Err(Unusable::new("validation_context", "is required"));
        };
        let name = non_empty("sni", sni)?;
        DnsName::try_from(name.as_str()).map_err(|_| Unusable::new("sni", "is not a DNS name"))?;
        let accepts_tls12 =
            accepts_tls12(tls_params.unwrap_or_default()).map_err(|bad| bad.within("tls_params"))?;
        let (source, roots) = roots(validation, &name).map_err(|bad| bad.within("validation_context"))?;
        Ok(Self { name: name.into(), alpn, accepts_tls12, roots, source })
    }
}

impl PartialEq for HostTls {
    fn eq(&self, other: &Self) -> bool {
        let Self { name, alpn, accepts_tls12, roots: _, source } = self; // the roots follow from the source
        (name, alpn, accepts_tls12, source) == (&other.name, &other.alpn, &other.accepts_tls12, &other.source)
    }
}

impl Eq for HostTls {}

fn accepts_tls12(wire: wire_tls::TlsParameters) -> Result<bool, Unusable> {
    use wire_tls::tls_parameters::TlsProtocol;
    let wire_tls::TlsParameters {
        tls_minimum_protocol_version,
        tls_maximum_protocol_version,
        cipher_suites,
        ecdh_curves,
        signature_algorithms,
        compliance_policies,
    } = wire;
    unsupported_any(&[
        ("cipher_suites", !cipher_suites.is_empty()),
        ("ecdh_curves", !ecdh_curves.is_empty()),
        ("signature_algorithms", !signature_algorithms.is_empty()),
        ("compliance_policies", !compliance_policies.is_empty()),
    ])?;
    let maximum = TlsProtocol::try_from(tls_maximum_protocol_version);
    if !matches!(maximum, Ok(TlsProtocol::TlsAuto | TlsProtocol::TlSv13)) {
        return Err(Unusable::new("tls_maximum_protocol_version", "must be TLSv1_3"));
    }
    // Older versions are not spoken, whatever the minimum is.
    Ok(!matches!(TlsProtocol::try_from(tls_minimum_protocol_version), Ok(TlsProtocol::TlSv13)))
}

/// Returns the roots, if the certificate must have the name that is sent.
#[allow(deprecated)] // a deprecated form must be rejected by its name
fn roots(
    wire: wire_tls::CertificateValidationContext,
    name: &str,
) -> Result<(RootSource, Arc<RootCertStore>), Unusable> {
    let wire_tls::CertificateValidationContext {
        trusted_ca,
        ca_certificate_provider_instance,
        system_root_certs,
        watched_directory,
        verify_certificate_spki,
        verify_certificate_hash,
        match_typed_subject_alt_names,
        match_subject_alt_names,
        require_signed_certificate_timestamp,
        crl,
        allow_expired_certificate,
        trust_chain_verification,
        custom_validator_config,
        only_verify_leaf_cert_crl: _, // applies only to revocation lists, which are refused
        max_verify_depth,
        suppress_client_ca_list: _, // for servers
    } = wire;
    unsupported_any(&[
        ("ca_certificate_provider_instance", ca_certificate_provider_instance.is_some()),
        ("watched_directory", watched_directory.is_some()),
        ("verify_certificate_spki", !verify_certificate_spki.is_empty()),
        ("verify_certificate_hash", !verify_certificate_hash.is_empty()),
        ("match_subject_alt_names", !match_subject_alt_names.is_empty()),
        ("require_signed_certificate_timestamp", flag(require_signed_certificate_timestamp)),
        ("crl", crl.is_some()),
        ("allow_expired_certificate", allow_expired_certificate),
        ("trust_chain_verification", trust_chain_verification != 0),
        ("custom_validator_config", custom_validator_config.is_some()),
        ("max_verify_depth", max_verify_depth.is_some()),
    ])?;
    check_names(match_typed_subject_alt_names, name)?;
    // `trusted_ca` comes before the roots of the machine, as the message says.
    match (trusted_ca, system_root_certs) {
        (Some(source), _) => {
            let pem = inline(source).map_err(|bad| bad.within("trusted_ca"))?;
            let roots = of_pem(&pem).map_err(|problem| Unusable::new("trusted_ca", problem))?;
            Ok((RootSource::Pem(pem.into()), Arc::new(roots)))
        }
        (None, Some(wire_tls::certificate_validation_context::SystemRootCerts {})) => {
            Ok((RootSource::System, of_system()))
        }
        (None, None) => Err(Unusable::new("trusted_ca", "is required, or system_root_certs")),
    }
}

fn check_names(wire: Vec<wire_tls::SubjectAltNameMatcher>, name: &str) -> Result<(), Unusable> {
    use matcher::string_matcher::MatchPattern;
    use wire_tls::subject_alt_name_matcher::SanType;
    let other = || {
        let problem = "must be one exact DNS name, that of sni: another host could answer for this one";
        Unusable::new("match_typed_subject_alt_names", problem)
    };
    let [wire_tls::SubjectAltNameMatcher { san_type, matcher, oid: _ }] = &wire[..] else {
        return Err(other());
    };
    match matcher {
        Some(matcher::StringMatcher { ignore_case: _, match_pattern: Some(MatchPattern::Exact(exact)) })
            if *san_type == SanType::Dns as i32 && exact.eq_ignore_ascii_case(name) =>
        {
            Ok(())
        }
        _ => Err(other()),
    }
}

fn inline(wire: core::DataSource) -> Result<Vec<u8>, Unusable> {
    use core::data_source::Specifier;
    let core::DataSource { watched_directory, specifier } = wire;
    unsupported_any(&[("watched_directory", watched_directory.is_some())])?;
    match required("specifier", specifier)? {
        Specifier::InlineString(text) => Ok(text.into_bytes()),
        Specifier::InlineBytes(bytes) => Ok(bytes),
        // A control plane does not name files of this machine.
        Specifier::Filename(_) => Err(Unusable::new("filename", "is not supported")),
        Specifier::EnvironmentVariable(_) => Err(Unusable::new("environment_variable", "is not supported")),
    }
}

fn of_pem(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|bad| format!("is not PEM: {bad}"))?;
        roots.add(certificate).map_err(|bad| format!("has a certificate that cannot be used: {bad}"))?;
    }
    if roots.is_empty() { Err("has no certificate".into()) } else { Ok(roots) }
}

/// Returns the roots of the machine, or of the file that `SSL_CERT_FILE` names, as they were when they were first needed. Without any,
/// connections fail and say so.
fn of_system() -> Arc<RootCertStore> {
    static ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    Arc::clone(&ROOTS)
}

#[cfg(test)]
mod tests {
    use outrigger_proto::xds::tls::common_tls_context::ValidationContextType;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    fn certificate() -> String {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    fn validation(pem: &str, name: &str) -> wire_tls::CertificateValidationContext {
        use wire_tls::subject_alt_name_matcher::SanType;
        let specifier = Some(core::data_source::Specifier::InlineString(pem.into()));
        let match_pattern = Some(matcher::string_matcher::MatchPattern::Exact(name.into()));
        wire_tls::CertificateValidationContext {
            trusted_ca: Some(core::DataSource { specifier, ..Default::default() }),
            match_typed_subject_alt_names: vec![wire_tls::SubjectAltNameMatcher {
                san_type: SanType::Dns as i32,
                matcher: Some(matcher::StringMatcher { match_pattern, ..Default::default() }),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    fn decode(validation: wire_tls::CertificateValidationContext, sni: &str) -> Result<HostTls, Unusable> {
        let common = wire_tls::CommonTlsContext {
            alpn_protocols: vec!["http/1.1".into()],
            validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
            ..Default::default()
        };
        HostTls::decode(common, sni.into())
    }

    #[test]
    fn a_host_is_known_by_its_name_under_roots_of_the_configuration_or_of_the_machine() {
        let pem = certificate();
        let own = decode(validation(&pem, "issuer.example"), "issuer.example").unwrap();
        assert_eq!((&*own.name, own.roots.len(), own.accepts_tls12), ("issuer.example", 1, true));
        assert_eq!(decode(validation(&pem, "issuer.example"), "issuer.example").unwrap(), own);
        let system = wire_tls::CertificateValidationContext {
            trusted_ca: None,
            system_root_certs: Some(Default::default()),
            ..validation("", "issuer.example")
        };
        assert_ne!(decode(system, "issuer.example").unwrap(), own);
    }

    #[test]
    fn what_would_accept_another_host_is_refused() {
        let pem = certificate();
        let refused = |validation, sni: &str| decode(validation, sni).unwrap_err().field;
        let names = "validation_context.match_typed_subject_alt_names";
        assert_eq!(refused(validation(&pem, "other.example"), "issuer.example"), names);
        let none = wire_tls::CertificateValidationContext {
            match_typed_subject_alt_names: Vec::new(),
            ..validation(&pem, "a")
        };
        assert_eq!(refused(none, "a"), names);
        assert_eq!(refused(validation(&pem, ""), ""), "sni");
        assert_eq!(refused(validation(&pem, "10.0.0.1"), "10.0.0.1"), "sni");
        let none = wire_tls::CertificateValidationContext { trusted_ca: None, ..validation("", "a") };
        assert_eq!(refused(none, "a"), "validation_context.trusted_ca");
        for pem in ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert_eq!(refused(validation(pem, "a"), "a"), "validation_context.trusted_ca", "{pem}");
        }
        let expired = wire_tls::CertificateValidationContext {
            allow_expired_certificate: true,
            ..validation(&pem, "a")
        };
        assert_eq!(refused(expired, "a"), "validation_context.allow_expired_certificate");
    }
}
