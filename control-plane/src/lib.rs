//! Sources, model, translation, xDS server, CA, registration.

pub mod model;
pub mod peer;
