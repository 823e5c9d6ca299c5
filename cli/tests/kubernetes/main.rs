//! The mesh in a real Kubernetes cluster of two nodes, with `kubectl` as users have it. Part of `tests/heavier`, which starts the cluster
//! (`tests/kubernetes/cluster`), builds the images, and sets `OUTRIGGER_CLUSTER` to the cluster's name, `OUTRIGGER_IMAGES` to the
//! folder of the images' archives. The mesh is installed once for all tests; each test has a namespace of its own.
//! Tests run at the same time, except those in `exclusive`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // helpers of tests

mod exclusive;

mod addresses;
mod api_keys;
mod example;
mod large;
mod mistakes;
mod permissive;
mod policies;
mod rejections;
mod rollouts;
mod security;
mod workloads;

mod creations;
mod outsider;
mod load;
mod mesh;
mod namespace;
mod manifests;
mod cluster;
