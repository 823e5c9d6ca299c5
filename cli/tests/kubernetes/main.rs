//! The mesh in a real Kubernetes cluster of two nodes, with `kubectl` as users have it. Part of `tests/heavier`, which starts the cluster
//! (`tests/kubernetes/cluster`), builds the images, and sets `OUTRIGGER_CLUSTER` to the cluster's name, `OUTRIGGER_IMAGES` to the
//! folder of the images' archives. The mesh is installed once for all tests; each test has a namespace of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // helpers of tests

mod addresses;
mod authority;
mod bad_input;
mod changes;
mod cni;
mod example;
mod measure;
mod mistakes;
mod permissive;
mod security;
mod upgrade;
mod workloads;

mod load;
mod creations;
mod mesh;
mod namespace;
mod cluster;
