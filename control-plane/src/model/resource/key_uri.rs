//! The keys of an issuer at a URI outside the mesh, and the roots that certify its host.

use std::net::IpAddr;

use http::Uri;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName};
use schemars::JsonSchema;
use serde::Deserialize;

use super::value::Text;
use crate::model::authentication::KeyUri;

/// The port of `https` (RFC 9110 section 4.2.2).
const PORT: u16 = 443;

/// An `https` URI with a host name.
#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "Text<2048>")]
#[schemars(with = "Text<2048>")]
pub(super) struct HttpsUri(KeyUri);

impl TryFrom<Text<2048>> for HttpsUri {
    type Error = String;

    fn try_from(Text(text): Text<2048>) -> Result<Self, String> {
        if text.contains('#') {
            return Err("has a fragment, which is not sent".into());
        }
        let uri = Uri::try_from(&*text).map_err(|bad| format!("is not a URI: {bad}"))?;
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") => {
                return Err("is not https: the network could replace the keys; a Service of the mesh is named by service".into());
            }
            _ => return Err("is not an https URI".into()),
        }
        let Some(authority) = uri.authority() else { return Err("has no host".into()) };
        if authority.as_str().contains('@') {
            return Err("has a user, which is not sent".into());
        }
        let host = authority.host().to_ascii_lowercase();
        if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
            return Err("has an address: the host is verified by a name".into());
        }
        if DnsName::try_from(host.as_str()).is_err() {
            return Err("has a host that is not a DNS name".into());
        }
        let port = match authority.as_str().get(authority.host().len()..).unwrap_or_default() {
            "" => PORT,
            port => match port.strip_prefix(':').and_then(|port| port.parse().ok()) {
                None | Some(0) => return Err("has a port that is not between 1 and 65535".into()),
                Some(port) => port,
            },
        };
        Ok(Self(KeyUri { uri: text, host: host.into(), port, roots: None }))
    }
}

/// Root certificates in PEM.
#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "Text<65536>")]
#[schemars(with = "Text<65536>")]
pub(super) struct RootCertificates(Text<65536>);

impl TryFrom<Text<65536>> for RootCertificates {
    type Error = String;

    /// Checks what the data plane checks, which would refuse the whole cluster.
    fn try_from(pem: Text<65536>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.0.as_bytes()) {
            let certificate = certificate.map_err(|bad| format!("is not PEM: {bad}"))?;
            roots.add(certificate).map_err(|bad| format!("has a certificate that cannot be used: {bad}"))?;
        }
        if roots.is_empty() { Err("has no certificate in PEM".into()) } else { Ok(Self(pem)) }
    }
}

impl HttpsUri {
    /// Returns where the keys are. `roots` replace those of the machine.
    pub(super) fn certified_by(self, roots: Option<RootCertificates>) -> KeyUri {
        KeyUri { roots: roots.map(|roots| roots.0.0), ..self.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(uri: &str) -> Result<KeyUri, String> {
        HttpsUri::try_from(Text(uri.into())).map(|uri| uri.certified_by(None))
    }

    #[test]
    fn a_uri_has_https_and_a_name() {
        for (uri, host, port) in [
            ("https://issuer.example/keys", "issuer.example", 443),
            ("https://Issuer.example:8443/realms/a/certs?x=1", "issuer.example", 8443),
            ("https://issuer.example", "issuer.example", 443),
        ] {
            let read = read(uri).unwrap();
            assert_eq!((&*read.uri, &*read.host, read.port), (uri, host, port));
        }
        for (uri, why) in [
            ("http://issuer.example/keys", "is not https"),
            ("ftp://issuer.example/keys", "is not an https URI"),
            ("issuer.example/keys", "is not"),
            ("/keys", "is not an https URI"),
            ("https://", "is not a URI"),
            ("https://issuer.example/a b", "is not a URI"),
            ("https://issuer.example/#keys", "has a fragment"),
            ("https://user:password@issuer.example/keys", "has a user"),
            ("https://10.0.0.1/keys", "has an address"),
            ("https://[fd00::1]:8443/keys", "has an address"),
            ("https://-a-/keys", "is not a DNS name"),
            ("https://issuer.example:0/keys", "has a port"),
            ("https://issuer.example:65536/keys", "port"),
        ] {
            let refused = read(uri).unwrap_err();
            assert!(refused.contains(why), "{uri}: {refused}");
        }
    }

    #[test]
    fn roots_are_certificates_in_pem() {
        let pem = rcgen::generate_simple_self_signed(Vec::<String>::new()).unwrap().cert.pem();
        assert!(RootCertificates::try_from(Text(pem.into())).is_ok());
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (pem, why) in [("x", "has no certificate"), (broken, "cannot be used")] {
            let refused = RootCertificates::try_from(Text(pem.into())).err().unwrap();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
