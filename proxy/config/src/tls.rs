//! The TLS settings of a listener or endpoint
//! (`envoy.extensions.transport_sockets.tls.v3.{DownstreamTlsContext, UpstreamTlsContext}`).
//!
//! Certificates and roots are the workload's own ([`crate::secrets`]). The data path builds rustls configurations from both.

use std::sync::Arc;

use outrigger_core::Name;
use outrigger_core::alpn;
use outrigger_core::identity::SpiffeId;
use outrigger_policy::field::{Unusable, each, flag, required, unpack, unsupported_any};
use outrigger_proto::xds::tls::common_tls_context::ValidationContextType;
use outrigger_proto::xds::{core, matcher, sds_secret, tls as wire_tls, type_url};

use crate::common_tls::CommonTls;
use crate::host_tls::HostTls;

/// Downstream TLS of a listener: version 1.3, with the workload's certificate and roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownstreamTls {
    /// ALPN protocols, in order of preference.
    pub alpn: Box<[Name]>,
    /// Whether a client certificate is requested.
    pub client_certificate: ClientCertificate,
    /// The identities that clients with a certificate may have; `None` for every identity of a trust domain with roots.
    pub peers: Option<Arc<[SpiffeId]>>,
    /// Whether clients get session tickets for resumption.
    pub tickets: bool,
}

/// Whether a client certificate is requested. A presented certificate is always verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificate {
    /// Not requested: there is nothing to verify it against.
    NotRequested,
    /// Requested, not required. A client without one has no identity.
    Optional,
    /// Required.
    Required,
}

/// Upstream TLS to an endpoint: version 1.3, with the workload's certificate and roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// ALPN protocols that may be offered: the data path offers those that suit the connection's use. If [`alpn::OPAQUE`] is
    /// among them, the endpoint is behind a sidecar.
    pub alpn: Box<[Name]>,
    /// The server name in the ClientHello.
    pub sni: Option<Name>,
    /// The identities that the server may have. Never empty: without one the certificate would prove nothing.
    pub peers: Arc<[SpiffeId]>,
}

impl UpstreamTls {
    /// Returns true if the server is a sidecar. The protocol is then the one between sidecars.
    pub fn is_mesh(&self) -> bool {
        self.alpn.iter().any(|name| &**name == alpn::OPAQUE)
    }
}

/// The other side of a connection to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Upstream {
    /// Another workload, known by its identity.
    Workload(UpstreamTls),
    /// A host outside the mesh, known by its name: the validation context has roots of its own.
    Host(HostTls),
}

/// A decoded transport socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TransportSocket<T> {
    Plain,
    Tls(T),
}

impl DownstreamTls {
    /// Decodes the transport socket of a filter chain.
    pub(crate) fn decode(wire: core::TransportSocket) -> Result<TransportSocket<Arc<Self>>, Unusable> {
        let Some(any) = typed(wire, type_url::DOWNSTREAM_TLS_CONTEXT)? else {
            return Ok(TransportSocket::Plain);
        };
        let wire_tls::DownstreamTlsContext {
            common_tls_context,
            require_client_certificate,
            require_sni,
            // Session state is kept only in the client's ticket.
            disable_stateful_session_resumption: _,
            // Sessions are resumed only within one trust bundle and the lifetime of the certificates.
            session_timeout: _,
            session_ticket_keys_type,
            // Workload certificates have no OCSP staple; their lifetime is a day at most.
            ocsp_staple_policy,
            // There is one certificate for every server name.
            full_scan_certs_on_sni_mismatch: _,
            // In TLS 1.3 the server chooses.
            prefer_client_ciphers: _,
        } = unpack(&any, type_url::DOWNSTREAM_TLS_CONTEXT)?;
        use wire_tls::downstream_tls_context::{OcspStaplePolicy, SessionTicketKeysType as Tickets};
        unsupported_any(&[
            ("require_sni", flag(require_sni)),
            ("ocsp_staple_policy", ocsp_staple_policy != OcspStaplePolicy::LenientStapling as i32),
            ("session_ticket_keys", matches!(session_ticket_keys_type, Some(Tickets::SessionTicketKeys(_)))),
            (
                "session_ticket_keys_sds_secret_config",
                matches!(session_ticket_keys_type, Some(Tickets::SessionTicketKeysSdsSecretConfig(_))),
            ),
        ])?;
        let (alpn, validation) = common(common_tls_context)?;
        let client_certificate = match (&validation, flag(require_client_certificate)) {
            (Validation::None, true) => {
                return Err(Unusable::new("common_tls_context.validation_context_type", "is required"));
            }
            (Validation::None, false) => ClientCertificate::NotRequested,
            (_, false) => ClientCertificate::Optional,
            (_, true) => ClientCertificate::Required,
        };
        let peers = match validation {
            Validation::None | Validation::Roots => None,
            Validation::Peers(peers) => Some(peers),
        };
        let tickets =
            !matches!(session_ticket_keys_type, Some(Tickets::DisableStatelessSessionResumption(true)));
        Ok(TransportSocket::Tls(Arc::new(Self { alpn, client_certificate, peers, tickets })))
    }
}

