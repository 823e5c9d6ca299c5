//! Sources, model, translation, xDS server, CA, registration.

pub mod model;
