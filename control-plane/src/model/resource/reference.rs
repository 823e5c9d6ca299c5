//! References between resources: to the parent that a route attaches to, and to backends.

use std::fmt;

use outrigger_core::Name;
use schemars::JsonSchema;
use serde::{Deserialize, de};

use super::value::{Group, Integer, KindName, List, NamespaceName, ObjectName, Port, SectionName};

/// The parent that a route attaches to. In the mesh that is a Service; other kinds are not handled here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ParentRef {
    #[serde(default = "gateway_group")]
    pub(crate) group: Group,
    #[serde(default = "gateway_kind")]
    pub(crate) kind: KindName,
    /// Absent: the route's own namespace.
    pub(crate) namespace: Option<NamespaceName>,
    pub(crate) name: ObjectName,
    /// The port of the Service. Absent: every port.
    pub(crate) port: Option<Port>,
    /// The name of a port of the Service. Absent: every port.
    pub(crate) section_name: Option<SectionName>,
}

fn gateway_group() -> Group {
    Group("gateway.networking.k8s.io".into())
}

fn gateway_kind() -> KindName {
    KindName("Gateway".into())
}

impl ParentRef {
    /// Returns true if this refers to a Service, and so to the mesh (GEP-1294).
    pub(crate) fn is_service(&self) -> bool {
        self.group.0.is_empty() && &*self.kind.0 == "Service"
    }
}

/// `Service shop/cart, port 80`; without the namespace if it is the route's own.
impl fmt::Display for ParentRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group: _, kind, namespace, name, port, section_name } = self;
        write!(f, "{} ", kind.0)?;
        if let Some(namespace) = namespace {
            write!(f, "{}/", namespace.0)?;
        }
        write!(f, "{}", name.0)?;
        if let Some(port) = port {
            write!(f, ", port {}", port.0)?;
        }
        match section_name {
            Some(section) => write!(f, ", section {}", section.0),
            None => Ok(()),
        }
    }
}

/// The parents of a route, distinct as `CommonRouteSpec.parentRefs` requires: references to the same object must all select
/// ports in the same way, and different ones.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(try_from = "List<ParentRef, 0, 32>")]
#[schemars(with = "List<ParentRef, 0, 32>")]
pub(crate) struct ParentRefs(pub(crate) Vec<ParentRef>);

impl TryFrom<List<ParentRef, 0, 32>> for ParentRefs {
    type Error = String;

    fn try_from(List(refs): List<ParentRef, 0, 32>) -> Result<Self, String> {
        for (at, a) in refs.iter().enumerate() {
            let object =
                |r: &ParentRef| (r.group.clone(), r.kind.clone(), r.namespace.clone(), r.name.clone());
            for b in refs[..at].iter().filter(|b| object(a) == object(b)) {
                let narrowed = |r: &ParentRef| (r.port.is_some(), r.section_name.is_some());
                if narrowed(a) != narrowed(b) {
                    let name = &a.name.0;
                    return Err(format!(
                        "sectionName or port must be specified in all references to {name} or in none"
                    ));
                }
                if (a.port, &a.section_name) == (b.port, &b.section_name) {
                    let name = &a.name.0;
                    return Err(format!("two references to {name} with the same sectionName and port"));
                }
            }
        }
        Ok(Self(refs))
    }
}

/// A reference to a backend, without a weight, as mirrors have it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "WireBackendRef")]
#[schemars(with = "WireBackendRef")]
pub(crate) struct BackendRef {
    pub(crate) group: Name,
    pub(crate) kind: Name,
    /// Absent: the route's own namespace.
    pub(crate) namespace: Option<Name>,
    pub(crate) name: Name,
    /// Always set for a Service.
    pub(crate) port: Option<u16>,
}

impl BackendRef {
    /// Returns true if this refers to a Service.
    pub(crate) fn is_service(&self) -> bool {
        self.group.is_empty() && &*self.kind == "Service"
    }

    /// Creates a reference, with the API's defaults.
    pub(crate) fn new(
        group: Option<Group>,
        kind: Option<KindName>,
        namespace: Option<NamespaceName>,
        ObjectName(name): ObjectName,
        port: Option<Port>,
    ) -> Result<Self, String> {
        let reference = Self {
            group: group.map_or_else(|| "".into(), |Group(group)| group),
            kind: kind.map_or_else(|| "Service".into(), |KindName(kind)| kind),
            namespace: namespace.map(|NamespaceName(namespace)| namespace),
            name,
            port: port.map(|Port(port)| port),
        };
        if reference.is_service() && reference.port.is_none() {
            return Err("port is required in a reference to a Service".into());
        }
        Ok(reference)
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireBackendRef {
    group: Option<Group>,
    kind: Option<KindName>,
    namespace: Option<NamespaceName>,
    name: ObjectName,
    port: Option<Port>,
}

impl TryFrom<WireBackendRef> for BackendRef {
    type Error = String;

    fn try_from(
        WireBackendRef { group, kind, namespace, name, port }: WireBackendRef,
    ) -> Result<Self, String> {
        Self::new(group, kind, namespace, name, port)
    }
}

/// A backend of a rule: a reference, a weight, and filters as `F` reads them.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[schemars(with = "WireWeightedRef<F>")]
pub(crate) struct WeightedRef<F> {
    pub(crate) reference: BackendRef,
    pub(crate) weight: u32,
    pub(crate) filters: Option<F>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireWeightedRef<F> {
    group: Option<Group>,
    kind: Option<KindName>,
    namespace: Option<NamespaceName>,
    name: ObjectName,
    port: Option<Port>,
    weight: Option<Integer<0, 1_000_000>>,
    filters: Option<F>,
}

impl<'de, F: Deserialize<'de>> Deserialize<'de> for WeightedRef<F> {
    fn deserialize<D: de::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let WireWeightedRef { group, kind, namespace, name, port, weight, filters } =
            WireWeightedRef::deserialize(from)?;
        Ok(Self {
            reference: BackendRef::new(group, kind, namespace, name, port).map_err(de::Error::custom)?,
            weight: weight.map_or(1, Integer::as_u32),
            filters,
        })
    }
}
