//! The resources that the mesh reads, each parsed once into a type that cannot hold what an API server would refuse.
//!
//! A document comes in as a JSON value, whatever it was written in; a [`Resource`] or a [`Fault`] with the path of the
//! offending field goes out. The kinds of Kubernetes' own API are read with k8s-openapi's types. Those of Gateway API
//! have types of our own: they parse straight into what routes are made of, with the limits of the CRDs in the types,
//! and refuse unknown fields where they stand. Tests hold them against the `gateway-api` crate.

mod faults;
mod endpoint_slice;
mod service;
mod grpc_route;
mod http_route;
mod request_route;
mod http_match;
mod named_match;
mod tcp_route;
mod reference_grant;
pub(super) mod rule;
mod filter;
mod header_changes;
mod mirror;
mod cors;
mod rewrite;
pub(super) mod reference;
mod metadata;
mod strict;
mod value;

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub(super) use self::endpoint_slice::EndpointSlice;
use self::grpc_route::GrpcRouteSpec;
use self::http_route::HttpRouteSpec;
pub(crate) use self::metadata::Metadata;
pub use self::metadata::{Kind, ResourceId};
pub(super) use self::mirror::MirrorSpec;
pub(super) use self::reference_grant::ReferenceGrantSpec;
use self::rule::RouteSpec;
pub use self::strict::Fault;
use self::tcp_route::TcpRouteSpec;
use super::service::Service;

/// A resource that was read without fault.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Resource {
    pub(crate) metadata: Metadata,
    pub(super) body: Body,
}

/// What a resource says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Body {
    /// Namespaces need no declaration here: they are accepted so that whole directories can be shared with a cluster.
    Namespace,
    Service(Service),
    EndpointSlice(EndpointSlice),
    /// A route of any kind, which the metadata tells.
    Route(RouteSpec),
    ReferenceGrant(ReferenceGrantSpec),
}

/// What a document holds, with what could be read of it even where it was refused.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Decoded {
    /// `Kind namespace/name` as far as it can be told.
    pub(crate) title: Option<String>,
    /// Whose last good version stays when this one is refused.
    pub(crate) id: Option<ResourceId>,
    /// The resource, or what is wrong with it: one fault or more.
    pub(crate) outcome: Result<Arc<Resource>, Vec<Fault>>,
    /// The item's own text, in a List: the document's is that of all of them.
    pub(crate) text: Option<Arc<str>>,
}

/// Reads a document; a `List` holds several resources. An empty document holds none.
pub(crate) fn decode(mut document: Value) -> Vec<Decoded> {
    strict::drop_nulls(&mut document);
    match document {
        Value::Null => Vec::new(),
        Value::Object(fields) if is_list(&fields) => decode_list(fields),
        document => vec![decode_one(document)],
    }
}

fn is_list(fields: &Map<String, Value>) -> bool {
    fields.get("kind").is_some_and(|kind| kind == "List")
}

fn decode_list(mut fields: Map<String, Value>) -> Vec<Decoded> {
    let refused = |path: &str, reason: &str| {
        vec![Decoded {
            title: Some("List".into()),
            id: None,
            outcome: Err(vec![Fault::new(path, reason)]),
            text: None,
        }]
    };
    if fields.get("apiVersion").is_none_or(|version| version != "v1") {
        return refused("apiVersion", "a List is of v1");
    }
    if let Some(other) =
        fields.keys().find(|key| !["apiVersion", "kind", "metadata", "items"].contains(&&***key))
    {
        return refused(other, "unknown field");
    }
    let items = match fields.remove("items") {
        None => Vec::new(),
        Some(Value::Array(items)) => items,
        Some(_) => return refused("items", "is not a list"),
    };
    let item = |(at, item): (usize, Value)| {
        let text = item.to_string().into();
        let mut decoded = Decoded { text: Some(text), ..decode_one(item) };
        for fault in decoded.outcome.as_mut().err().into_iter().flatten() {
            fault.path = format!("items[{at}].{}", fault.path);
        }
        decoded
    };
    items.into_iter().enumerate().map(item).collect()
}

