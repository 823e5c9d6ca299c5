//! A namespace of one test, and the objects that the tests put there.

use serde_json::Value;

use crate::cluster::{self, attempt, kubectl};

/// A namespace, which is deleted at the end of the test.
pub(crate) struct Namespace {
    name: &'static str,
    meshed: bool,
}

impl Namespace {
    /// A namespace whose pods get sidecars; `mode` is its mTLS mode.
    pub(crate) fn meshed(name: &'static str, mode: &str) -> Self {
        crate::mesh::installed();
        Self::with_labels(
            name,
            &format!("{{outrigger.dev/inject: enabled, outrigger.dev/mtls: {mode}}}"),
            true,
        )
    }

    /// A namespace whose pods get no sidecars.
    pub(crate) fn plain(name: &'static str) -> Self {
        crate::mesh::installed();
        Self::with_labels(name, "{}", false)
    }

    /// Labels a plain namespace: pods that are created from now on get sidecars.
    pub(crate) fn join(&mut self) {
        kubectl(&["label", "namespace", self.name, "outrigger.dev/inject=enabled"]);
        self.meshed = true;
    }

    fn with_labels(name: &'static str, labels: &str, meshed: bool) -> Self {
        cluster::apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {labels}}}\n"
        ));
        // Kubernetes' controllers pause for up to half a minute after the API server was away.
        cluster::eventually("the service account", 60, || {
            attempt(&["-n", name, "get", "serviceaccount", "default"])
        });
        Self { name, meshed }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        kubectl(&[&["-n", self.name], args].concat())
    }

    pub(crate) fn attempt(&self, args: &[&str]) -> Result<String, String> {
        attempt(&[&["-n", self.name], args].concat())
    }

    /// Applies manifests that name no namespace.
    pub(crate) fn apply(&self, yaml: &str) {
        self.attempt_apply(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    }

    /// Applies manifests that name no namespace, or returns kubectl's stderr.
    pub(crate) fn attempt_apply(&self, yaml: &str) -> Result<String, String> {
        let namespaced = yaml.replace("metadata: {", &format!("metadata: {{namespace: {}, ", self.name));
        cluster::attempt_apply(&namespaced)
    }

    /// Waits until the pods of a Deployment or StatefulSet (which are labelled with its name) are ready, and asserts that each has a
    /// sidecar, if pods get one here.
    pub(crate) fn ready(&self, workload: &str) {
        self.kubectl(&["rollout", "status", workload, "--timeout=120s"]);
        let app = workload.split_once('/').unwrap().1;
        let pods = self.pods(&format!("app={app}"));
        for pod in pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()) {
            assert_eq!(has_sidecar(pod), self.meshed, "{}", pod["metadata"]);
        }
    }

    /// Runs a command in the container `app` of a pod (`deploy/NAME` picks one).
    pub(crate) fn exec(&self, pod: &str, command: &[&str]) -> Result<String, String> {
        self.exec_in(pod, "app", command)
    }

    pub(crate) fn exec_in(&self, pod: &str, container: &str, command: &[&str]) -> Result<String, String> {
        self.attempt(&[&["exec", pod, "-c", container, "--"], command].concat())
    }

    /// Returns the pods that a selector selects.
    pub(crate) fn pods(&self, selector: &str) -> Vec<Value> {
        let list: Value =
            serde_json::from_str(&self.kubectl(&["get", "pods", "-l", selector, "-o", "json"])).unwrap();
        list["items"].as_array().unwrap().clone()
    }

    /// Returns the address of the first pod that a selector selects.
    pub(crate) fn address(&self, selector: &str) -> String {
        self.pods(selector)[0]["status"]["podIP"].as_str().unwrap().to_owned()
    }

    /// Returns the conditions of a route or a policy, for its first parent or ancestor, each as `type=status: message`.
    pub(crate) fn conditions(&self, kind: &str, name: &str) -> Result<String, String> {
        let object = self.attempt(&["get", kind, name, "-o", "json"])?;
        let object: Value = serde_json::from_str(&object).map_err(|error| error.to_string())?;
        let status = object.get("status").ok_or("no status")?;
        let first = status.get("parents").or(status.get("ancestors")).ok_or("no parents and no ancestors")?;
        let conditions = first[0]["conditions"].as_array().ok_or("no conditions")?.iter();
        let one = |condition: &Value| {
            format!("{}={}: {}", condition["type"], condition["status"], condition["message"])
        };
        Ok(conditions.map(one).collect::<Vec<_>>().join("\n").replace('"', ""))
    }

    /// Waits until the conditions of a route or a policy have all of these texts.
    pub(crate) fn has_conditions(&self, kind: &str, name: &str, texts: &[&str]) {
        cluster::eventually(&format!("{texts:?}"), 30, || {
            let all = self.conditions(kind, name)?;
            if texts.iter().all(|text| all.contains(text)) { Ok(()) } else { Err(all) }
        });
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What one wants to know first.
            println!("{}", self.attempt(&["get", "pods", "-o", "wide"]).unwrap_or_default());
            println!(
                "{}",
                self.attempt(&["get", "events", "--field-selector=type!=Normal"]).unwrap_or_default()
            );
        }
        let _ = attempt(&["delete", "namespace", self.name, "--wait=false"]);
    }
}

/// Returns true if the sidecar is one of the pod's init containers.
pub(crate) fn has_sidecar(pod: &Value) -> bool {
    pod["spec"]["initContainers"]
        .as_array()
        .is_some_and(|all| all.iter().any(|one| one["name"] == "outrigger-proxy"))
}
