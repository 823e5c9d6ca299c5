//! What the TLS contexts of workloads ([`crate::tls`]) and of hosts ([`crate::host_tls`]) have in common: the parts of a `CommonTlsContext`, of
//! which everything that neither supports is refused by name.

use outrigger_core::Name;
use outrigger_policy::field::{Unusable, each, unsupported_any};
use outrigger_proto::xds::tls as wire_tls;
use outrigger_proto::xds::tls::common_tls_context::ValidationContextType;

/// The parts of a `CommonTlsContext`, as they were received.
pub(crate) struct CommonTls {
    pub(crate) tls_params: Option<wire_tls::TlsParameters>,
    /// The secrets that hold the own certificate.
    pub(crate) certificates: Vec<wire_tls::SdsSecretConfig>,
    /// The ALPN protocols, in the order of preference.
    pub(crate) alpn: Box<[Name]>,
    /// How the peer is verified.
    pub(crate) validation: Option<ValidationContextType>,
}

impl CommonTls {
    /// Takes a context apart. Returns an error if it has certificates inline, a certificate provider, a custom handshaker, a key log, or a
    /// protocol name that does not fit in the extension.
    #[allow(deprecated)] // deprecated ways to name a certificate provider must be rejected, not overlooked
    pub(crate) fn decode(wire: wire_tls::CommonTlsContext) -> Result<Self, Unusable> {
        let wire_tls::CommonTlsContext {
            tls_params,
            tls_certificates,
            tls_certificate_sds_secret_configs: certificates,
            tls_certificate_provider_instance,
            custom_tls_certificate_selector,
            tls_certificate_certificate_provider,
            tls_certificate_certificate_provider_instance,
            alpn_protocols,
            custom_handshaker,
            key_log,
            validation_context_type: validation,
        } = wire;
        unsupported_any(&[
            ("tls_certificates", !tls_certificates.is_empty()),
            ("tls_certificate_provider_instance", tls_certificate_provider_instance.is_some()),
            ("custom_tls_certificate_selector", custom_tls_certificate_selector.is_some()),
            ("tls_certificate_certificate_provider", tls_certificate_certificate_provider.is_some()),
            (
                "tls_certificate_certificate_provider_instance",
                tls_certificate_certificate_provider_instance.is_some(),
            ),
            ("custom_handshaker", custom_handshaker.is_some()),
            ("key_log", key_log.is_some()),
        ])?;
        let alpn = each("alpn_protocols", alpn_protocols, |protocol| match protocol.len() {
            // RFC 7301, section 3.1: the length of a name is one byte.
            1..=255 => Ok(Name::from(protocol)),
            _ => Err(Unusable::new("", "must have 1 to 255 bytes")),
        })?;
        Ok(Self { tls_params, certificates, alpn: alpn.into(), validation })
    }
}