/// Reads an object that an API server has admitted: its unknown fields are ignored, and their paths are told.
pub(crate) fn decode_admitted(mut object: Value) -> (Decoded, Vec<String>) {
    strict::drop_nulls(&mut object);
    let mut ignored = Vec::new();
    let decoded = decode_with(object, |kind, object| {
        let (outcome, unknown) = faults::read_leniently(object, |object| decode_kind(kind, object));
        ignored = unknown;
        outcome
    });
    (decoded, ignored)
}

fn decode_one(document: Value) -> Decoded {
    decode_with(document, |kind, document| {
        decode_kind(kind, document.clone()).map_err(|first| (first, document))
    })
}

/// Reads one resource with `read`, which gives the first fault, and the document in which it was found.
fn decode_with(
    document: Value,
    read: impl FnOnce(Kind, Value) -> Result<Resource, (Fault, Value)>,
) -> Decoded {
    let (title, mut id) = metadata::identify(&document);
    let outcome = match Kind::of(&document) {
        Ok(kind) => read(kind, document).map(Arc::new).map_err(|(first, document)| {
            faults::all(first, document, |document| decode_kind(kind, document))
        }),
        Err(fault) => Err(vec![fault]),
    };
    if let Ok(resource) = &outcome {
        id = Some(resource.metadata.id.clone());
    }
    Decoded { title, id, outcome, text: None }
}

fn decode_kind(kind: Kind, document: Value) -> Result<Resource, Fault> {
    let metadata = Metadata::decode(kind, &document)?;
    let body = match kind {
        Kind::Namespace => {
            strict::decode::<k8s_openapi::api::core::v1::Namespace>(&document)?;
            Body::Namespace
        }
        Kind::Service => Body::Service(service::decode(&metadata, strict::decode(&document)?)?),
        Kind::EndpointSlice => {
            Body::EndpointSlice(endpoint_slice::decode(&metadata, strict::decode(&document)?)?)
        }
        Kind::HttpRoute => Body::Route(spec::<HttpRouteSpec>(document)?.0),
        Kind::GrpcRoute => Body::Route(spec::<GrpcRouteSpec>(document)?.0),
        Kind::TcpRoute => Body::Route(spec::<TcpRouteSpec>(document)?.0),
        Kind::ReferenceGrant => Body::ReferenceGrant(spec(document)?),
    };
    Ok(Resource { metadata, body })
}

