//! The certificate of a client, as far as `x-forwarded-client-cert` has details of it. Read once for each connection, and only
//! where the field is set.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use outrigger_config::http_manager::CertificateDetails;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::parse_x509_certificate;
use x509_parser::prelude::{AttributeTypeAndValue, GeneralName, ParsedExtension, X509Name};

use crate::socket::stream::Stream;

/// Details of a verified certificate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PeerCertificate {
    /// The SHA-256 digest of the certificate.
    pub(crate) hash: [u8; 32],
    /// What is written in it. None if nothing of it was to be forwarded.
    pub(crate) names: Option<Names>,
}

/// The names in a certificate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Names {
    /// The subject by RFC 2253.
    pub(crate) subject: String,
    /// The DNS names.
    pub(crate) dns: Vec<String>,
}

impl PeerCertificate {
    /// Returns `details` of the certificate that a client showed. Returns None if it showed none. The digest needs no parser, and no
    /// memory that a connection would keep.
    pub(crate) fn of(stream: &Stream, details: CertificateDetails) -> Option<Self> {
        let Stream::TlsServer(stream) = stream else { return None };
        let der = stream.get_ref().1.peer_certificates()?.first()?;
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, der).as_ref());
        let names = if details.subject || details.dns { Some(Names::parse(der)?) } else { None };
        Some(Self { hash, names })
    }
}

impl Names {
    fn parse(der: &[u8]) -> Option<Self> {
        let (_, certificate) = parse_x509_certificate(der).ok()?;
        let names =
            certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
                _ => None,
            });
        let dns = names.into_iter().flatten().filter_map(|name| match name {
            // A name with other characters could pass for further elements of the field.
            GeneralName::DNSName(name) if name.bytes().all(is_of_host) => Some((*name).to_owned()),
            _ => None,
        });
        Some(Self { subject: rfc2253(certificate.subject()), dns: dns.collect() })
    }
}

fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'*')
}

/// Returns a name as RFC 2253 writes it: the last component first. The result is printable ASCII.
fn rfc2253(name: &X509Name<'_>) -> String {
    let mut components: Vec<String> = name
        .iter_rdn()
        .map(|component| component.iter().map(attribute).collect::<Vec<_>>().join("+"))
        .collect();
    components.reverse();
    components.join(",")
}

fn attribute(of: &AttributeTypeAndValue<'_>) -> String {
    let key = oid2abbrev(of.attr_type(), oid_registry())
        .map_or_else(|_| of.attr_type().to_id_string(), ToOwned::to_owned);
    // A value that is no text is left out.
    let value = of.as_str().unwrap_or_default();
    let last = value.len().saturating_sub(1);
    let mut written = format!("{key}=");
    for (at, byte) in value.bytes().enumerate() {
        let special = matches!(byte, b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';')
            || at == 0 && byte == b'#'
            || byte == b' ' && (at == 0 || at == last);
        match byte {
            _ if special => written.extend(['\\', byte.into()]),
            b' '..=b'~' => written.push(byte.into()),
            // Writing to memory does not fail.
            _ => drop(write!(written, "\\{byte:02X}")),
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn details_are_of_the_certificate_and_cannot_break_out_of_their_quotes() {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Shop, \"Ltd\"; é");
        params.distinguished_name.push(DnType::CommonName, " cart");
        let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
        params.subject_alt_names = vec![dns("cart.shop"), dns("a;URI=spiffe://x"), dns("*.shop")];
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let read = Names::parse(certificate.der()).unwrap();
        assert_eq!(read.subject, r#"CN=\ cart,O=Shop\, \"Ltd\"\; \C3\A9"#);
        assert_eq!(read.dns, ["cart.shop", "*.shop"]);
        assert_eq!(Names::parse(b"no certificate"), None);
    }
}
