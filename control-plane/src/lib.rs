//! Sources, model, translation, xDS server, CA, registration.

pub mod xds;
pub mod translate;
pub mod source;
pub mod model;
pub mod peer;
