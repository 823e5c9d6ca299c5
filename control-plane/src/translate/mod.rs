//! From the mesh to xDS resources: lazily, once for all who ask the same, and again only where the mesh changed.
//!
//! [`catalog`] answers for a name and a viewer; below it stands one file a resource, and [`defaults`] holds every
//! number that the mesh gives to who sets none.

pub mod catalog;
mod cache;
mod wildcard;
mod inbound;
mod listener;
mod route;
mod action;
mod matching;
mod cluster;
mod endpoint;
mod defaults;
mod wire;
pub mod destination;
pub mod resource;
pub mod scope;
