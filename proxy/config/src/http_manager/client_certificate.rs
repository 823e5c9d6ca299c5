//! What becomes of `x-forwarded-client-cert` of requests (`HttpConnectionManager.forward_client_cert_details` and
//! `set_current_client_cert_details`).
//!
//! Without settings the field is removed, so that no client can claim an identity by it.

use outrigger_policy::field::{Unusable, flag, unsupported_any};
use outrigger_proto::xds::hcm::http_connection_manager::{
    ForwardClientCertDetails, SetCurrentClientCertDetails,
};

/// What is done with the field. Except for [`Self::AlwaysForwardOnly`], it is removed from requests of clients without a verified
/// certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardClientCertificate {
    /// It is removed.
    #[default]
    Sanitize,
    /// It stays as the client sent it.
    ForwardOnly,
    /// These details of the client's certificate are appended.
    AppendForward(CertificateDetails),
    /// It is replaced by these details of the client's certificate.
    SanitizeSet(CertificateDetails),
    /// It stays as any client sent it.
    AlwaysForwardOnly,
}

/// What is said of a certificate, beside the URI of the server (`By`) and the digest of the certificate (`Hash`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CertificateDetails {
    /// Its subject.
    pub subject: bool,
    /// Its URI: the SPIFFE ID.
    pub uri: bool,
    /// Its DNS names.
    pub dns: bool,
}

impl ForwardClientCertificate {
    /// Decodes the settings.
    pub(super) fn decode(mode: i32, details: Option<SetCurrentClientCertDetails>) -> Result<Self, Unusable> {
        let details = details.unwrap_or_default();
        let details = CertificateDetails::decode(details)
            .map_err(|bad| bad.within("set_current_client_cert_details"))?;
        match ForwardClientCertDetails::try_from(mode) {
            Ok(ForwardClientCertDetails::Sanitize) => Ok(Self::Sanitize),
            Ok(ForwardClientCertDetails::ForwardOnly) => Ok(Self::ForwardOnly),
            Ok(ForwardClientCertDetails::AppendForward) => Ok(Self::AppendForward(details)),
            Ok(ForwardClientCertDetails::SanitizeSet) => Ok(Self::SanitizeSet(details)),
            Ok(ForwardClientCertDetails::AlwaysForwardOnly) => Ok(Self::AlwaysForwardOnly),
            Err(_) => Err(Unusable::new("forward_client_cert_details", "is unknown")),
        }
    }

    /// Returns what is forwarded of certificates. Returns None if nothing is.
    pub fn details(self) -> Option<CertificateDetails> {
        match self {
            Self::AppendForward(details) | Self::SanitizeSet(details) => Some(details),
            Self::Sanitize | Self::ForwardOnly | Self::AlwaysForwardOnly => None,
        }
    }
}

impl CertificateDetails {
    fn decode(wire: SetCurrentClientCertDetails) -> Result<Self, Unusable> {
        let SetCurrentClientCertDetails { subject, cert, chain, dns, uri, issuer, format } = wire;
        unsupported_any(&[("cert", cert), ("chain", chain), ("issuer", issuer), ("format", format != 0)])?;
        Ok(Self { subject: flag(subject), uri, dns })
    }
}
