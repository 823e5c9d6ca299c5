//! A whole control plane in process, and workloads that reach it over real TLS.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod joining;
mod expiring;
mod operating;
mod replicas;
mod harness;
mod connection;
