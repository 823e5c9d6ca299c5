//! ReferenceGrant, gateway.networking.k8s.io/v1 and v1beta1: which resources may refer into a namespace from another.

use outrigger_core::Name;
use schemars::JsonSchema;
use serde::Deserialize;

use super::metadata::{GATEWAY, Kind, OWN};
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
    /// Returns what is permitted: the kind and namespace of routes or policies, and the kind (Service or Secret) and the name of an object in the
    /// namespace of the grant. Without a name, every object of the kind.
    pub(crate) fn permissions(&self) -> impl Iterator<Item = (&Name, &Name, Kind, Option<&Name>)> {
        let known = |from: &&From| match &*from.kind.0 {
            "AuthenticationPolicy" | "ExternalAuthorizationPolicy" => *from.group.0 == *OWN,
            _ => *from.group.0 == *GATEWAY,
        };
        let object = |to: &'_ To| {
            let kinds = [Kind::Service, Kind::Secret];
            kinds.into_iter().find(|kind| to.group.0.is_empty() && kind.name() == &*to.kind.0)
        };
        self.from.0.iter().filter(known).flat_map(move |from| {
            self.to.0.iter().filter_map(move |to| {
                let name = to.name.as_ref().map(|name| &name.0);
                Some((&from.kind.0, &from.namespace.0, object(to)?, name))
            })
        })
    }
}
