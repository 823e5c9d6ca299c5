//! The subscriptions of one client and the resources that were sent to it, independent of the protocol variant.
//!
//! There are no wire messages, no I/O, no clock and no knowledge of the mesh here: [`super::delta`] converts messages to
//! [`Request`]s and [`Update`]s to messages, and a [`ResourceView`] provides the resources. The rules are those of "xDS
//! REST and gRPC protocol". At most one update of a type is outstanding, so that a slow client costs its subscriptions
//! and no queue.

use std::sync::Arc;

use jiff::Timestamp;
use outrigger_core::Name;
use thiserror::Error;

use super::subscription::{Decision, MAX_NAMES, Outstanding, Subscription, WILDCARD, Wildcard};
use crate::translate::resource::{Kind, Resource, Version};

/// Encoded size of resources at which an update is complete; the others wait for its ACK. It is well below the 4 MiB that
/// gRPC clients accept by default.
const UPDATE_BYTES: usize = 1 << 20;
/// Maximum number of names in one update, so that one client's wildcard does not occupy a thread for long.
const UPDATE_NAMES: usize = 1_000;

/// The resources that one client can see.
pub(super) trait ResourceView {
    /// Returns the resource of this name, or None if it does not exist.
    fn resource(&self, kind: Kind, name: &str) -> Option<Arc<Resource>>;
    /// Returns the names that `*` stands for.
    fn wildcard(&self, kind: Kind) -> Vec<Name>;
    /// Returns true if `*` includes this name.
    fn in_wildcard(&self, kind: Kind, name: &str) -> bool;
}

/// A client's message about one resource type: an acknowledgement, a change of its subscriptions, or both.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) kind: Kind,
    /// None in the first request of a type and in one that only changes subscriptions.
    pub(super) acknowledgement: Option<Acknowledgement>,
    pub(super) subscribe: Vec<Name>,
    pub(super) unsubscribe: Vec<Name>,
    /// The resources that the client has from an earlier stream, without a version if another server sent it. Used in the
    /// first request of a type only.
    pub(super) kept: Vec<(Name, Option<Version>)>,
}

/// An ACK, or a NACK with the client's text.
#[derive(Debug)]
pub(super) struct Acknowledgement {
    pub(super) nonce: u64,
    pub(super) rejection: Option<String>,
}

/// An update of one resource type for a client.
#[derive(Debug)]
pub(super) struct Update {
    pub(super) kind: Kind,
    /// Identifies the update in its acknowledgement.
    pub(super) nonce: u64,
    pub(super) resources: Vec<Arc<Resource>>,
    /// Names that do not exist, or no longer.
    pub(super) removed: Vec<Name>,
}

/// The session of one stream.
#[derive(Debug)]
pub(super) struct Session {
    kinds: [Subscription; 4],
    last_nonce: u64,
}

/// Names that one request unsubscribed and subscribed, applied in this order. `*` is one of the names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SubscriptionChange {
    /// Subscribed now.
    pub(super) added: Vec<(Kind, Name)>,
    /// No longer subscribed.
    pub(super) dropped: Vec<(Kind, Name)>,
}

impl Default for Session {
    fn default() -> Self {
        Self { kinds: Kind::ALL.map(Subscription::new), last_nonce: 0 }
    }
}

impl Session {
    /// Applies a request. Returns an error if the client subscribes to more than [`MAX_NAMES`]; the session must not be
    /// used after that.
    pub(super) fn on_request(
        &mut self,
        request: Request,
        now: Timestamp,
    ) -> Result<SubscriptionChange, TooManyNames> {
        let Request { kind, acknowledgement, subscribe, unsubscribe, kept } = request;
        let state = &mut self.kinds[kind as usize];
        if let Some(acknowledgement) = acknowledgement {
            on_acknowledgement(state, acknowledgement, now);
        }
        let first = !std::mem::replace(&mut state.requested, true);
        let mut interest = SubscriptionChange::default();
        // The first request of a type without names is a wildcard subscription, if the type has one.
        if first && kind.has_wildcard() && subscribe.is_empty() {
            state.wildcard = Wildcard::Legacy;
            state.wildcard_unanswered = true;
            state.mark_pending(WILDCARD.into(), false);
            interest.added.push((kind, WILDCARD.into()));
        }
        // In this order: a name in both lists is subscribed again.
        on_unsubscribe(state, unsubscribe, &mut interest);
        on_subscribe(state, subscribe, &mut interest)?;
        if first {
            state.resume(kept);
        }
        Ok(interest)
    }

