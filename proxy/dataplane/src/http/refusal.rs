//! A sidecar tells the calling sidecar that it refused a request for overload, and that nothing of it was processed.
//!
//! The field carries the identity of the refusing sidecar. It counts only if the peer has that identity, so that one that an
//! application copied from another response has no effect. The proxy that reads it removes it.

use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_core::error::{Failure, Reached};
use outrigger_core::identity::SpiffeId;
use outrigger_core::reason::Reason;

use super::respond::REASON;

const NOT_PROCESSED: HeaderName = HeaderName::from_static("x-outrigger-not-processed");

/// Marks a response as a refusal by `own`.
pub(super) fn mark(headers: &mut HeaderMap, own: &SpiffeId) {
    // An identity is a URI, which is a legal value.
    if let Ok(own) = HeaderValue::from_str(own.as_str()) {
        headers.insert(NOT_PROCESSED, own);
    }
}

/// Removes the field. Returns an error if it marks the response as a refusal by `peer`.
pub(super) fn check(headers: &mut HeaderMap, peer: Option<&SpiffeId>) -> Result<(), Failure> {
    let Some(by) = headers.remove(NOT_PROCESSED) else { return Ok(()) };
    if peer.is_some_and(|peer| by.as_bytes() == peer.as_str().as_bytes()) {
        let of_application = headers.get(REASON).is_some_and(|name| name == Reason::Overloaded.name());
        let (reason, what) = match of_application {
            true => (Reason::Overloaded, "the endpoint's application is overloaded"),
            false => (Reason::UpstreamOverflow, "the endpoint's sidecar has no capacity left"),
        };
        return Err(Failure::upstream(reason, Reached::NotProcessed, what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_whether_the_application_is_overloaded() {
        let cart = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
        for reason in [Reason::Overloaded, Reason::UpstreamOverflow] {
            let mut headers = HeaderMap::new();
            mark(&mut headers, &cart);
            headers.insert(REASON, HeaderValue::from_static(reason.name()));
            assert_eq!(check(&mut headers, Some(&cart)).unwrap_err().reason, reason);
        }
    }

    #[test]
    fn a_refusal_counts_only_from_the_peer_that_it_names() {
        let [cart, front] = ["cart", "front"]
            .map(|name| SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/{name}")).unwrap());
        for (peer, heard) in [(Some(&cart), true), (Some(&front), false), (None, false)] {
            let mut headers = HeaderMap::new();
            mark(&mut headers, &cart);
            assert_eq!(check(&mut headers, peer).is_err(), heard, "{peer:?}");
            assert!(headers.is_empty());
            assert!(check(&mut headers, peer).is_ok());
        }
    }
}
