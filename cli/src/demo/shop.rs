//! The shop's configuration: the Kubernetes YAML that the demo writes, and edits while traffic runs.

use std::path::Path;

/// The namespace of the shop.
pub(super) const NAMESPACE: &str = "shop";
/// The route that the canary checks edit.
const CANARY: &str = "catalog-route.yaml";

/// How requests to `catalog` are divided.
#[derive(Debug, Clone, Copy)]
pub(super) enum Canary {
    /// By weight.
    Weights {
        /// Of v1.
        v1: u32,
        /// Of v2.
        v2: u32,
    },
    /// `x-canary: v2` goes to v2, everything else to v1.
    Header,
}

/// Each service, its port and its protocol.
const SERVICES: [(&str, u16, &str); 7] = [
    ("web", 80, "http"),
    ("cart", 80, "http"),
    ("catalog", 80, "http"),
    ("catalog-v1", 80, "http"),
    ("catalog-v2", 80, "http"),
    ("payments", 50051, "grpc"),
    ("stock", 9000, "tcp"),
];

/// Writes the whole configuration into an empty directory.
pub(super) fn write(directory: &Path) -> Result<(), String> {
    let mut yaml = format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n");
    for (name, port, protocol) in SERVICES {
        yaml.push_str(&format!(
            "---
apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: {NAMESPACE}
spec:
  ports:
    - name: main
      port: {port}
      appProtocol: {protocol}
"
        ));
    }
    replace(&directory.join("shop.yaml"), &yaml)?;
    route(directory, Canary::Weights { v1: 50, v2: 50 })
}

/// Edits the canary's route.
pub(super) fn route(directory: &Path, canary: Canary) -> Result<(), String> {
    let rules = match canary {
        Canary::Weights { v1, v2 } => format!(
            "    - backendRefs:
        - name: catalog-v1
          port: 80
          weight: {v1}
        - name: catalog-v2
          port: 80
          weight: {v2}
"
        ),
        Canary::Header => "    - matches:
        - headers:
            - name: x-canary
              value: v2
      backendRefs:
        - name: catalog-v2
          port: 80
    - backendRefs:
        - name: catalog-v1
          port: 80
"
        .to_owned(),
    };
    let yaml = format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: catalog
  namespace: {NAMESPACE}
spec:
  parentRefs:
    - group: \"\"
      kind: Service
      name: catalog
      port: 80
  rules:
{rules}"
    );
    replace(&directory.join(CANARY), &yaml)
}

/// A route with a field that does not exist.
pub(super) const BROKEN: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: broken
  namespace: shop
spec:
  parentRefs:
    - group: \"\"
      kind: Service
      name: cart
  rules:
    - matches:
        - path:
            type: PathPrefix
            valeu: /cart
";

/// Replaces a file atomically, as editors and deployments do: writes another, then renames it.
pub(super) fn replace(path: &Path, text: &str) -> Result<(), String> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text)
        .and_then(|()| std::fs::rename(&beside, path))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))
}
