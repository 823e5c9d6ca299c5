//! The incremental xDS protocol of one ADS stream: requests and changes in, responses out.
//!
//! No I/O, no clock, no knowledge of the mesh: [`super::server`] feeds it and asks a [`Source`] on its behalf. The rules
//! are those of "xDS REST and gRPC protocol", incremental variant; each stands where it is kept. At most one response
//! of a type waits for its answer, so that a slow client costs the names it subscribed to and not a queue.

use std::sync::Arc;

use jiff::Timestamp;
use outrigger_core::Name;
use outrigger_proto::xds::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource,
};
use thiserror::Error;

use super::subscription::{Decision, MAX_NAMES, Outstanding, Subscription, WILDCARD, Wildcard};
use super::unserved::Unserved;
use crate::translate::resource::{Kind, Resource, Version};

/// Encoded bytes of resources after which a response is closed and the rest waits for its ACK: well under the 4 MiB
/// that gRPC receivers take by default.
const RESPONSE_BYTES: usize = 1 << 20;
/// Names in one response, so that one stream's wildcard does not keep a core for long.
const RESPONSE_NAMES: usize = 1_000;

/// What there is to serve, as one node sees it. The translation is one; tests have another.
pub trait Source {
    /// The resource of this name, if there is one.
    fn resource(&self, kind: Kind, name: &str) -> Option<Arc<Resource>>;
    /// The names that `*` means.
    fn wildcard(&self, kind: Kind) -> Vec<Name>;
    /// Whether `*` means this name.
    fn in_wildcard(&self, kind: Kind, name: &str) -> bool;
}

/// One stream.
#[derive(Debug)]
pub struct Stream {
    kinds: [Subscription; 4],
    unserved: Unserved,
    last_nonce: u64,
}

/// Names that ceased and began to matter by one request, in that order: one in both lists matters. `*` is among them
/// as a name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Now subscribed.
    pub added: Vec<(Kind, Name)>,
    /// No longer.
    pub dropped: Vec<(Kind, Name)>,
}

impl Default for Stream {
    fn default() -> Self {
        Self { kinds: Kind::ALL.map(Subscription::new), unserved: Unserved::default(), last_nonce: 0 }
    }
}

impl Stream {
    /// Takes a request: an answer to a response, a change of subscriptions, or both.
    ///
    /// Of types that are not served nothing exists: a client may ask one server for more than it has. Fails when the client subscribes to more than [`MAX_NAMES`]; the stream is then of no more use.
    pub fn on_request(
        &mut self,
        request: &DeltaDiscoveryRequest,
        now: Timestamp,
    ) -> Result<Interest, TooManyNames> {
        let Some(kind) = Kind::from_type_url(&request.type_url) else {
            self.unserved.on_request(request);
            return Ok(Interest::default());
        };
        let state = &mut self.kinds[kind as usize];
        answer(state, request, now);
        let first = !std::mem::replace(&mut state.seen, true);
        let mut interest = Interest::default();
        // "An empty first request of a type is a wildcard subscription", where the type has one.
        if first && kind.has_wildcard() && request.resource_names_subscribe.is_empty() {
            state.wildcard = Wildcard::Legacy;
            state.look_at(WILDCARD.into(), false);
            interest.added.push((kind, WILDCARD.into()));
        }
        // In this order, so that a name in both lists is one that the client wants anew.
        unsubscribe(state, &request.resource_names_unsubscribe, &mut interest);
        subscribe(state, &request.resource_names_subscribe, &mut interest)?;
        // Only the first request of a type may tell what the client kept from an earlier stream.
        if first {
            state.resume(&request.initial_resource_versions);
        }
        Ok(interest)
    }

    /// Something changed that may have to do with this name; `*` stands for the set of names behind the wildcard.
    pub fn on_change(&mut self, kind: Kind, name: Name) {
        let state = &mut self.kinds[kind as usize];
        if state.covers(&name) {
            state.look_at(name, false);
        }
    }

    /// The next response that may be sent now, if any: clusters, endpoints, listeners, routes, and then what is gone,
    /// the other way round, so that nothing is taken away while something may still point at it.
    pub fn poll(&mut self, source: &impl Source) -> Option<DeltaDiscoveryResponse> {
        for kind in Kind::ALL {
            if self.kinds[kind as usize].outstanding.is_none()
                && let Some(response) = self.updates(kind, source)
            {
                return Some(response);
            }
        }
        let absent = self.unserved.poll(|| {
            self.last_nonce += 1;
            self.last_nonce
        });
        if absent.is_some() {
            return absent;
        }
        let busy = |state: &Subscription| {
            !state.pending.is_empty() || state.outstanding.as_ref().is_some_and(|sent| sent.updates)
        };
        if self.kinds.iter().any(busy) {
            return None;
        }
        // Listeners go before the routes they name, and clusters last.
        [Kind::Listener, Kind::Route, Kind::Endpoints, Kind::Cluster]
            .into_iter()
            .find_map(|kind| self.removals(kind))
    }

    /// How many resources the client has refused and not taken since.
    pub(super) fn refused(&self) -> usize {
        self.kinds.iter().map(|state| state.nacks.len()).sum()
    }

    /// The state of each type, for status.
    pub(super) fn kinds(&self) -> &[Subscription] {
        &self.kinds
    }

