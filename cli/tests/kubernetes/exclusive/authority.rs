//! The CA of the cluster is replaced while requests run, and its Secret is deleted: no request is lost, and no second CA comes up.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};

use crate::cluster::{apply, attempt, eventually};
use crate::load::Load;
use crate::manifests::{deployment, server};
use crate::namespace::Namespace;

const ROOTS: &str = "outrigger-trust-roots";

fn system(args: &[&str]) -> Result<String, String> {
    attempt(&[&["-n", "outrigger-system"], args].concat())
}

/// Returns what the replicas of the control plane have logged.
fn log() -> Result<String, String> {
    system(&["logs", "-l", "app.kubernetes.io/name=outrigger-control-plane", "--tail=-1"])
}

/// Puts a new root into the Secret.
fn replace() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "another root");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = params.self_signed(&key).unwrap().pem();
    let data = json!({"stringData": {"tls.crt": root, "tls.key": key.serialize_pem(), "ca.crt": root}});
    system(&["patch", "secret", "outrigger-ca", "--type=merge", "-p", &data.to_string()]).unwrap();
}

/// Waits until every sidecar of the namespace has `count` roots. Kubelets update volumes every minute or so; a change of a pod makes
/// them do it at once.
fn distributed(namespace: &Namespace, count: usize) {
    eventually("the roots", 20, || {
        let path = "jsonpath={.data.roots\\.pem}";
        let roots = namespace.attempt(&["get", "configmap", ROOTS, "-o", path])?;
        if roots.matches("BEGIN").count() == count { Ok(()) } else { Err(roots) }
    });
    namespace.kubectl(&["annotate", "pods", "--all", "--overwrite", &format!("roots={count}")]);
    for pod in namespace.pods("") {
        let name = pod["metadata"]["name"].as_str().unwrap();
        eventually("the roots in a sidecar", 90, || {
            let log = namespace.kubectl(&["logs", name, "-c", "outrigger-proxy"]);
            let line = format!("the trust roots changed roots={count}");
            if log.contains(&line) { Ok(()) } else { Err(log) }
        });
    }
}

/// Moves a time of each root in the record two days into the past: when it was `published`, or when it `left` the Secret.
fn two_days_after(event: &str) {
    let map = system(&["get", "configmap", ROOTS, "-o", "json"]).unwrap();
    let map: Value = serde_json::from_str(&map).unwrap();
    let record = map["metadata"]["annotations"]["outrigger.dev/roots"].as_str().unwrap();
    let mut record: Value = serde_json::from_str(record).unwrap();
    for root in record.as_object_mut().unwrap().values_mut() {
        if let Some(time) = root.get_mut(event) {
            let recorded: jiff::Timestamp = time.as_str().unwrap().parse().unwrap();
            *time = json!(recorded - Duration::from_secs(2 * 24 * 3600));
        }
    }
    let annotation = format!("outrigger.dev/roots={record}");
    system(&["annotate", "configmap", ROOTS, "--overwrite", &annotation]).unwrap();
}

fn restart(namespace: &Namespace) {
    namespace.kubectl(&["rollout", "restart", "deploy/web"]);
    namespace.ready("deploy/web");
}

#[test]
fn no_request_is_lost_while_the_ca_is_replaced_and_a_restarted_replica_waits_until_its_root_is_distributed() {
    let namespace = Namespace::meshed("replaced", "strict");
    namespace.apply(&deployment("web", 2, &server("")));
    let load = Load::start(&namespace, "http://web/", 50);
    namespace.ready("deploy/web");
    load.during("CA replaced", || {
        replace();
        distributed(&namespace, 2);
        let replica = system(&["get", "pods", "-o", "name"]).unwrap();
        system(&["delete", replica.lines().next().unwrap(), "--wait=false"]).unwrap();
        eventually("a replica that waits", 30, || {
            let log = log()?;
            if log.contains("the CA was replaced shortly before this start") { Ok(()) } else { Err(log) }
        });
        system(&["rollout", "status", "deploy/outrigger-control-plane", "--timeout=1s"]).unwrap_err();
        // A replica that runs waits for the whole time; one that starts now finds that it has passed.
        two_days_after("published");
        system(&["rollout", "restart", "deploy/outrigger-control-plane"]).unwrap();
        crate::mesh::ready();
        restart(&namespace);
    });
    // With certificates of the new CA, as all have after a day.
    namespace.kubectl(&["delete", "pod", "load", "--now"]);
    let load = Load::start(&namespace, "http://web/", 50);
    load.during("old root removed", || {
        two_days_after("left");
        distributed(&namespace, 1);
        restart(&namespace);
    });
}

/// An object that was deleted, and is created again at the end of the test.
struct Restored(String);

impl Drop for Restored {
    fn drop(&mut self) {
        apply(&self.0);
    }
}

#[test]
fn a_deleted_ca_stays_in_use_and_never_becomes_another() {
    let namespace = Namespace::meshed("ca", "strict");
    let text = system(&["get", "secret", "outrigger-ca", "-o", "json"]).unwrap();
    let mut secret: Value = serde_json::from_str(&text).unwrap();
    let metadata = secret["metadata"].as_object_mut().unwrap();
    metadata.retain(|field, _| {
        !["resourceVersion", "uid", "creationTimestamp", "managedFields"].contains(&field.as_str())
    });
    let _restored = Restored(secret.to_string());
    system(&["delete", "secret", "outrigger-ca"]).unwrap();
    eventually("the error in the log", 20, || {
        let log = log()?;
        if log.contains("the Secret outrigger-ca was deleted; restore it") { Ok(()) } else { Err(log) }
    });
    // A pod that starts now gets a certificate of the CA in memory.
    namespace.apply(&deployment("web", 1, &server("")));
    namespace.ready("deploy/web");
    assert!(system(&["get", "secret", "outrigger-ca"]).unwrap_err().contains("NotFound"), "a second CA");
}
