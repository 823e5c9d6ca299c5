//! The state of one resource type on one stream: subscribed names, sent versions, pending and outstanding updates.
//!
//! Used by [`super::session::Session`]. Its size depends on the client's subscriptions and not on the mesh: a name and a
//! version hash each.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use outrigger_core::Name;

use super::nack;
use crate::translate::resource::{Kind, Resource, Version};

/// Maximum number of explicit names of one type on one stream. A proxy subscribes to the destinations that its
/// application calls.
pub(super) const MAX_NAMES: usize = 16_384;

/// The wildcard name.
pub(super) const WILDCARD: &str = "*";

/// Whether the client subscribes to the wildcard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wildcard {
    /// Not subscribed.
    Off,
    /// Subscribed by a first request without names, as older clients do. The first explicit name ends it.
    Legacy,
    /// Subscribed by the name `*`.
    Explicit,
}

/// What the client has of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientVersion {
    /// The version that was sent last. After a NACK the client may use an older one; the resource is sent again when it
    /// changes.
    Version(Version),
    /// A version from another control plane.
    Foreign,
    /// The client knows that the resource does not exist.
    Absent,
}

/// A resource that the client rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Nack {
    /// The rejected version; None for a removal.
    pub(super) version: Option<Version>,
    /// The client's reason for this resource, or its whole text if it has no reasons for single resources.
    pub(super) detail: Arc<str>,
    /// When.
    pub(super) since: Timestamp,
}

/// An update that is not acknowledged yet.
#[derive(Debug)]
pub(super) struct Outstanding {
    pub(super) nonce: u64,
    pub(super) sent: Vec<(Name, Option<Version>)>,
    pub(super) changes: bool,
}

/// The state of one resource type on one stream.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) kind: Kind,
    pub(super) requested: bool,
    pub(super) wildcard: Wildcard,
    /// A subscription to `*` is not answered yet. The answer may be empty; Envoy does not start without it.
    pub(super) wildcard_unanswered: bool,
    pub(super) names: BTreeSet<Name>,
    pub(super) client_versions: HashMap<Name, ClientVersion>,
    pub(super) acked: HashMap<Name, Version>,
    /// Names that may have changed; true if they must be answered even if unchanged.
    pub(super) pending: BTreeMap<Name, bool>,
    /// Names that the client has and that no longer exist. They are sent last.
    pub(super) removals: BTreeSet<Name>,
    pub(super) outstanding: Option<Outstanding>,
    pub(super) nacks: BTreeMap<Name, Nack>,
}

impl Subscription {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            requested: false,
            wildcard: Wildcard::Off,
            wildcard_unanswered: false,
            names: BTreeSet::new(),
            client_versions: HashMap::new(),
            acked: HashMap::new(),
            pending: BTreeMap::new(),
            removals: BTreeSet::new(),
            outstanding: None,
            nacks: BTreeMap::new(),
        }
    }

    /// Returns true if the client may be subscribed to this name. With a wildcard, the resource view decides.
    pub(super) fn covers(&self, name: &str) -> bool {
        self.wildcard != Wildcard::Off || self.names.contains(name)
    }

    /// Checks a name for the next update. If `forced`, it is answered even if it is unchanged.
    pub(super) fn mark_pending(&mut self, name: Name, forced: bool) {
        *self.pending.entry(name).or_default() |= forced;
    }

    /// Drops the state of a name that is no longer subscribed.
    pub(super) fn forget(&mut self, name: &str) {
        self.client_versions.remove(name);
        self.acked.remove(name);
        self.pending.remove(name);
        self.removals.remove(name);
        self.nacks.remove(name);
    }

    /// Ends the wildcard subscription and drops the state of all names without an explicit subscription.
    pub(super) fn end_wildcard(&mut self) {
        self.wildcard = Wildcard::Off;
        self.wildcard_unanswered = false;
        let client_versions: Vec<_> =
            self.client_versions.keys().chain(self.pending.keys()).chain(&self.removals).cloned().collect();
        for name in client_versions {
            if !self.names.contains(&name) {
                self.forget(&name);
            }
        }
    }

    /// Adds the resources that the client has from an earlier stream. Changed ones are sent, and removals of missing
    /// ones.
    pub(super) fn resume(&mut self, kept: Vec<(Name, Option<Version>)>) {
        // A client that has resources has had its answer on an earlier stream.
        self.wildcard_unanswered &= kept.is_empty();
        for (name, version) in kept {
            if self.covers(&name) && name.as_ref() != WILDCARD {
                self.client_versions
                    .insert(name.clone(), version.map_or(ClientVersion::Foreign, ClientVersion::Version));
                // An unchanged resource is not sent again, even if the same request subscribes to it by name.
                self.pending.insert(name, false);
            }
        }
    }

    /// Records an ACK: the client uses what it was sent.
    pub(super) fn acked(&mut self, sent: Vec<(Name, Option<Version>)>) {
        for (name, version) in sent {
            self.nacks.remove(&name);
            match version {
                Some(version) if self.client_versions.contains_key(&name) => self.acked.insert(name, version),
                _ => self.acked.remove(&name),
            };
        }
    }

    /// Records a NACK. The resources that its text does not reject are acknowledged.
    pub(super) fn nacked(&mut self, sent: Vec<(Name, Option<Version>)>, text: &str, since: Timestamp) {
        let rejected = nack::rejected(text, &sent.iter().map(|(name, _)| name).collect::<Vec<_>>());
        let (refused, taken) = sent.into_iter().partition(|(name, _)| rejected.contains_key(name));
        self.acked(taken);
        for (name, version) in refused {
            let Some(reason) = rejected.get(&name) else { continue };
            if self.client_versions.contains_key(&name) || version.is_none() {
                self.nacks.insert(name, Nack { version, detail: Arc::clone(reason), since });
            }
        }
    }

    /// Decides what to send for a pending name, given its current resource.
    pub(super) fn decide(&mut self, name: &Name, forced: bool, now: Option<&Resource>) -> Decision {
        let client_versions = self.client_versions.get(name).copied();
        self.removals.remove(name);
        match (now.map(|resource| resource.version), client_versions) {
            (Some(version), Some(ClientVersion::Version(sent))) if version == sent && !forced => {
                Decision::Nothing
            }
            (Some(version), _) => {
                self.client_versions.insert(name.clone(), ClientVersion::Version(version));
                Decision::Send
            }
            (None, Some(ClientVersion::Absent)) if !forced => Decision::Nothing,
            (None, Some(ClientVersion::Version(_) | ClientVersion::Foreign)) if !forced => {
                self.removals.insert(name.clone());
                Decision::Nothing
            }
            (None, _) if forced || self.names.contains(name) => {
                self.mark_absent(name);
                Decision::Remove
            }
            (None, _) => Decision::Nothing,
        }
    }

    /// Records that the client knows that the resource does not exist. This is kept for explicit names only.
    pub(super) fn mark_absent(&mut self, name: &Name) {
        self.acked.remove(name);
        if self.names.contains(name) {
            self.client_versions.insert(name.clone(), ClientVersion::Absent);
        } else {
            self.client_versions.remove(name);
        }
    }
}

/// What to send for a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Nothing.
    Nothing,
    /// The resource.
    Send,
    /// A removal.
    Remove,
}
