//! xDS configuration: subscribed over ADS, validated, warmed, published, and saved for a restart.

pub(crate) mod supervisor;
pub(crate) mod ads;
mod claims;
mod saving;
pub(crate) mod store;
pub(crate) mod subscriptions;
mod warming;
mod cache;
mod stream;
