//! Tests that change the mesh or the cluster under every namespace, and measurements: `tests/heavier` runs them one by one.

mod authority;
mod cni;
mod control_plane;
mod leader;
mod many_routes;
mod measure;
mod outages;
mod upgrade;