impl UpstreamTls {
    /// Decodes the transport socket of a cluster.
    #[allow(deprecated)]
    pub(crate) fn decode(wire: core::TransportSocket) -> Result<TransportSocket<Upstream>, Unusable> {
        let Some(any) = typed(wire, type_url::UPSTREAM_TLS_CONTEXT)? else {
            return Ok(TransportSocket::Plain);
        };
        let wire_tls::UpstreamTlsContext {
            common_tls_context,
            sni,
            auto_host_sni,
            auto_sni_san_validation,
            // TLS 1.3 has no renegotiation and does not depend on RSA key usage.
            allow_renegotiation: _,
            enforce_rsa_key_usage: _,
            // Maximum number of stored sessions; bounded by the data path.
            max_session_keys: _,
        } = unpack(&any, type_url::UPSTREAM_TLS_CONTEXT)?;
        unsupported_any(&[
            ("auto_host_sni", auto_host_sni),
            ("auto_sni_san_validation", auto_sni_san_validation),
        ])?;
        let common = required("common_tls_context", common_tls_context)?;
        if let Some(ValidationContextType::ValidationContext(_)) = &common.validation_context_type {
            let host = HostTls::decode(common, sni).map_err(|bad| match bad.field.as_str() {
                "sni" => bad,
                _ => bad.within("common_tls_context"),
            })?;
            return Ok(TransportSocket::Tls(Upstream::Host(host)));
        }
        let (alpn, peers) = read_common(common).map_err(|bad| bad.within("common_tls_context"))?;
        let Validation::Peers(peers) = peers else {
            let field = "common_tls_context.combined_validation_context.default_validation_context.match_typed_subject_alt_names";
            return Err(Unusable::new(field, "is required: else any workload could answer for this one"));
        };
        let sni = (!sni.is_empty()).then(|| sni.into());
        Ok(TransportSocket::Tls(Upstream::Workload(Self { alpn, sni, peers })))
    }
}

/// Returns the TLS context in a transport socket, or `None` for a raw buffer, which is plaintext.
fn typed(
    wire: core::TransportSocket,
    tls: &str,
) -> Result<Option<outrigger_proto::xds::protobuf::Any>, Unusable> {
    use core::transport_socket::ConfigType;
    // The name is informational; the type determines the socket.
    let core::TransportSocket { name: _, config_type } = wire;
    match config_type {
        Some(ConfigType::TypedConfig(any)) if any.type_url == type_url::RAW_BUFFER => Ok(None),
        Some(ConfigType::TypedConfig(any)) if any.type_url == tls => Ok(Some(any)),
        Some(ConfigType::TypedConfig(any)) => {
            Err(Unusable::new("typed_config.type_url", format_args!("{:?} is not supported", any.type_url)))
        }
        None => Err(Unusable::new("typed_config", "is required")),
    }
}

