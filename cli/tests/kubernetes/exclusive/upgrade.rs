//! The version skew that docs/kubernetes.md promises: control plane and sidecars of an earlier commit and of this one, under constant
//! load, upgraded in both orders, and downgraded. `tests/heavier` builds the earlier images (`tests/kubernetes/previous`) and sets
//! `OUTRIGGER_PREVIOUS` to their folder.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use crate::cluster::{self, variable};
use crate::load::Load;
use crate::manifests::{deployment, server};
use crate::mesh;
use crate::namespace::Namespace;

const PREVIOUS: &str = "outrigger/proxy:previous";
const CURRENT: &str = concat!("outrigger/proxy:", env!("CARGO_PKG_VERSION"));

#[test]
fn no_request_is_lost_when_the_mesh_is_upgraded_in_either_order_or_downgraded() {
    let namespace = Namespace::meshed("upgrade", "strict");
    let _restored = Restored;
    let previous = previous();
    namespace.apply(&deployment("web", 2, &server("")));
    let by_current = Load::start(&namespace, "http://web/", 50);
    namespace.ready("deploy/web");

    by_current.during("control plane downgraded", || install(&previous));
    by_current.during("sidecars downgraded", || restart(&namespace, PREVIOUS));

    // From now on, both a current and an earlier sidecar call the pods.
    let callers = Namespace::meshed("upgrade-callers", "strict");
    let by_previous = Load::start(&callers, "http://web.upgrade/", 50);
    let during = |what: &str, change: &dyn Fn()| {
        by_current.during(&format!("{what}, called by current sidecar"), || {
            by_previous.during(&format!("{what}, called by previous sidecar"), change)
        });
    };
    during("control plane upgraded first", &|| install(&mesh::manifest(&[])));
    during("then the sidecars", &|| restart(&namespace, CURRENT));

    during("control plane downgraded again", &|| install(&previous));
    during("then the sidecars", &|| restart(&namespace, PREVIOUS));
    during("sidecars upgraded first", &|| {
        install(&previous.replace(PREVIOUS, CURRENT));
        restart(&namespace, CURRENT);
    });
    during("then the control plane", &|| install(&mesh::manifest(&[])));
}

/// Loads the earlier images, and returns their manifest.
fn previous() -> String {
    let folder = variable("OUTRIGGER_PREVIOUS");
    let file = |name: &str| Path::new(&folder).join(name);
    cluster::load(&["outrigger-proxy.tar", "outrigger-control-plane.tar"].map(file));
    let manifest = std::fs::read_to_string(file("install.yaml")).unwrap();
    assert!(manifest.contains(PREVIOUS), "{manifest}");
    manifest
}

/// Applies the manifest of a mesh, and waits until sidecars have moved to the new control plane.
fn install(manifest: &str) {
    cluster::apply(manifest);
    mesh::ready();
    sleep(Duration::from_secs(3));
}

/// Restarts the pods, which then have this sidecar.
fn restart(namespace: &Namespace, image: &str) {
    namespace.kubectl(&["rollout", "restart", "deploy/web"]);
    namespace.ready("deploy/web");
    for pod in namespace.pods("app=web").iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()) {
        let containers = pod["spec"]["initContainers"].as_array().unwrap();
        let has_image = |container: &serde_json::Value| {
            container["name"] == "outrigger-proxy" && container["image"].as_str().unwrap().ends_with(image)
        };
        assert!(containers.iter().any(has_image), "{image}: {containers:?}");
    }
    sleep(Duration::from_secs(2));
}

/// The mesh of this commit, which the other tests need, also after a failure.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        install(&mesh::manifest(&[]));
    }
}
