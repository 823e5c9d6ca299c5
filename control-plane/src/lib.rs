//! The control plane: configuration sources, the mesh model, translation to xDS, the xDS server, the CA and registration.

pub mod run;
pub mod kubernetes;
mod listener;
mod admin;
pub mod ca;
mod registration;
pub mod injection;
pub mod history;
pub mod token;
pub mod status;
pub mod explain;
pub mod admin_client;
mod xds;
pub mod translate;
pub mod source;
pub mod state;
pub mod model;
mod metrics;
mod quota;
mod fair_queue;
mod fair_slots;
mod peer;
