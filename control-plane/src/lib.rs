//! Sources, model, translation, xDS server, CA, registration.

pub mod source;
pub mod model;
pub mod peer;
pub mod state;
