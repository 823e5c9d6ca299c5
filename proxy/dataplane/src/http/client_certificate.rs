//! `x-forwarded-client-cert`: who called, for the application, from the verified certificate (Envoy's form, which Istio uses).
//!
//! What a client sent under that name is removed, unless the listener says otherwise.

use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_config::http_manager::{CertificateDetails, ForwardClientCertificate};
use outrigger_core::identity::SpiffeId;

use crate::client::ClientFacts;
use crate::codec::field_value;
use crate::identity::Identity;
use crate::tls::peer_certificate::PeerCertificate;

const CLIENT_CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Removes the field, or forwards, appends to or sets it.
pub(super) fn apply(
    mode: ForwardClientCertificate,
    headers: &mut HeaderMap,
    client: &ClientFacts,
    own: &Identity,
) {
    use ForwardClientCertificate::{AlwaysForwardOnly, AppendForward, ForwardOnly, SanitizeSet};
    match (mode, &client.peer) {
        (AlwaysForwardOnly, _) | (ForwardOnly, Some(_)) => {}
        (SanitizeSet(details), Some(peer)) => match element_of(details, peer, client, own) {
            Some(element) => drop(headers.insert(CLIENT_CERTIFICATE, element)),
            None => drop(headers.remove(CLIENT_CERTIFICATE)),
        },
        (AppendForward(details), Some(peer)) => {
            let Some(element) = element_of(details, peer, client, own) else { return };
            let before = headers.get_all(CLIENT_CERTIFICATE).iter().map(HeaderValue::as_bytes);
            let all: Vec<_> = before.chain([element.as_bytes()]).collect();
            if let Some(all) = field_value::copied(&all.join(&b',')) {
                headers.insert(CLIENT_CERTIFICATE, all);
            }
        }
        (ForwardClientCertificate::Sanitize | ForwardOnly | AppendForward(_) | SanitizeSet(_), _) => {
            remove(headers);
        }
    }
}

/// Removes the field: of a request that leaves the mesh.
pub(super) fn remove(headers: &mut HeaderMap) {
    headers.remove(CLIENT_CERTIFICATE);
}

/// Returns what is said of a client. It is kept for further requests of the connection.
fn element_of(
    details: CertificateDetails,
    peer: &SpiffeId,
    client: &ClientFacts,
    own: &Identity,
) -> Option<HeaderValue> {
    let Some(shown) = &client.certificate else { return element(details, peer, None, own) };
    let mut kept = shown.element.borrow_mut();
    match &*kept {
        Some((of, element)) if *of == details => Some(element.clone()),
        _ => {
            let element = element(details, peer, Some(&shown.certificate), own)?;
            *kept = Some((details, element.clone()));
            Some(element)
        }
    }
}

/// Returns one element of the field. A connection that was accepted before the field was configured has no certificate here, and no
/// details that were configured later: its element lacks them.
fn element(
    details: CertificateDetails,
    peer: &SpiffeId,
    certificate: Option<&PeerCertificate>,
    own: &Identity,
) -> Option<HeaderValue> {
    let mut parts = Vec::with_capacity(6);
    parts.extend(own.credentials().map(|own| format!("By={}", own.identity.as_str())));
    if let Some(certificate) = certificate {
        let hash: String = certificate.hash.iter().map(|byte| format!("{byte:02x}")).collect();
        parts.push(format!("Hash={hash}"));
    }
    let names = certificate.and_then(|certificate| certificate.names.as_ref());
    if let Some(names) = names.filter(|_| details.subject) {
        // The subject is escaped, so that it has no quotes of its own.
        parts.push(format!("Subject=\"{}\"", names.subject));
    }
    parts.extend(details.uri.then(|| format!("URI={}", peer.as_str())));
    if let Some(names) = names.filter(|_| details.dns) {
        parts.extend(names.dns.iter().map(|name| format!("DNS={name}")));
    }
    // In memory of its own, as it may be kept for long.
    HeaderValue::try_from(parts.join(";")).ok()
}
