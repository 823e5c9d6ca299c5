//! From raw resources to a snapshot: decode, compile, warm.
//!
//! Discovery calls [`Builder::apply`] with each response and [`Builder::build`] after it. What cannot be used is refused by
//! name and its last good version stays; unchanged leaves are shared with the snapshot before; a destination is published
//! once its routes, clusters and endpoints are there, and until then its last version stays.

use std::sync::Arc;

use outrigger_core::Name;
use outrigger_policy::field::Unusable;
use outrigger_proto::xds::protobuf::Any;

use crate::listener::Listener;
use crate::snapshot::Snapshot;

/// A resource as it came, with its version.
#[derive(Debug, Clone)]
pub struct Raw {
    /// Its name, as the discovery response says.
    pub name: Name,
    /// Other names of it (`Resource.aliases`): in wildcard mode, addresses of a destination.
    pub aliases: Vec<Name>,
    /// Its version.
    pub version: Name,
    /// The message.
    pub body: Any,
}

/// A resource that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its type.
    pub type_url: &'static str,
    /// Its name.
    pub name: Name,
    /// The version that was refused.
    pub version: Name,
    /// Which field, and what is wrong with it.
    pub reason: Unusable,
}

/// What came of a build.
#[derive(Debug, Clone)]
pub struct Built {
    /// To publish.
    pub snapshot: Arc<Snapshot>,
    /// Whether it differs from the one before.
    pub changed: bool,
    /// What was held back because something that it names is not there yet.
    pub warming: Vec<Warming>,
}

/// A resource that waits for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warming {
    /// Its type.
    pub type_url: &'static str,
    /// Its name.
    pub name: Name,
    /// The type and name of what it waits for.
    pub needs: Vec<(&'static str, Name)>,
}

/// Keeps the resources and makes snapshots of them.
#[derive(Debug, Default)]
pub struct Builder {
    own: Vec<Arc<Listener>>,
}

impl Builder {
    /// A builder whose snapshots always have these listeners of the proxy's own.
    pub fn new(own: Vec<Arc<Listener>>) -> Self {
        Self { own }
    }
}
