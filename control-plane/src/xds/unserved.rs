//! Resource types that are not served: no resource of them exists, and a client that asks is told so.
//!
//! Envoy holds back whatever refers to a resource until it is answered, or for 15 s (`initial_fetch_timeout`): secrets,
//! runtime layers, scoped routes, extension configurations. As for served types, at most one response of a type waits
//! for its answer.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_proto::xds::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use super::subscription::{MAX_NAMES, WILDCARD};

/// Types that are answered on one stream: Envoy knows eight beyond those that are served.
pub(super) const TYPES: usize = 16;
/// Longer than any name or type of anybody.
const MAX_NAME_BYTES: usize = 1024;
/// Names in one response.
const RESPONSE_NAMES: usize = 1_000;

/// What one stream asked for of such types.
#[derive(Debug, Default)]
pub(super) struct Unserved {
    types: BTreeMap<String, Asked>,
    last_nonce: u64,
}

#[derive(Debug, Default)]
struct Asked {
    /// Names that were not answered yet.
    names: BTreeSet<String>,
    /// A response is to be sent, be it an empty one.
    due: bool,
    /// The nonce of the response that waits for its answer.
    outstanding: Option<String>,
}

impl Unserved {
    /// Takes a request of a type that is not served. Beyond [`TYPES`] and [`MAX_NAMES`] nothing is remembered.
    pub(super) fn on_request(&mut self, request: &DeltaDiscoveryRequest) {
        let first = !self.types.contains_key(&request.type_url);
        if request.type_url.is_empty()
            || request.type_url.len() > MAX_NAME_BYTES
            || (first && self.types.len() >= TYPES)
        {
            return;
        }
        let asked = self.types.entry(request.type_url.clone()).or_default();
        asked.outstanding.take_if(|nonce| *nonce == request.response_nonce);
        for name in &request.resource_names_unsubscribe {
            asked.names.remove(name);
        }
        // The first request is answered also where it names nothing: it may be for all there is.
        asked.due |= first || !request.resource_names_subscribe.is_empty();
        for name in request.resource_names_subscribe.iter().filter(|name| *name != WILDCARD) {
            // A name that is longer is nobody's resource, and is not remembered.
            if asked.names.len() < MAX_NAMES && name.len() <= MAX_NAME_BYTES {
                asked.names.insert(name.clone());
            }
        }
    }

    /// The next response that may be sent now.
    pub(super) fn poll(&mut self) -> Option<DeltaDiscoveryResponse> {
        let mut waiting = self.types.iter_mut();
        let (type_url, asked) = waiting.find(|(_, asked)| asked.due && asked.outstanding.is_none())?;
        self.last_nonce += 1;
        let nonce = self.last_nonce.to_string();
        let removed = std::iter::from_fn(|| asked.names.pop_first()).take(RESPONSE_NAMES).collect();
        asked.due = !asked.names.is_empty();
        asked.outstanding = Some(nonce.clone());
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
    fn every_name_is_answered_once_as_not_there() {
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
    fn a_request_for_everything_of_a_type_is_answered_with_nothing() {
        for names in [&[][..], &["*"]] {
            let mut unserved = Unserved::default();
            unserved.on_request(&request(SECRET, names, ""));
            let answer = unserved.poll().unwrap();
            assert!(answer.resources.is_empty() && answer.removed_resources.is_empty());
            assert_eq!(unserved.poll(), None);
        }
    }

    #[test]
    fn one_response_of_a_type_waits_at_a_time_and_what_is_remembered_is_bounded() {
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
        for n in 0..2 * TYPES {
            unserved.on_request(&request(&format!("type.googleapis.com/t{n}"), &["a"], ""));
        }
        assert_eq!(std::iter::from_fn(|| unserved.poll()).count(), TYPES - 1);
    }
}
