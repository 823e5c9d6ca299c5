//! ReferenceGrant, gateway.networking.k8s.io/v1 and v1beta1: which resources may refer into a namespace from another.

use outrigger_core::Name;
use schemars::JsonSchema;
use serde::Deserialize;

use super::metadata::{GATEWAY, OWN};
use super::value::{Group, KindName, List, NamespaceName, ObjectName};

/// The `spec` of a ReferenceGrant.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReferenceGrantSpec {
    from: List<From, 1, 16>,
    to: List<To, 1, 16>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct From {
    group: Group,
    kind: KindName,
    namespace: NamespaceName,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct To {
    group: Group,
    kind: KindName,
    /// Absent: every object of the kind.
    name: Option<ObjectName>,
}

impl ReferenceGrantSpec {
    /// Returns what is permitted: the kind and namespace of routes or policies, and the name of a Service in the namespace of the grant.
    /// Without a name, every Service.
    pub(crate) fn permissions(&self) -> impl Iterator<Item = (&Name, &Name, Option<&Name>)> {
        let known = |from: &&From| match &*from.kind.0 {
            "ExternalAuthorizationPolicy" => *from.group.0 == *OWN,
            _ => *from.group.0 == *GATEWAY,
        };
        let service = |to: &&To| to.group.0.is_empty() && &*to.kind.0 == "Service";
        self.from.0.iter().filter(known).flat_map(move |from| {
            let to = self.to.0.iter().filter(service);
            to.map(move |to| (&from.kind.0, &from.namespace.0, to.name.as_ref().map(|name| &name.0)))
        })
    }
}
