//! `outrigger inject`: adds sidecars to manifests, as the webhook does to pods.

use std::io::Read as _;
use std::path::PathBuf;

use clap::Args;
use outrigger_control_plane::injection::InjectionArgs;
use outrigger_control_plane::injection::manifest::{Manifests, inject_manifests};

use crate::output::table::printable;
use crate::output::{print, print_error};

/// The version for which pods are made if no flag says so. Every supported release of Kubernetes has what is used.
const KUBERNETES_VERSION: &str = "1.34";

#[derive(Debug, Args)]
#[command(after_help = "\
Kinds: Pod, Deployment, StatefulSet, DaemonSet, ReplicaSet, ReplicationController, Job, CronJob, List. Other documents pass through
unchanged. What is left alone, and why, goes to stderr.

Examples:
  # Instead of the webhook
  outrigger inject shop.yaml | kubectl apply -f -

  # What runs already
  kubectl get deployments -o yaml | outrigger inject - | kubectl apply -f -")]
pub(crate) struct InjectArgs {
    /// YAML or JSON file, or - for stdin.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Trust domain of the mesh.
    #[arg(long, value_name = "NAME", default_value = "cluster.local", help_heading = "Mesh")]
    trust_domain: String,
    /// DNS domain of the cluster.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", help_heading = "Mesh")]
    cluster_domain: String,
    /// Version of the cluster, as in 1.34.
    #[arg(long, value_name = "VERSION", default_value = KUBERNETES_VERSION, value_parser = minor_version, help_heading = "Mesh")]
    kubernetes_version: u32,
    #[command(flatten)]
    injection: InjectionArgs,
}

/// Prints the injected manifests. Returns an error, and prints nothing, if one of them cannot be injected.
pub(crate) fn run(args: InjectArgs) -> Result<(), String> {
    let InjectArgs { file, trust_domain, cluster_domain, kubernetes_version, injection } = args;
    let failed = |error| format!("{}: {error}", file.display());
    let text = if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(&file)
    };
    let text = text.map_err(|error| failed(error.to_string()))?;
    let settings = injection.settings(&trust_domain, &cluster_domain, kubernetes_version);
    let Manifests { text, notes } =
        inject_manifests(&text, &settings).map_err(|error| failed(printable(&error.to_string())))?;
    for note in notes {
        print_error(&format!("outrigger: {}", printable(&note)));
    }
    print(&text)
}

/// Parses `1.34` or `v1.34.4`, and returns the minor version.
fn minor_version(version: &str) -> Result<u32, String> {
    let mut parts = version.trim_start_matches('v').split('.');
    match (parts.next(), parts.next().and_then(|minor| minor.parse().ok())) {
        (Some("1"), Some(minor)) => Ok(minor),
        _ => Err("the form is 1.34".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_with_and_without_its_patch() {
        for version in ["1.34", "v1.34.4", "v1.34.4+k3s1"] {
            assert_eq!(minor_version(version), Ok(34), "{version}");
        }
        for version in ["", "1", "2.0", "1.x"] {
            assert!(minor_version(version).is_err(), "{version}");
        }
    }
}