/// Which peers to accept.
enum Validation {
    /// No certificate is requested.
    None,
    /// Every identity that the roots verify.
    Roots,
    /// Only these identities.
    Peers(Arc<[SpiffeId]>),
}

fn common(wire: Option<wire_tls::CommonTlsContext>) -> Result<(Box<[Name]>, Validation), Unusable> {
    read_common(required("common_tls_context", wire)?).map_err(|bad| bad.within("common_tls_context"))
}

#[allow(deprecated)] // deprecated ways to name a certificate provider must be rejected, not overlooked
fn read_common(wire: wire_tls::CommonTlsContext) -> Result<(Box<[Name]>, Validation), Unusable> {
    let CommonTls { tls_params, certificates, alpn, validation } = CommonTls::decode(wire)?;
    if let Some(params) = tls_params {
        parameters(params).map_err(|bad| bad.within("tls_params"))?;
    }
    if certificates.len() != 1 {
        let problem = "must hold exactly the secret \"default\"";
        return Err(Unusable::new("tls_certificate_sds_secret_configs", problem));
    }
    each("tls_certificate_sds_secret_configs", certificates, |secret| {
        own_secret(secret, sds_secret::CERTIFICATE)
    })?;
    use ValidationContextType as Wire;
    let validation = match validation {
        None => Validation::None,
        Some(Wire::ValidationContextSdsSecretConfig(secret)) => {
            own_secret(secret, sds_secret::ROOTS)
                .map_err(|bad| bad.within("validation_context_sds_secret_config"))?;
            Validation::Roots
        }
        Some(Wire::CombinedValidationContext(combined)) => {
            read_combined(combined).map_err(|bad| bad.within("combined_validation_context"))?
        }
        Some(Wire::ValidationContext(_)) => {
            let problem = "is not supported: roots come as the secret \"ROOTCA\"";
            return Err(Unusable::new("validation_context", problem));
        }
        Some(Wire::ValidationContextCertificateProvider(_)) => {
            return Err(Unusable::new("validation_context_certificate_provider", "is not supported"));
        }
        Some(Wire::ValidationContextCertificateProviderInstance(_)) => {
            return Err(Unusable::new(
                "validation_context_certificate_provider_instance",
                "is not supported",
            ));
        }
    };
    Ok((alpn, validation))
}

fn parameters(wire: wire_tls::TlsParameters) -> Result<(), Unusable> {
    use wire_tls::tls_parameters::TlsProtocol;
    let wire_tls::TlsParameters {
        // TLS 1.3 is used even if a lower version is allowed.
        tls_minimum_protocol_version: _,
        tls_maximum_protocol_version,
        // For TLS 1.2 and below (Envoy ignores cipher_suites in TLS 1.3).
        cipher_suites: _,
        ecdh_curves,
        signature_algorithms,
        compliance_policies,
    } = wire;
    let maximum = TlsProtocol::try_from(tls_maximum_protocol_version);
    if !matches!(maximum, Ok(TlsProtocol::TlsAuto | TlsProtocol::TlSv13)) {
        return Err(Unusable::new("tls_maximum_protocol_version", "must be TLSv1_3"));
    }
    unsupported_any(&[
        ("ecdh_curves", !ecdh_curves.is_empty()),
        ("signature_algorithms", !signature_algorithms.is_empty()),
        ("compliance_policies", !compliance_policies.is_empty()),
    ])
}

/// Checks a reference to a secret that the proxy itself provides.
fn own_secret(wire: wire_tls::SdsSecretConfig, name: &str) -> Result<(), Unusable> {
    // Other meshes name an agent's socket as the source. Here the proxy obtains its secrets itself, whatever the source.
    let wire_tls::SdsSecretConfig { name: requested, sds_config: _ } = wire;
    if requested != name {
        return Err(Unusable::new(
            "name",
            format_args!("{requested:?} is not a secret of this proxy: {name:?} is"),
        ));
    }
    Ok(())
}

