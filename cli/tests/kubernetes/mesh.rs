//! The mesh, which is installed as a user does it: `outrigger install | kubectl apply -f -`.

use std::process::Command;
use std::sync::Once;

use crate::cluster::{self, kubectl};

/// Selects the replicas of the control plane.
pub(crate) const CONTROL_PLANE: &str = "app.kubernetes.io/name=outrigger-control-plane";

/// Installs the mesh, once.
pub(crate) fn installed() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        cluster::load(
            &["pod", "outrigger-proxy", "outrigger-control-plane", "outrigger-cli"].map(cluster::image),
        );
        cluster::install_crds();
        install(&[]);
    });
}

/// Applies what `outrigger install` prints with more flags. Returns when no replica of the previous installation is left, whose webhook
/// would inject as that one did: the API server keeps its connection to a replica that terminates.
pub(crate) fn install(flags: &[&str]) {
    cluster::apply(&manifest(flags));
    ready();
    let ending = "jsonpath={.items[*].metadata.deletionTimestamp}";
    cluster::eventually("the end of previous replicas", 60, || {
        let ending = kubectl(&["-n", "outrigger-system", "get", "pods", "-l", CONTROL_PLANE, "-o", ending]);
        if ending.is_empty() { Ok(()) } else { Err(ending) }
    });
}

/// Returns what `outrigger install` prints with more flags.
pub(crate) fn manifest(flags: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .args(["install", "--otlp-endpoint", "http://jaeger.tracing:4317"])
        .args(flags)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until all replicas of the control plane are ready.
pub(crate) fn ready() {
    kubectl(&[
        "-n",
        "outrigger-system",
        "rollout",
        "status",
        "deploy/outrigger-control-plane",
        "--timeout=120s",
    ]);
}

/// Returns the restarts of the control plane's containers.
pub(crate) fn restarts() -> String {
    let counts = "jsonpath={.items[*].status.containerStatuses[*].restartCount}";
    kubectl(&["-n", "outrigger-system", "get", "pods", "-l", CONTROL_PLANE, "-o", counts])
}

/// Sets the number of replicas of the control plane.
pub(crate) fn scale(replicas: u32) {
    let replicas = format!("--replicas={replicas}");
    kubectl(&["-n", "outrigger-system", "scale", "deploy/outrigger-control-plane", &replicas]);
}
