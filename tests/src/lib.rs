//! A whole mesh in one process: the real control plane, real proxies, small applications, and clients that speak raw bytes.
//!
//! Every test has a mesh of its own, on free ports and in a temporary directory, so that all of them run at once. Nothing
//! here sleeps for a fixed time: what has to happen is waited for, with a deadline that only a broken mesh meets. A helper
//! that cannot go on panics, and thereby fails its test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what is unexpected here fails the test"
)]

pub mod shop;
pub mod mesh;
pub mod sidecar;
mod cable;
pub mod tls;
pub mod load;
pub mod grpc;
