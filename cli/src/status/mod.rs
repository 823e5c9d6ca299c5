//! `outrigger status`: the proxies of a running control plane, and what is wrong in the mesh.

mod page;

use clap::Args;
use jiff::Timestamp;
use outrigger_control_plane::kubernetes::replica_status;
use outrigger_control_plane::status::fetch;

use crate::flags::{ClusterArgs, ControlPlaneArgs, NamespaceArgs};
use crate::output::OutputArgs;
use crate::runtime::block_on;

/// Prints the state of a running control plane.
#[derive(Debug, Args)]
#[command(after_help = "\
A proxy's configuration is SYNCED if it has acknowledged everything that was sent to it, otherwise STALE.

Examples:
  # Every proxy, then refusals, endpoints that are not ready and problems
  outrigger status

  # In a Kubernetes cluster
  outrigger status --kubernetes

  # One namespace, with each resource type and the registered workloads
  outrigger status -n shop -o wide

  # The proxies that have refused a resource
  outrigger status -o json |
    jq -r '.proxies[] | select(any(.types[].resources[]; .nacked)).node'")]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    control_plane: ControlPlaneArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    namespace: NamespaceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Needs a running control plane.
pub(crate) fn run(args: StatusArgs) -> Result<(), String> {
    let mut status = match args.cluster.access() {
        Some(cluster) => block_on(replica_status::fetch(&cluster))?,
        None => block_on(fetch(&args.control_plane.address()))?,
    };
    let shown = |namespace: &str| args.namespace.includes(namespace);
    status.proxies.retain(|proxy| shown(&proxy.namespace));
    status.registrations.retain(|workload| shown(&workload.namespace));
    status.endpoints_not_ready.retain(|endpoint| shown(&endpoint.namespace));
    args.output.print(&status, |wide| page::page(&status, wide, Timestamp::now()))
}
