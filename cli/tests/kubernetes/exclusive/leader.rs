//! The trust roots of the cluster survive changes of their objects, and the death of the replica that distributes them.

use std::time::Instant;

use crate::cluster::{attempt, eventually, inside, kubectl};
use crate::namespace::Namespace;

fn system(args: &[&str]) -> Result<String, String> {
    attempt(&[&["-n", "outrigger-system"], args].concat())
}

fn roots_in(namespace: &Namespace) -> Result<String, String> {
    let roots = namespace.attempt(&[
        "get",
        "configmap",
        "outrigger-trust-roots",
        "-o",
        "jsonpath={.data.roots\\.pem}",
    ])?;
    if roots.starts_with("-----BEGIN CERTIFICATE-----") { Ok(roots) } else { Err(roots) }
}

#[test]
fn trust_roots_are_repaired_by_whichever_replica_leads_and_removed_when_a_namespace_opts_out() {
    let namespace = Namespace::meshed("roots", "strict");
    let roots = eventually("the roots", 10, || roots_in(&namespace));
    let broken = "{\"data\": {\"roots.pem\": \"broken\"}}";
    namespace.kubectl(&["patch", "configmap", "outrigger-trust-roots", "--type=merge", "-p", broken]);
    assert_eq!(eventually("the repair", 30, || roots_in(&namespace)), roots);

    let leader = || system(&["get", "lease", "outrigger-leader", "-o", "jsonpath={.spec.holderIdentity}"]);
    let old = leader().unwrap();
    let pod = old.split_once('_').unwrap().0;
    let field = |path: &str| system(&["get", "pod", pod, "-o", &format!("jsonpath={{{path}}}")]).unwrap();
    let (node, container) = (field(".spec.nodeName"), field(".status.containerStatuses[0].containerID"));
    // Killed, it does not release the Lease, which must expire.
    let killed = Instant::now();
    let id = container.strip_prefix("containerd://").unwrap();
    inside(&node, &["ctr", "-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", id]).unwrap();
    eventually("another leader", 30, || {
        let now = leader()?;
        if now.is_empty() || now == old { Err(format!("{old} leads")) } else { Ok(()) }
    });
    println!("another leader after {:?}", killed.elapsed());
    namespace.kubectl(&["delete", "configmap", "outrigger-trust-roots"]);
    assert_eq!(eventually("the repair by the new leader", 20, || roots_in(&namespace)), roots);

    kubectl(&["label", "namespace", "roots", "outrigger.dev/inject-"]);
    eventually("the removal", 20, || match roots_in(&namespace) {
        Err(error) if error.contains("NotFound") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    crate::mesh::ready();
}
