//! A set of compiled resources by kind and name: those accepted, or those published.

use std::collections::BTreeMap;
use std::sync::Arc;

use outrigger_core::Name;

use crate::compiled::Compiled;
use outrigger_proto::kind::{Kind, PerKind};

/// A set of compiled resources. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Resources(PerKind<BTreeMap<Name, Arc<Compiled>>>);

impl Resources {
    /// Returns all resources of a kind, ordered by name.
    pub fn of(&self, kind: Kind) -> &BTreeMap<Name, Arc<Compiled>> {
        &self.0[kind]
    }

    /// Returns the resource with this name.
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Arc<Compiled>> {
        self.0[kind].get(name)
    }

    /// Returns true if there is a resource with this name.
    pub fn contains(&self, kind: Kind, name: &str) -> bool {
        self.0[kind].contains_key(name)
    }

    /// Inserts a resource, replacing the one with its name.
    pub fn insert(&mut self, kind: Kind, resource: Arc<Compiled>) {
        self.0[kind].insert(resource.raw().name.clone(), resource);
    }

    /// Removes a resource.
    pub fn remove(&mut self, kind: Kind, name: &str) {
        self.0[kind].remove(name);
    }

    /// Keeps the resources for which `keep` returns true. Returns true if any was removed.
    pub fn retain(&mut self, kind: Kind, keep: impl Fn(&Name, &Compiled) -> bool) -> bool {
        let before = self.0[kind].len();
        self.0[kind].retain(|name, resource| keep(name, resource));
        self.0[kind].len() != before
    }

    /// Returns true if both have the same names with the same content, ignoring versions.
    pub fn same_content(&self, other: &Self) -> bool {
        Kind::ALL.into_iter().all(|kind| self.all(other, kind, |one, other| one.same_content(other)))
    }

    /// Returns true if both share every resource of a kind.
    pub(crate) fn shares(&self, other: &Self, kind: Kind) -> bool {
        self.all(other, kind, Arc::ptr_eq)
    }

    fn all(&self, other: &Self, kind: Kind, same: impl Fn(&Arc<Compiled>, &Arc<Compiled>) -> bool) -> bool {
        let (one, other) = (self.of(kind), other.of(kind));
        let pairs = one.iter().zip(other);
        one.len() == other.len() && { pairs }.all(|((name, of), (other, by))| name == other && same(of, by))
    }
}
