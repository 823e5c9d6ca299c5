//! The control plane: configuration sources, the mesh model, translation to xDS, the xDS server, the CA and registration.

pub mod run;
pub mod listener;
pub mod admin;
pub mod ca;
pub mod registration;
pub mod history;
pub mod token;
pub mod status;
pub mod admin_client;
pub mod xds;
pub mod translate;
pub mod source;
pub mod state;
pub mod model;
pub mod metrics;
mod quota;
mod crowd;
pub mod peer;
