//! What operators ask: pages on loopback for reading, and a Unix socket, its owner's alone, for what makes secrets.

pub(crate) mod server;
pub(crate) mod pages;
