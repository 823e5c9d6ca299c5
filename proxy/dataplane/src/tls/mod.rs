//! TLS between sidecars: TLS 1.3, both sides verified by SPIFFE identity, key exchange X25519MLKEM768 preferred.
//!
//! Workers call [`hello`] and [`accept`] for connections that came in and [`connect`] for those that they dial; both take a
//! configuration that [`server_config`] or [`ClientConfigs`] made from the workload's [`Credentials`].
//!
//! [`hello`]: handshake::hello
//! [`accept`]: handshake::accept
//! [`connect`]: handshake::connect
//! [`server_config`]: config::server_config
//! [`ClientConfigs`]: config::ClientConfigs
//! [`Credentials`]: credentials::Credentials

pub(crate) mod host;
pub(crate) mod handshake;
pub(crate) mod config;
pub(crate) mod credentials;
pub(crate) mod peer_certificate;
