//! Sockets: where listening ones are made, what an accepted or dialled one is, and which addresses it has.
//!
//! The rest of the data plane sees [`stream::Stream`] and never asks whether bytes are encrypted.

pub(crate) mod listener;
pub(crate) mod stream;
mod peer;
pub(crate) mod address;
