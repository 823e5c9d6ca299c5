//! ReferenceGrant, gateway.networking.k8s.io/v1 and v1beta1: what may refer into a namespace from another.

use serde::Deserialize;

use super::value::{Group, KindName, List, NamespaceName, ObjectName};

/// The `spec` of a ReferenceGrant.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReferenceGrantSpec {
    from: List<From, 1, 16>,
    to: List<To, 1, 16>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct From {
    group: Group,
    kind: KindName,
    namespace: NamespaceName,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct To {
    group: Group,
    kind: KindName,
    /// Absent: every object of the kind.
    name: Option<ObjectName>,
}

impl ReferenceGrantSpec {
    /// Whether a route of this kind and namespace may refer to a Service of this name beside the grant.
    pub(crate) fn permits(&self, kind: &str, namespace: &str, service: &str) -> bool {
        let from = |from: &From| {
            &*from.group.0 == "gateway.networking.k8s.io"
                && &*from.kind.0 == kind
                && &*from.namespace.0 == namespace
        };
        let to = |to: &To| {
            to.group.0.is_empty()
                && &*to.kind.0 == "Service"
                && to.name.as_ref().is_none_or(|name| &*name.0 == service)
        };
        self.from.0.iter().any(from) && self.to.0.iter().any(to)
    }
}
