//! `/certs`: the workload's certificate chain and trusted roots. Private keys are never read here.

use std::time::SystemTime;

use jiff::Timestamp;
use outrigger_config::secrets::{Roots, SecretStore, Secrets};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Name};

/// Returns the page. `serial` is `null` if there is no certificate yet.
pub(crate) fn certs(secrets: &SecretStore) -> Value {
    let Some(secrets) = secrets.load() else {
        return json!({ "spiffe_id": null, "serial": null, "chain": [], "roots": [] });
    };
    let Secrets { identity, roots } = &*secrets;
    let chain: Vec<_> = identity.key.cert.iter().map(|certificate| link(certificate)).collect();
    json!({
        "spiffe_id": identity.id.as_str(),
        "serial": &*identity.serial,
        "not_before": time(identity.not_before),
        "not_after": time(identity.not_after),
        "remaining_seconds": remaining_seconds(identity.not_after),
        "chain": chain,
        "roots": roots_of(roots),
    })
}

/// Returns the seconds until `not_after`; negative if it has passed.
fn remaining_seconds(not_after: SystemTime) -> f64 {
    match not_after.duration_since(SystemTime::now()) {
        Ok(left) => left.as_secs_f64(),
        Err(passed) => -passed.duration().as_secs_f64(),
    }
}

/// Formats a time as RFC 3339, in seconds.
pub(crate) fn time(time: SystemTime) -> Option<String> {
    Timestamp::try_from(time).ok().map(|time| format!("{time:.0}"))
}

fn link(der: &[u8]) -> Value {
    match X509Certificate::from_der(der) {
        Ok((_, certificate)) => json!({
            "subject": certificate.subject().to_string(),
            "issuer": certificate.issuer().to_string(),
            "serial": format!("{:x}", certificate.serial),
            "not_after": certificate.validity().not_after.to_string(),
        }),
        Err(error) => json!({ "error": error.to_string() }),
    }
}

fn roots_of(roots: &Roots) -> Vec<Value> {
    let mut domains: Vec<_> = roots.by_domain.iter().collect();
    domains.sort_by_key(|(domain, _)| domain.as_str());
    let one = |(domain, store): (
        &outrigger_core::identity::TrustDomain,
        &std::sync::Arc<rustls::RootCertStore>,
    )| {
        let subjects: Vec<_> = store.roots.iter().map(|root| name(&root.subject)).collect();
        json!({ "trust_domain": domain.as_str(), "subjects": subjects })
    };
    domains.into_iter().map(one).collect()
}

/// Formats the subject of a trust anchor. It is a `Name` without the outer SEQUENCE header (webpki's convention), which is
/// added again here.
fn name(content: &[u8]) -> String {
    let mut der = vec![0x30];
    match content.len() {
        short @ 0..0x80 => der.push(short as u8),
        long => {
            let bytes = long.to_be_bytes();
            let significant = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
            der.push(0x80 | significant.len() as u8);
            der.extend(significant);
        }
    }
    der.extend(content);
    match X509Name::from_der(&der) {
        Ok((_, name)) => name.to_string(),
        Err(_) => "not readable".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_certificate_the_page_says_so() {
        let page = certs(&SecretStore::new());
        assert_eq!((&page["serial"], &page["roots"]), (&Value::Null, &json!([])));
    }

    #[test]
    fn a_trust_anchor_is_named() {
        // CN=root: SET { SEQUENCE { OID 2.5.4.3, UTF8String "root" } }
        let content = b"\x31\x0d\x30\x0b\x06\x03\x55\x04\x03\x0c\x04root";
        assert_eq!(name(content), "CN=root");
    }
}
