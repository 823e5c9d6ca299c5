//! Sources, model, translation, xDS server, CA, registration.

pub mod listener;
pub mod ca;
pub mod registration;
pub mod source;
pub mod state;
pub mod model;
pub mod metrics;
pub mod peer;
