//! The configuration: asked for over ADS, decided about, published, and saved for a restart.

pub(crate) mod supervisor;
pub(crate) mod ads;
mod claims;
pub(crate) mod store;
pub(crate) mod subscriptions;
mod warming;
mod cache;
mod stream;
