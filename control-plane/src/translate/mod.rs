//! From the mesh to xDS resources: lazily, once for all who ask the same, and again only where the mesh changed.

pub mod resource;
