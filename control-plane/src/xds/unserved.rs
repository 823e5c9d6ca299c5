//! Resource types that are not served: every requested resource is answered as nonexistent.
//!
//! Until then, or for 15 s (`initial_fetch_timeout`), Envoy delays what refers to it: secrets, runtime layers, scoped
//! routes, extension configurations. As for served types, at most one response of a type is outstanding.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_proto::xds::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use super::subscription::{MAX_NAMES, WILDCARD};

/// Maximum number of such types on one stream. Envoy has eight.
pub(super) const MAX_TYPES: usize = 16;
/// Maximum size of a name or a type URL. Longer ones are ignored.
const MAX_NAME_BYTES: usize = 1024;
/// Maximum number of names in one response.
const RESPONSE_NAMES: usize = 1_000;

/// The types that are not served on one stream.
#[derive(Debug, Default)]
pub(super) struct Unserved {
    types: BTreeMap<String, UnservedType>,
    last_nonce: u64,
}

#[derive(Debug, Default)]
struct UnservedType {
    /// Names that are not answered yet.
    names: BTreeSet<String>,
    /// A response must be sent, possibly an empty one.
    due: bool,
    /// The nonce of the outstanding response.
    outstanding: Option<String>,
}

impl Unserved {
    /// Applies a request of a type that is not served. Types beyond [`MAX_TYPES`] and names beyond [`MAX_NAMES`] are
    /// ignored.
    pub(super) fn on_request(&mut self, request: &DeltaDiscoveryRequest) {
        let first = !self.types.contains_key(&request.type_url);
        if request.type_url.is_empty()
            || request.type_url.len() > MAX_NAME_BYTES
            || (first && self.types.len() >= MAX_TYPES)
        {
            return;
        }
        let state = self.types.entry(request.type_url.clone()).or_default();
        state.outstanding.take_if(|nonce| *nonce == request.response_nonce);
        for name in &request.resource_names_unsubscribe {
            state.names.remove(name);
        }
        // The first request is always answered: without names it is a wildcard subscription.
        state.due |= first || !request.resource_names_subscribe.is_empty();
        for name in request.resource_names_subscribe.iter().filter(|name| *name != WILDCARD) {
            // Longer names do not exist in any configuration.
            if state.names.len() < MAX_NAMES && name.len() <= MAX_NAME_BYTES {
                state.names.insert(name.clone());
            }
        }
    }

    /// Returns the next response that may be sent now.
    pub(super) fn poll(&mut self) -> Option<DeltaDiscoveryResponse> {
        let mut waiting = self.types.iter_mut();
        let (type_url, state) = waiting.find(|(_, state)| state.due && state.outstanding.is_none())?;
        self.last_nonce += 1;
        let nonce = self.last_nonce.to_string();
        let removed = std::iter::from_fn(|| state.names.pop_first()).take(RESPONSE_NAMES).collect();
        state.due = !state.names.is_empty();
        state.outstanding = Some(nonce.clone());
        Some(DeltaDiscoveryResponse {
            type_url: type_url.clone(),
            removed_resources: removed,
            nonce,
            ..Default::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

    fn request(type_url: &str, names: &[&str], nonce: &str) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            type_url: type_url.into(),
            resource_names_subscribe: names.iter().map(|name| (*name).into()).collect(),
            response_nonce: nonce.into(),
            ..Default::default()
        }
    }

    #[test]
    fn every_name_is_answered_once_as_nonexistent() {
        let mut unserved = Unserved::default();
        unserved.on_request(&request(SECRET, &["default", "ROOTCA"], ""));
        let answer = unserved.poll().unwrap();
        assert_eq!((answer.type_url.as_str(), answer.nonce.as_str()), (SECRET, "1"));
        assert_eq!(answer.removed_resources, ["ROOTCA", "default"]);
        unserved.on_request(&request(SECRET, &[], "1"));
        assert_eq!(unserved.poll(), None, "an ACK is answered by nothing");
        unserved.on_request(&request(SECRET, &["late"], "1"));
        assert_eq!(unserved.poll().unwrap().removed_resources, ["late"]);
    }

    #[test]
    fn a_wildcard_subscription_is_answered_with_an_empty_response() {
        for names in [&[][..], &["*"]] {
            let mut unserved = Unserved::default();
            unserved.on_request(&request(SECRET, names, ""));
            let answer = unserved.poll().unwrap();
            assert!(answer.resources.is_empty() && answer.removed_resources.is_empty());
            assert_eq!(unserved.poll(), None);
        }
    }

    #[test]
    fn one_response_of_a_type_is_outstanding_and_the_state_is_bounded() {
        let mut unserved = Unserved::default();
        let many: Vec<_> = (0..MAX_NAMES + 100).map(|n| format!("{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        unserved.on_request(&request(SECRET, &many, ""));
        let mut answered = 0;
        while let Some(answer) = unserved.poll() {
            answered += answer.removed_resources.len();
            assert_eq!(unserved.poll(), None);
            unserved.on_request(&request(SECRET, &[], &answer.nonce));
        }
        assert_eq!(answered, MAX_NAMES);
        for n in 0..2 * MAX_TYPES {
            unserved.on_request(&request(&format!("type.googleapis.com/t{n}"), &["a"], ""));
        }
        assert_eq!(std::iter::from_fn(|| unserved.poll()).count(), MAX_TYPES - 1);
    }
}