#[allow(deprecated)]
fn read_combined(
    wire: wire_tls::common_tls_context::CombinedCertificateValidationContext,
) -> Result<Validation, Unusable> {
    let wire_tls::common_tls_context::CombinedCertificateValidationContext {
        default_validation_context,
        validation_context_sds_secret_config,
        validation_context_certificate_provider,
        validation_context_certificate_provider_instance,
    } = wire;
    unsupported_any(&[
        ("validation_context_certificate_provider", validation_context_certificate_provider.is_some()),
        (
            "validation_context_certificate_provider_instance",
            validation_context_certificate_provider_instance.is_some(),
        ),
    ])?;
    let roots = required("validation_context_sds_secret_config", validation_context_sds_secret_config)?;
    own_secret(roots, sds_secret::ROOTS).map_err(|bad| bad.within("validation_context_sds_secret_config"))?;
    read_validation(default_validation_context.unwrap_or_default())
        .map_err(|bad| bad.within("default_validation_context"))
}

#[allow(deprecated)] // control planes still send `match_subject_alt_names`
fn read_validation(wire: wire_tls::CertificateValidationContext) -> Result<Validation, Unusable> {
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
        // Applies only to revocation lists, which are refused.
        only_verify_leaf_cert_crl: _,
        max_verify_depth,
        // The server never sends a list of authorities.
        suppress_client_ca_list: _,
    } = wire;
    unsupported_any(&[
        ("trusted_ca", trusted_ca.is_some()),
        ("ca_certificate_provider_instance", ca_certificate_provider_instance.is_some()),
        ("system_root_certs", system_root_certs.is_some()),
        ("watched_directory", watched_directory.is_some()),
        ("verify_certificate_spki", !verify_certificate_spki.is_empty()),
        ("verify_certificate_hash", !verify_certificate_hash.is_empty()),
        ("require_signed_certificate_timestamp", flag(require_signed_certificate_timestamp)),
        ("crl", crl.is_some()),
        ("allow_expired_certificate", allow_expired_certificate),
        ("trust_chain_verification", trust_chain_verification != 0),
        ("custom_validator_config", custom_validator_config.is_some()),
        ("max_verify_depth", max_verify_depth.is_some()),
    ])?;
    use wire_tls::subject_alt_name_matcher::SanType;
    let typed = each("match_typed_subject_alt_names", match_typed_subject_alt_names, |wire| {
        let wire_tls::SubjectAltNameMatcher { san_type, matcher, oid: _ } = wire; // an oid belongs to another type of name
        if san_type != SanType::Uri as i32 {
            return Err(Unusable::new("san_type", "is not URI"));
        }
        exact_identity(required("matcher", matcher)?).map_err(|bad| bad.within("matcher"))
    })?;
    let untyped = each("match_subject_alt_names", match_subject_alt_names, exact_identity)?;
    let peers: Arc<[SpiffeId]> = typed.into_iter().chain(untyped).collect();
    Ok(if peers.is_empty() { Validation::Roots } else { Validation::Peers(peers) })
}

/// Decodes an exact identity. Prefixes and patterns are refused: one that is too wide would accept unintended peers.
fn exact_identity(wire: matcher::StringMatcher) -> Result<SpiffeId, Unusable> {
    use matcher::string_matcher::MatchPattern;
    let matcher::StringMatcher { ignore_case, match_pattern } = wire;
    let other = |field| Err(Unusable::new(field, "is not supported: identities are compared whole"));
    let uri = match match_pattern {
        Some(MatchPattern::Exact(uri)) => uri,
        Some(MatchPattern::Prefix(_)) => return other("prefix"),
        Some(MatchPattern::Suffix(_)) => return other("suffix"),
        Some(MatchPattern::Contains(_)) => return other("contains"),
        Some(MatchPattern::SafeRegex(_)) => return other("safe_regex"),
        Some(MatchPattern::Custom(_)) => return other("custom"),
        None => return Err(Unusable::new("match_pattern", "is required")),
    };
    unsupported_any(&[("ignore_case", ignore_case)])?;
    SpiffeId::parse(&uri).map_err(|bad| Unusable::new("exact", bad))
}