/// The `spec` of a kind of Gateway API. `status` is a controller's to write, and is not looked at: ours is made anew.
fn spec<T: DeserializeOwned>(document: Value) -> Result<T, Fault> {
    let Value::Object(mut fields) = document else { return Err(Fault::new("", "is not an object")) };
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    if let Some(other) = fields.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(Fault::new(other, "unknown field"));
    }
    let spec = fields.remove("spec").ok_or_else(|| Fault::new("spec", "is missing"))?;
    strict::parse(&spec, "spec")
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// Reads YAML of one document.
    pub(crate) fn read(yaml: &str) -> Vec<Decoded> {
        let options = serde_saphyr::options! { strict_booleans: true };
        decode(serde_saphyr::from_str_with_options(yaml, options).unwrap())
    }

    /// Checks that a resource is taken with each of these in place of `@`, and refused with those, at the path and for
    /// a reason that contains the text.
    pub(crate) fn check_table(template: &str, taken: &[&str], refused: &[(&str, &str, &str)]) {
        for part in taken {
            let outcome = &read(&template.replace('@', part))[0].outcome;
            assert!(outcome.is_ok(), "{part}: {:?}", outcome.as_ref().unwrap_err());
        }
        for (part, path, reason) in refused {
            let decoded = read(&template.replace('@', part));
            let Err(faults) = &decoded[0].outcome else { panic!("taken: {part}") };
            let fault = &faults[0];
            assert_eq!(fault.path, *path, "{part}: {fault}");
            assert!(fault.reason.contains(reason), "{part}: {fault}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{check_table, read};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_known_kinds_in_served_versions_are_read() {
        check_table(
            "{@, metadata: {name: a}, spec: {rules: [{backendRefs: [{name: b, port: 1}]}]}}",
            &[
                "apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute",
                "apiVersion: gateway.networking.k8s.io/v1beta1, kind: HTTPRoute",
                "apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute",
                "apiVersion: gateway.networking.k8s.io/v1, kind: TCPRoute",
                "apiVersion: gateway.networking.k8s.io/v1alpha2, kind: TCPRoute",
            ],
            &[
                ("kind: HTTPRoute", "apiVersion", "missing"),
                ("apiVersion: v1", "kind", "missing"),
                ("apiVersion: 1, kind: Service", "apiVersion", "not a string"),
                ("apiVersion: apps/v1, kind: Deployment", "kind", "unknown kind Deployment of apps"),
                ("apiVersion: v1, kind: HTTPRoute", "kind", "unknown kind HTTPRoute of the core group"),
                ("apiVersion: gateway.networking.k8s.io/v1, kind: Gateway", "kind", "not supported yet"),
                ("apiVersion: gateway.networking.k8s.io/v1, kind: TLSRoute", "kind", "not supported yet"),
                ("apiVersion: gateway.networking.k8s.io/v2, kind: HTTPRoute", "apiVersion", "v1 or v1beta1"),
                ("apiVersion: gateway.networking.k8s.io/v1beta1, kind: GRPCRoute", "apiVersion", "write v1"),
                (
                    "apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, more: 1",
                    "more",
                    "unknown field",
                ),
            ],
        );
    }

    #[test]
    fn metadata_is_checked() {
        check_table(
            "{apiVersion: v1, kind: Service, @, spec: {ports: [{port: 1}]}}",
            &[
                "metadata: {name: a}",
                "metadata: {name: a, namespace: b, labels: {x: y}, creationTimestamp: 2026-01-01T00:00:00Z}",
                "metadata: {name: a, generation: 3, managedFields: [{manager: me, fieldsV1: {f: {}}}], uid: null}",
                "metadata: {name: a, annotations: {outrigger.dev/service-accounts: 'a, b', mine/x: y}}",
            ],
            &[
                ("x: 1", "metadata", "missing"),
                ("metadata: {}", "metadata.name", "missing"),
                ("metadata: {name: A}", "metadata.name", "no name for a Service"),
                ("metadata: {name: 1a}", "metadata.name", "no name for a Service"),
                ("metadata: {name: a.b}", "metadata.name", "no name for a Service"),
                ("metadata: {name: 7}", "metadata.name", "invalid type"),
                ("metadata: {name: a, namespace: a.b}", "metadata.namespace", "not a DNS label"),
                ("metadata: {name: a, lables: {}}", "metadata.lables", "unknown field"),
                ("metadata: {name: a, labels: {x: 1}}", "metadata.labels.x", "invalid type"),
                ("metadata: {name: a, creationTimestamp: now}", "metadata.creationTimestamp", ""),
                (
                    "metadata: {name: a, annotations: {outrigger.dev/service-acounts: a}}",
                    "metadata.annotations.outrigger.dev/service-acounts",
                    "unknown annotation",
                ),
                (
                    "metadata: {name: a, annotations: {outrigger.dev/service-accounts: 'a,,b'}}",
                    "metadata.annotations.outrigger.dev/service-accounts",
                    "not the name of a service account",
                ),
            ],
        );
        check_table(
            "{apiVersion: v1, kind: Namespace, @}",
            &[
                "metadata: {name: shop}",
                "metadata: {name: shop}, spec: {finalizers: [kubernetes]}, status: {phase: Active}",
            ],
            &[
                ("metadata: {name: shop, namespace: shop}", "metadata.namespace", "in no namespace"),
                ("metadata: {name: a.b}", "metadata.name", "no name"),
                ("metadata: {name: shop}, sepc: {}", "sepc", "unknown field"),
            ],
        );
    }

    #[test]
    fn a_refused_resource_is_named_as_far_as_it_can_be() {
        let one = |yaml: &str| read(yaml).remove(0);
        let route =
            one("{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a, x: 1}}");
        assert_eq!(route.title.as_deref(), Some("HTTPRoute default/a"));
        assert_eq!(route.id.unwrap().to_string(), "HTTPRoute default/a");
        let unknown = one("{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, namespace: b}}");
        assert_eq!((unknown.title.as_deref(), unknown.id), (Some("Deployment b/a"), None));
        assert_eq!(one("[1]").title, None);
        assert_eq!(read("# nothing").len(), 0);
    }

    #[test]
    fn a_list_holds_several_and_a_fault_says_which() {
        let decoded = read(
            "{apiVersion: v1, kind: List, metadata: {}, items: [
               {apiVersion: v1, kind: Namespace, metadata: {name: a}},
               {apiVersion: v1, kind: Namespace, metadata: {name: b, namespace: c}}]}",
        );
        assert!(decoded[0].outcome.is_ok());
        assert_eq!(decoded[1].outcome.as_ref().unwrap_err()[0].path, "items[1].metadata.namespace");
        for (yaml, path) in [
            ("{kind: List}", "apiVersion"),
            ("{apiVersion: v1, kind: List, items: 1}", "items"),
            ("{apiVersion: v1, kind: List, item: []}", "item"),
        ] {
            assert_eq!(read(yaml)[0].outcome.as_ref().unwrap_err()[0].path, path);
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-zA-Z/*.0-9]{0,6}".prop_map(Value::from),
        ];
        let keys = "spec|rules|matches|path|type|value|filters|backendRefs|name|port|weight|timeouts|items|parentRefs";
        leaf.prop_recursive(6, 40, 4, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(keys, inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_a_document_holds_is_read_or_refused(
            spec in any_value(),
            kind in "Namespace|Service|EndpointSlice|HTTPRoute|GRPCRoute|TCPRoute|ReferenceGrant|List",
        ) {
            let version = match kind.as_str() {
                "Namespace" | "Service" | "List" => "v1",
                "EndpointSlice" => "discovery.k8s.io/v1",
                _ => "gateway.networking.k8s.io/v1",
            };
            for field in ["spec", "metadata", "items", "endpoints"] {
                let mut document = serde_json::json!({"apiVersion": version, "kind": kind, "metadata": {"name": "a"}});
                document[field] = spec.clone();
                for decoded in decode(document) {
                    let Err(faults) = decoded.outcome else { continue };
                    prop_assert!(!faults.is_empty() && faults.iter().all(|fault| !fault.reason.is_empty()));
                }
            }
        }
    }

    #[test]
    fn reference_grants_are_checked() {
        check_table(
            "{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {name: a}, spec: {@}}",
            &["from: [{group: g.io, kind: K, namespace: n}], to: [{group: '', kind: Service}]"],
            &[
                ("to: [{group: '', kind: Service}]", "spec", "missing field `from`"),
                ("from: [], to: [{group: '', kind: S}]", "spec.from", "0 items"),
                ("from: [{group: '', kind: S}], to: [{group: '', kind: S}]", "spec.from[0]", "namespace"),
                (
                    "from: [{group: '', kind: S, namespace: a, name: b}], to: [{group: '', kind: S}]",
                    "spec.from[0].name",
                    "unknown field",
                ),
                (
                    "from: [{group: A, kind: S, namespace: a}], to: []",
                    "spec.from[0].group",
                    "not an API group",
                ),
            ],
        );
    }
}
