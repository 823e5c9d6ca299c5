//! What the tests of several crates share: applications and clients that speak raw HTTP/1, HTTP/2 or plain bytes, TLS
//! connections, a certificate authority, signed tokens, and limits that Outrigger's is compared with. None of it uses the mesh's own code.
//!
//! A helper that fails panics, and so fails its test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what is unexpected here fails the test"
)]

pub mod grpc;
pub mod application;
pub mod client;
pub mod http1;
pub mod http2;
pub mod tls;
pub mod tls_front;
pub mod authority;
pub mod token;
pub mod limits;
pub mod wait;
