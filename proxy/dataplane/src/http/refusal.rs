//! A sidecar tells the one before it that a request was refused for overload, and that nothing of it was processed.
//!
//! The field names the sidecar that says it. It counts only from the peer of that very identity, so that one which an
//! application copied from another answer means nothing; and it never leaves the proxy that reads it.

use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_core::error::{Failure, Reached};
use outrigger_core::identity::SpiffeId;
use outrigger_core::reason::Reason;

const NOT_PROCESSED: HeaderName = HeaderName::from_static("x-outrigger-not-processed");

/// Says it in the name of `own`.
pub(super) fn say(headers: &mut HeaderMap, own: &SpiffeId) {
    // An identity is a URI, which is a legal value.
    if let Ok(own) = HeaderValue::from_str(own.as_str()) {
        headers.insert(NOT_PROCESSED, own);
    }
}

/// Whether `peer` says it in the head of its answer, from which the field is removed.
pub(super) fn hear(headers: &mut HeaderMap, peer: Option<&SpiffeId>) -> Result<(), Failure> {
    let Some(by) = headers.remove(NOT_PROCESSED) else { return Ok(()) };
    if peer.is_some_and(|peer| by.as_bytes() == peer.as_str().as_bytes()) {
        let what = "the endpoint's sidecar has no capacity left";
        return Err(Failure::upstream(Reason::UpstreamOverflow, Reached::NotProcessed, what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_counts_from_the_peer_that_it_names_and_goes_no_further() {
        let [cart, front] = ["cart", "front"]
            .map(|name| SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/{name}")).unwrap());
        for (peer, heard) in [(Some(&cart), true), (Some(&front), false), (None, false)] {
            let mut headers = HeaderMap::new();
            say(&mut headers, &cart);
            assert_eq!(hear(&mut headers, peer).is_err(), heard, "{peer:?}");
            assert!(headers.is_empty());
            assert!(hear(&mut headers, peer).is_ok());
        }
    }
}
