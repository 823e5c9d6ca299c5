//! Where config comes from: xDS streams, cache on disk, identity, registration, DNS.

mod stream;
pub mod kind;
mod backoff;
