//! The DNS answerer of a sidecar: names of the mesh, and everything else, which a name server of the test answers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

mod names;
mod forwarding;
mod name_server;
mod client;