    /// Marks a name whose resource may have changed; `*` stands for the set of names of the wildcard, and if the kind has none, for
    /// every name that is subscribed.
    pub(super) fn on_change(&mut self, kind: Kind, name: Name) {
        let state = &mut self.kinds[kind as usize];
        if &*name == WILDCARD && !kind.has_wildcard() {
            let names = state.names.clone();
            names.into_iter().for_each(|name| state.mark_pending(name, false));
        } else if state.covers(&name) {
            state.mark_pending(name, false);
        }
    }

    /// Returns the next update that may be sent now: clusters, endpoints, listeners, routes, and then removals in the
    /// opposite order, so that nothing is removed while something may still refer to it.
    pub(super) fn poll(&mut self, source: &impl ResourceView) -> Option<Update> {
        for kind in Kind::ALL {
            if self.kinds[kind as usize].outstanding.is_none()
                && let Some(update) = self.changes(kind, source)
            {
                return Some(update);
            }
        }
        let busy = |state: &Subscription| {
            !state.pending.is_empty() || state.outstanding.as_ref().is_some_and(|sent| sent.changes)
        };
        if self.kinds.iter().any(busy) {
            return None;
        }
        // Listeners are removed before the routes that they name, and clusters last.
        [Kind::Listener, Kind::Route, Kind::Endpoints, Kind::Cluster]
            .into_iter()
            .find_map(|kind| self.removals(kind))
    }

    /// Returns the number of rejected resources.
    pub(super) fn refused(&self) -> usize {
        self.kinds.iter().map(|state| state.nacks.len()).sum()
    }

    /// Returns the state of each type, for the status page.
    pub(super) fn kinds(&self) -> &[Subscription] {
        &self.kinds
    }

