//! One client's subscriptions and what it was sent, whatever variant of the protocol it speaks.
//!
//! No wire message, no I/O, no clock, no knowledge of the mesh: a face ([`super::delta`]) turns messages into [`Request`]s
//! and [`Update`]s into messages, and a [`Source`] has the resources. The rules are those of "xDS REST and gRPC
//! protocol"; each stands where it is kept. At most one update of a type waits for its answer, so that a slow client
//! costs the names it subscribed to and not a queue.

use std::sync::Arc;

use jiff::Timestamp;
use outrigger_core::Name;
use thiserror::Error;

use super::subscription::{Decision, MAX_NAMES, Outstanding, Subscription, WILDCARD, Wildcard};
use crate::translate::resource::{Kind, Resource, Version};

/// Encoded bytes of resources after which an update is closed and the rest waits for its ACK: well under the 4 MiB
/// that gRPC receivers take by default.
const UPDATE_BYTES: usize = 1 << 20;
/// Names in one update, so that one client's wildcard does not keep a thread for long.
const UPDATE_NAMES: usize = 1_000;

/// What there is to serve, as one node sees it. The translation is one; tests have another.
pub(super) trait Source {
    /// The resource of this name, if there is one.
    fn resource(&self, kind: Kind, name: &str) -> Option<Arc<Resource>>;
    /// The names that `*` means.
    fn wildcard(&self, kind: Kind) -> Vec<Name>;
    /// Whether `*` means this name.
    fn in_wildcard(&self, kind: Kind, name: &str) -> bool;
}

/// What a client says about one resource type: an answer to an update, a change of its subscriptions, or both.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) kind: Kind,
    /// None in the first request of a type, and in one that only changes subscriptions.
    pub(super) answer: Option<Answer>,
    pub(super) subscribe: Vec<Name>,
    pub(super) unsubscribe: Vec<Name>,
    /// What it kept from an earlier session; none for a version of another server. Counts in the first request of a
    /// type only.
    pub(super) kept: Vec<(Name, Option<Version>)>,
}

/// An ACK, or a NACK with the client's words.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) nonce: u64,
    pub(super) refusal: Option<String>,
}

/// What a client is to be told about one resource type.
#[derive(Debug)]
pub(super) struct Update {
    pub(super) kind: Kind,
    /// The answer to it has the same.
    pub(super) nonce: u64,
    pub(super) resources: Vec<Arc<Resource>>,
    /// Names of which there is no resource.
    pub(super) removed: Vec<Name>,
}

/// The session of one stream.
#[derive(Debug)]
pub(super) struct Session {
    kinds: [Subscription; 4],
    last_nonce: u64,
}

/// Names that ceased and began to matter by one request, in that order: one in both lists matters. `*` is among them
/// as a name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Interest {
    /// Now subscribed.
    pub(super) added: Vec<(Kind, Name)>,
    /// No longer.
    pub(super) dropped: Vec<(Kind, Name)>,
}

impl Default for Session {
    fn default() -> Self {
        Self { kinds: Kind::ALL.map(Subscription::new), last_nonce: 0 }
    }
}

impl Session {
    /// Takes a request. Fails when the client subscribes to more than [`MAX_NAMES`]; the session is then of no more use.
    pub(super) fn on_request(&mut self, request: Request, now: Timestamp) -> Result<Interest, TooManyNames> {
        let Request { kind, answer, subscribe, unsubscribe, kept } = request;
        let state = &mut self.kinds[kind as usize];
        if let Some(answer) = answer {
            on_answer(state, answer, now);
        }
        let first = !std::mem::replace(&mut state.seen, true);
        let mut interest = Interest::default();
        // "An empty first request of a type is a wildcard subscription", where the type has one.
        if first && kind.has_wildcard() && subscribe.is_empty() {
            state.wildcard = Wildcard::Legacy;
            state.wildcard_unanswered = true;
            state.look_at(WILDCARD.into(), false);
            interest.added.push((kind, WILDCARD.into()));
        }
        // In this order, so that a name in both lists is one that the client subscribes to again.
        on_unsubscribe(state, unsubscribe, &mut interest);
        on_subscribe(state, subscribe, &mut interest)?;
        if first {
            state.resume(kept);
        }
        Ok(interest)
    }

    /// Something changed that may have to do with this name; `*` stands for the set of names behind the wildcard.
    pub(super) fn on_change(&mut self, kind: Kind, name: Name) {
        let state = &mut self.kinds[kind as usize];
        if state.covers(&name) {
            state.look_at(name, false);
        }
    }

    /// The next update that may be sent now, if any: clusters, endpoints, listeners, routes, and then what is gone,
    /// the other way round, so that nothing is taken away while something may still point at it.
    pub(super) fn poll(&mut self, source: &impl Source) -> Option<Update> {
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

    fn changes(&mut self, kind: Kind, source: &impl Source) -> Option<Update> {
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

    fn removals(&mut self, kind: Kind) -> Option<Update> {
        let state = &mut self.kinds[kind as usize];
        if state.gone.is_empty() || state.outstanding.is_some() {
            return None;
        }
        let gone = std::mem::take(&mut state.gone);
        gone.iter().for_each(|name| state.told_absent(name));
        let removed = gone.iter().cloned().collect();
        let sent = gone.into_iter().map(|name| (name, None)).collect();
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

/// An answer counts if its nonce is that of the update that waits. An older one answers nothing.
fn on_answer(state: &mut Subscription, Answer { nonce, refusal }: Answer, now: Timestamp) {
    let sent = state.outstanding.take_if(|sent| sent.nonce == nonce);
    let Some(Outstanding { nonce: _, sent, changes: _ }) = sent else { return };
    match refusal {
        None => state.acked(sent),
        Some(detail) => state.nacked(sent, &detail, now),
    }
}

/// Every name that is subscribed to is answered, also one that the client should already have: it may have dropped it
/// since. What does not exist is answered as removed.
fn on_subscribe(
    state: &mut Subscription,
    names: Vec<Name>,
    interest: &mut Interest,
) -> Result<(), TooManyNames> {
    for name in names {
        if is_wildcard(state, &name) {
            let again = std::mem::replace(&mut state.wildcard, Wildcard::Explicit) == Wildcard::Explicit;
            state.wildcard_unanswered = true;
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

fn on_unsubscribe(state: &mut Subscription, names: Vec<Name>, interest: &mut Interest) {
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

/// A stream subscribed to more names of a type than any proxy uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("more than {MAX_NAMES} names subscribed by {}", .0.service())]
pub(super) struct TooManyNames(pub(super) Kind);

#[cfg(test)]
pub(super) mod tests;
