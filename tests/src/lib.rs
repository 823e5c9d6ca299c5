//! A whole mesh in one process: the real control plane and real proxies, between the applications and clients of
//! `outrigger-test-support`.
//!
//! Each test starts its own mesh, on free ports and in a temporary directory, so that tests run in parallel. Nothing here sleeps
//! for a fixed time: conditions are polled, with a deadline that only a broken mesh reaches. A helper that fails panics, and
//! so fails its test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what is unexpected here fails the test"
)]

pub mod shop;
pub mod mesh;
pub mod sidecar;
mod relay;
pub mod tls;
pub mod load;
pub mod grpc;
