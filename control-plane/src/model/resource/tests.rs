//! Tests of all kinds.

mod invalid_examples;

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
            ("apiVersion: v1, kind: HTTPRoute", "kind", "unknown kind HTTPRoute of the core group"),
            ("apiVersion: outrigger.dev/v1alpha1, kind: LoadPolicy", "kind", "unknown kind"),
            ("apiVersion: outrigger.dev/v1, kind: AuthorizationPolicy", "apiVersion", "write v1alpha1"),
            ("apiVersion: outrigger.dev/v1alpha1, kind: AuthorisationPolicy", "kind", "unknown kind"),
            ("apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoutes", "kind", "unknown kind HTTPRoutes"),
            ("apiVersion: gateway.networking.k8s.io/v2, kind: HTTPRoute", "apiVersion", "v1 or v1beta1"),
            ("apiVersion: gateway.networking.k8s.io/v1beta1, kind: GRPCRoute", "apiVersion", "write v1"),
            ("apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, more: 1", "more", "unknown field"),
        ],
    );
}

#[test]
fn of_the_kinds_that_are_not_supported_those_that_refer_to_a_service_are_refused() {
    for (kind, spec) in [
        ("Gateway", ""),
        ("GatewayClass", ""),
        ("ListenerSet", ""),
        ("TLSRoute", "parentRefs: [{name: gateway}]"),
        ("TLSRoute", "parentRefs: [{group: '', kind: Service, name: a}]"),
        ("BackendTLSPolicy", "targetRefs: [{group: '', kind: Service, name: a}]"),
    ] {
        let yaml = format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: a}}, spec: {{{spec}}}}}"
        );
        assert_eq!(read(&yaml)[0].problems().is_empty(), !spec.contains("Service"), "{yaml}");
    }
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
            ("metadata: {name: A}", "metadata.name", "not a valid name for a Service"),
            ("metadata: {name: 1a}", "metadata.name", "not a valid name for a Service"),
            ("metadata: {name: a.b}", "metadata.name", "not a valid name for a Service"),
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
                "metadata: {name: a, annotations: {outrigger.dev/overload: always}}",
                "metadata.annotations.outrigger.dev/overload",
                "is none of enforce, observe and off",
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
            ("metadata: {name: a.b}", "metadata.name", "not a valid name"),
            ("metadata: {name: shop}, sepc: {}", "sepc", "unknown field"),
        ],
    );
}

#[test]
fn a_refused_resource_is_named_as_far_as_it_can_be() {
    let one = |yaml: &str| read(yaml).remove(0);
    let route = one("{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a, x: 1}}");
    assert_eq!(route.title.as_deref(), Some("HTTPRoute default/a"));
    assert_eq!(route.id.unwrap().to_string(), "HTTPRoute default/a");
    let unknown = one("{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, namespace: b}}");
    assert_eq!((unknown.title.as_deref(), unknown.id), (Some("Deployment b/a"), None));
    assert_eq!(one("[1]").title, None);
    assert_eq!(read("# nothing").len(), 0);
}

#[test]
fn an_error_in_a_list_has_the_index_of_its_item() {
    let decoded = read(
        "{apiVersion: v1, kind: List, metadata: {}, items: [
           {apiVersion: v1, kind: Namespace, metadata: {name: a}},
           {apiVersion: v1, kind: Namespace, metadata: {name: b, namespace: c}}]}",
    );
    assert!(decoded[0].resource().is_some());
    assert_eq!(decoded[1].problems()[0].field, "items[1].metadata.namespace");
    for (yaml, path) in [
        ("{kind: List}", "apiVersion"),
        ("{apiVersion: v1, kind: List, items: 1}", "items"),
        ("{apiVersion: v1, kind: List, item: []}", "item"),
    ] {
        assert_eq!(read(yaml)[0].problems()[0].field, path);
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-zA-Z/*.0-9]{0,6}".prop_map(Value::from),
    ];
    let keys =
        "spec|rules|matches|path|type|value|filters|backendRefs|name|port|weight|timeouts|items|parentRefs";
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
    fn any_document_is_decoded_or_refused(
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
                let Outcome::Refused(errors) = decoded.outcome else { continue };
                prop_assert!(!errors.is_empty() && errors.iter().all(|error| !error.message.is_empty()));
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
            ("from: [{group: A, kind: S, namespace: a}], to: []", "spec.from[0].group", "not an API group"),
        ],
    );
}
