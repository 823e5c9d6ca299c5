//! Sources, model, translation, xDS server, CA, registration.
