//! Opaque bytes: a connection that is not HTTP, or is no longer.

pub(crate) mod relay;
pub(crate) mod dial;
pub(crate) mod copy;
mod one_way;
mod splice;
