//! What one stream knows of one resource type: what the client asked for, what it was sent, what waits.
//!
//! Driven by [`super::session::Session`]. Its size is what the client subscribed to, never the mesh: a name and the hash
//! that was sent.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use outrigger_core::Name;

use super::nack;
use crate::translate::resource::{Kind, Resource, Version};

/// Explicit names of one type on one stream. A proxy has as many destinations as its application calls; what asks for
/// more is broken or hostile.
pub(super) const MAX_NAMES: usize = 16_384;

/// The wildcard name.
pub(super) const WILDCARD: &str = "*";

/// Whether everything is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wildcard {
    /// Only names.
    Off,
    /// By a first request without names, as older clients do; the first explicit name ends it.
    Legacy,
    /// By the name `*`.
    Explicit,
}

/// What the client has of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// This version, as far as it was sent. After a NACK it may use an older one; it is sent again only when changed.
    Version(Version),
    /// A version that another control plane gave it.
    Foreign,
    /// It was told that there is none.
    Absent,
}

/// A resource that the client refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Nack {
    /// The refused version; none for a removal.
    pub(super) version: Option<Version>,
    /// The client's reason for this resource, or its whole text if that gives none for single resources.
    pub(super) detail: Arc<str>,
    /// When.
    pub(super) since: Timestamp,
}

/// An update that was not answered yet.
#[derive(Debug)]
pub(super) struct Outstanding {
    pub(super) nonce: u64,
    pub(super) sent: Vec<(Name, Option<Version>)>,
    pub(super) changes: bool,
}

/// One resource type on one stream.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) kind: Kind,
    pub(super) seen: bool,
    pub(super) wildcard: Wildcard,
    /// A subscription to `*` has no answer yet. Its answer may be empty: Envoy starts only when it has one.
    pub(super) wildcard_unanswered: bool,
    pub(super) names: BTreeSet<Name>,
    pub(super) held: HashMap<Name, Held>,
    pub(super) acked: HashMap<Name, Version>,
    /// Names to look at; `true`: to be answered even if nothing changed.
    pub(super) pending: BTreeMap<Name, bool>,
    /// Names that the client holds and that are gone: told last.
    pub(super) gone: BTreeSet<Name>,
    pub(super) outstanding: Option<Outstanding>,
    pub(super) nacks: BTreeMap<Name, Nack>,
}

impl Subscription {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            seen: false,
            wildcard: Wildcard::Off,
            wildcard_unanswered: false,
            names: BTreeSet::new(),
            held: HashMap::new(),
            acked: HashMap::new(),
            pending: BTreeMap::new(),
            gone: BTreeSet::new(),
            outstanding: None,
            nacks: BTreeMap::new(),
        }
    }

    /// Whether the client cares about this name. Under a wildcard the source decides what exists for it.
    pub(super) fn covers(&self, name: &str) -> bool {
        self.wildcard != Wildcard::Off || self.names.contains(name)
    }

    /// Looks at a name again when the next response is made; `forced` answers it even if nothing changed.
    pub(super) fn look_at(&mut self, name: Name, forced: bool) {
        *self.pending.entry(name).or_default() |= forced;
    }

    /// Forgets everything about a name that nobody asks for any more.
    pub(super) fn forget(&mut self, name: &str) {
        self.held.remove(name);
        self.acked.remove(name);
        self.pending.remove(name);
        self.gone.remove(name);
        self.nacks.remove(name);
    }

    /// Forgets all that only a wildcard asked for.
    pub(super) fn end_wildcard(&mut self) {
        self.wildcard = Wildcard::Off;
        self.wildcard_unanswered = false;
        let held: Vec<_> = self.held.keys().chain(self.pending.keys()).chain(&self.gone).cloned().collect();
        for name in held {
            if !self.names.contains(&name) {
                self.forget(&name);
            }
        }
    }

    /// What the client says that it kept from an earlier session: looked at, so that what changed is sent and what
    /// vanished is told.
    pub(super) fn resume(&mut self, kept: Vec<(Name, Option<Version>)>) {
        for (name, version) in kept {
            if self.covers(&name) && name.as_ref() != WILDCARD {
                self.held.insert(name.clone(), version.map_or(Held::Foreign, Held::Version));
                // What is equal is not sent again, also where the same request subscribes to it by name.
                self.pending.insert(name, false);
            }
        }
    }

    /// The client took the response: what it was sent is what it has.
    pub(super) fn acked(&mut self, sent: Vec<(Name, Option<Version>)>) {
        for (name, version) in sent {
            self.nacks.remove(&name);
            match version {
                Some(version) if self.held.contains_key(&name) => self.acked.insert(name, version),
                _ => self.acked.remove(&name),
            };
        }
    }

    /// The client rejected resources of the response: those that its text rejects. It acknowledged the others.
    pub(super) fn nacked(&mut self, sent: Vec<(Name, Option<Version>)>, text: &str, since: Timestamp) {
        let rejected = nack::rejected(text, &sent.iter().map(|(name, _)| name).collect::<Vec<_>>());
        let (refused, taken) = sent.into_iter().partition(|(name, _)| rejected.contains_key(name));
        self.acked(taken);
        for (name, version) in refused {
            let Some(reason) = rejected.get(&name) else { continue };
            if self.held.contains_key(&name) || version.is_none() {
                self.nacks.insert(name, Nack { version, detail: Arc::clone(reason), since });
            }
        }
    }

    /// Decides what a name that waits needs, given what it is now.
    pub(super) fn decide(&mut self, name: &Name, forced: bool, now: Option<&Resource>) -> Decision {
        let held = self.held.get(name).copied();
        self.gone.remove(name);
        match (now.map(|resource| resource.version), held) {
            (Some(version), Some(Held::Version(sent))) if version == sent && !forced => Decision::Nothing,
            (Some(version), _) => {
                self.held.insert(name.clone(), Held::Version(version));
                Decision::Send
            }
            (None, Some(Held::Absent)) if !forced => Decision::Nothing,
            (None, Some(Held::Version(_) | Held::Foreign)) if !forced => {
                self.gone.insert(name.clone());
                Decision::Nothing
            }
            (None, _) if forced || self.names.contains(name) => {
                self.told_absent(name);
                Decision::Remove
            }
            (None, _) => Decision::Nothing,
        }
    }

    /// The client is told that there is no such resource; only for its explicit names is that remembered.
    pub(super) fn told_absent(&mut self, name: &Name) {
        self.acked.remove(name);
        if self.names.contains(name) {
            self.held.insert(name.clone(), Held::Absent);
        } else {
            self.held.remove(name);
        }
    }
}

/// What to answer about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Nothing now.
    Nothing,
    /// The resource.
    Send,
    /// That there is none.
    Remove,
}
