//! The admin interface for operators: read-only pages on loopback, and a Unix socket of mode 0600 that also creates tokens.

pub(crate) mod server;
pub(crate) mod pages;