    fn updates(&mut self, kind: Kind, source: &impl Source) -> Option<DeltaDiscoveryResponse> {
        let state = &mut self.kinds[kind as usize];
        if kind.has_wildcard()
            && let Some(again) = state.pending.remove(WILDCARD)
        {
            expand(state, again, source);
        }
        let (mut resources, mut removed, mut sent, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
        while bytes < RESPONSE_BYTES && sent.len() < RESPONSE_NAMES {
            let Some((name, forced)) = state.pending.pop_first() else { break };
            let wild = state.wildcard != Wildcard::Off && source.in_wildcard(kind, &name);
            let visible = wild || state.names.contains(&name);
            let resource = visible.then(|| source.resource(kind, &name)).flatten();
            match (state.decide(&name, forced, resource.as_deref()), resource) {
                (Decision::Send, Some(resource)) => {
                    bytes += resource.size();
                    resources.push(wire(&resource));
                    sent.push((name, Some(resource.version)));
                }
                (Decision::Remove, _) => {
                    removed.push(name.to_string());
                    sent.push((name, None));
                }
                (Decision::Nothing | Decision::Send, _) => {}
            }
        }
        if sent.is_empty() {
            return None;
        }
        if kind == Kind::Cluster {
            self.repeat_endpoints(&sent);
        }
        Some(self.respond(kind, resources, removed, sent, true))
    }

    /// After a changed cluster its endpoints are sent again, changed or not: Envoy builds a new cluster and warms it
    /// until they come.
    fn repeat_endpoints(&mut self, clusters: &[(Name, Option<Version>)]) {
        let endpoints = &mut self.kinds[Kind::Endpoints as usize];
        for (name, version) in clusters {
            if version.is_some() && endpoints.names.contains(name) {
                endpoints.look_at(name.clone(), true);
            }
        }
    }

    fn removals(&mut self, kind: Kind) -> Option<DeltaDiscoveryResponse> {
        let state = &mut self.kinds[kind as usize];
        if state.gone.is_empty() || state.outstanding.is_some() {
            return None;
        }
        let gone = std::mem::take(&mut state.gone);
        gone.iter().for_each(|name| state.told_absent(name));
        let removed = gone.iter().map(|name| name.to_string()).collect();
        let sent = gone.into_iter().map(|name| (name, None)).collect();
        Some(self.respond(kind, Vec::new(), removed, sent, false))
    }

    fn respond(
        &mut self,
        kind: Kind,
        resources: Vec<WireResource>,
        removed_resources: Vec<String>,
        sent: Vec<(Name, Option<Version>)>,
        updates: bool,
    ) -> DeltaDiscoveryResponse {
        self.last_nonce += 1;
        let nonce = self.last_nonce;
        self.kinds[kind as usize].outstanding = Some(Outstanding { nonce, sent, updates });
        DeltaDiscoveryResponse {
            type_url: kind.type_url().into(),
            resources,
            removed_resources,
            nonce: nonce.to_string(),
            ..Default::default()
        }
    }
}

/// The ACK or NACK in a request, if its nonce is that of the response that waits. An older nonce answers nothing, but
/// the request's subscriptions still count. `error_detail` alone tells a NACK.
fn answer(state: &mut Subscription, request: &DeltaDiscoveryRequest, now: Timestamp) {
    let current = |sent: &mut Outstanding| sent.nonce.to_string() == request.response_nonce;
    let Some(Outstanding { nonce: _, sent, updates: _ }) = state.outstanding.take_if(current) else { return };
    match &request.error_detail {
        None => state.acked(sent),
        Some(error) => state.nacked(sent, &error.message, now),
    }
}

/// Every name that is subscribed to is answered, also one that the client should already have: it may have dropped it
/// since. What does not exist is answered as removed.
fn subscribe(
    state: &mut Subscription,
    names: &[String],
    interest: &mut Interest,
) -> Result<(), TooManyNames> {
    for name in names {
        let name = Name::from(name.as_str());
        if is_wildcard(state, &name) {
            let again = std::mem::replace(&mut state.wildcard, Wildcard::Explicit) == Wildcard::Explicit;
            state.look_at(name.clone(), again);
        } else {
            if state.wildcard == Wildcard::Legacy {
                state.end_wildcard();
                interest.dropped.push((state.kind, WILDCARD.into()));
            }
            if !state.names.contains(&name) && state.names.len() >= MAX_NAMES {
                return Err(TooManyNames(state.kind));
            }
            state.names.insert(name.clone());
            state.look_at(name.clone(), true);
        }
        interest.added.push((state.kind, name));
    }
    Ok(())
}

fn unsubscribe(state: &mut Subscription, names: &[String], interest: &mut Interest) {
    for name in names {
        let name = Name::from(name.as_str());
        if is_wildcard(state, &name) {
            state.end_wildcard();
            interest.dropped.push((state.kind, name));
            continue;
        }
        if state.names.remove(&name) {
            interest.dropped.push((state.kind, name.clone()));
        }
        if state.wildcard == Wildcard::Off {
            state.forget(&name);
        } else {
            // The client drops it and cannot know whether `*` still means it: it is told either way.
            state.look_at(name, true);
        }
    }
}

fn is_wildcard(state: &Subscription, name: &str) -> bool {
    name == WILDCARD && state.kind.has_wildcard()
}

/// Puts the names behind `*` in its place: those there are, and those that the client has.
fn expand(state: &mut Subscription, again: bool, source: &impl Source) {
    if state.wildcard == Wildcard::Off {
        return;
    }
    let held: Vec<_> = state.held.keys().cloned().collect();
    held.into_iter().for_each(|name| state.look_at(name, false));
    source.wildcard(state.kind).into_iter().for_each(|name| state.look_at(name, again));
}

fn wire(resource: &Resource) -> WireResource {
    WireResource {
        name: resource.name.to_string(),
        aliases: resource.aliases.iter().map(|alias| alias.to_string()).collect(),
        version: resource.version.to_string(),
        resource: Some(resource.to_any()),
        ..Default::default()
    }
}

/// A stream subscribed to more names of a type than any proxy uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("more than {MAX_NAMES} names subscribed by {}", .0.as_str())]
pub struct TooManyNames(pub Kind);

#[cfg(test)]
mod tests;