    fn changes(&mut self, kind: Kind, source: &impl ResourceView) -> Option<Update> {
        let state = &mut self.kinds[kind as usize];
        if kind.has_wildcard()
            && let Some(again) = state.pending.remove(WILDCARD)
        {
            expand(state, again, source);
        }
        let (mut resources, mut removed, mut sent, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
        while bytes < UPDATE_BYTES && sent.len() < UPDATE_NAMES {
            let Some((name, forced)) = state.pending.pop_first() else { break };
            let wild = state.wildcard != Wildcard::Off && source.in_wildcard(kind, &name);
            let visible = wild || state.names.contains(&name);
            let resource = visible.then(|| source.resource(kind, &name)).flatten();
            match (state.decide(&name, forced, resource.as_deref()), resource) {
                (Decision::Send, Some(resource)) => {
                    bytes += resource.size();
                    sent.push((name, Some(resource.version)));
                    resources.push(resource);
                }
                (Decision::Remove, _) => {
                    removed.push(name.clone());
                    sent.push((name, None));
                }
                (Decision::Nothing | Decision::Send, _) => {}
            }
        }
        if sent.is_empty() && !state.wildcard_unanswered {
            return None;
        }
        state.wildcard_unanswered = false;
        if kind == Kind::Cluster {
            self.repeat_endpoints(&sent);
        }
        Some(self.update(kind, resources, removed, sent, true))
    }

    /// Sends the endpoints of changed clusters again, changed or not: Envoy creates a new cluster and warms it until its
    /// endpoints arrive.
    fn repeat_endpoints(&mut self, clusters: &[(Name, Option<Version>)]) {
        let endpoints = &mut self.kinds[Kind::Endpoints as usize];
        for (name, version) in clusters {
            if version.is_some() && endpoints.names.contains(name) {
                endpoints.mark_pending(name.clone(), true);
            }
        }
    }

    fn removals(&mut self, kind: Kind) -> Option<Update> {
        let state = &mut self.kinds[kind as usize];
        if state.removals.is_empty() || state.outstanding.is_some() {
            return None;
        }
        let removals = std::mem::take(&mut state.removals);
        removals.iter().for_each(|name| state.mark_absent(name));
        let removed = removals.iter().cloned().collect();
        let sent = removals.into_iter().map(|name| (name, None)).collect();
        Some(self.update(kind, Vec::new(), removed, sent, false))
    }

    fn update(
        &mut self,
        kind: Kind,
        resources: Vec<Arc<Resource>>,
        removed: Vec<Name>,
        sent: Vec<(Name, Option<Version>)>,
        changes: bool,
    ) -> Update {
        self.last_nonce += 1;
        let nonce = self.last_nonce;
        self.kinds[kind as usize].outstanding = Some(Outstanding { nonce, sent, changes });
        Update { kind, nonce, resources, removed }
    }
}

/// Applies an acknowledgement. One with another nonce than the outstanding update's is stale and ignored.
fn on_acknowledgement(
    state: &mut Subscription,
    Acknowledgement { nonce, rejection }: Acknowledgement,
    now: Timestamp,
) {
    let sent = state.outstanding.take_if(|sent| sent.nonce == nonce);
    let Some(Outstanding { nonce: _, sent, changes: _ }) = sent else { return };
    match rejection {
        None => state.acked(sent),
        Some(detail) => state.nacked(sent, &detail, now),
    }
}

/// Every subscription is answered, also of a name that the client should already have: it may have dropped it since. A
/// name that does not exist is answered as removed.
fn on_subscribe(
    state: &mut Subscription,
    names: Vec<Name>,
    interest: &mut SubscriptionChange,
) -> Result<(), TooManyNames> {
    for name in names {
        if is_wildcard(state, &name) {
            let again = std::mem::replace(&mut state.wildcard, Wildcard::Explicit) == Wildcard::Explicit;
            state.wildcard_unanswered = true;
            state.mark_pending(name.clone(), again);
        } else {
            if state.wildcard == Wildcard::Legacy {
                state.end_wildcard();
                interest.dropped.push((state.kind, WILDCARD.into()));
            }
            if !state.names.contains(&name) && state.names.len() >= MAX_NAMES {
                return Err(TooManyNames(state.kind));
            }
            state.names.insert(name.clone());
            state.mark_pending(name.clone(), true);
        }
        interest.added.push((state.kind, name));
    }
    Ok(())
}

fn on_unsubscribe(state: &mut Subscription, names: Vec<Name>, interest: &mut SubscriptionChange) {
    for name in names {
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
            // The client drops the resource and cannot know whether `*` still includes it, so the name is answered either
            // way.
            state.mark_pending(name, true);
        }
    }
}

fn is_wildcard(state: &Subscription, name: &str) -> bool {
    name == WILDCARD && state.kind.has_wildcard()
}

/// Replaces `*` by its names: those that exist, and those that the client has.
fn expand(state: &mut Subscription, again: bool, source: &impl ResourceView) {
    if state.wildcard == Wildcard::Off {
        return;
    }
    let client_versions: Vec<_> = state.client_versions.keys().cloned().collect();
    client_versions.into_iter().for_each(|name| state.mark_pending(name, false));
    source.wildcard(state.kind).into_iter().for_each(|name| state.mark_pending(name, again));
}

/// A stream subscribed to more names of a type than any proxy needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("more than {MAX_NAMES} names subscribed by {}", .0.service())]
pub(super) struct TooManyNames(pub(super) Kind);

#[cfg(test)]
pub(super) mod tests;
