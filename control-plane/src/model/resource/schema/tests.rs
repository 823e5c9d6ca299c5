//! The schemas agree with the decoder.

mod crd;

use std::fs;
use std::path::Path;

use super::super::testing::read;
use super::*;

fn is_valid(schema: &Value, document: &Value) -> bool {
    jsonschema::draft7::new(schema).unwrap().is_valid(document)
}

#[test]
fn every_example_is_valid_and_a_misspelled_field_is_not() {
    let all = schema_of_all();
    let mut seen = 0;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for directory in ["../deploy/examples/shop", "../deploy/examples/hello", "tests/fixtures"] {
        for entry in fs::read_dir(root.join(directory)).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            for mut document in serde_saphyr::from_multiple::<Value>(&text).unwrap() {
                assert!(is_valid(&all, &document), "{document}");
                document["sepc"] = json!(1);
                assert!(!is_valid(&all, &document), "{document}");
                seen += 1;
            }
        }
    }
    assert!(seen > 15, "{seen} documents");
}

#[test]
fn a_schema_stands_for_its_kind_and_lists_hold_any() {
    let service =
        read_value("{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 80}]}}");
    let (one, all) = (schema(Kind::Service), schema_of_all());
    let with = |change: fn(&mut Value)| {
        let mut changed = service.clone();
        change(&mut changed);
        changed
    };
    let wrong: [fn(&mut Value); 5] = [
        |service| service["spec"]["ports"][0]["appProtocl"] = json!("http"),
        |service| service["spec"]["ports"][0]["port"] = json!("80"),
        |service| service["metadata"]["lables"] = json!({}),
        |service| service["apiVersion"] = json!("v2"),
        |service| service["metadata"] = json!({}),
    ];
    assert!(is_valid(&one, &service) && is_valid(&all, &service));
    for change in wrong {
        let changed = with(change);
        assert!(!is_valid(&one, &changed) && !is_valid(&all, &changed), "{changed}");
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": [service, changed] });
        assert!(!is_valid(&all, &list), "{list}");
    }
    let other =
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "a" }, "spec": 7 });
    assert!(
        is_valid(&all, &other)
            && is_valid(&all, &json!({ "apiVersion": "v1", "kind": "List", "items": [service, other] }))
    );
}

#[test]
fn an_unknown_field_of_any_kind_has_the_names_that_resemble_it() {
    for (yaml, help) in [
        ("{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 80, appProtcol: x}]}}", "did you mean \"appProtocol\"?"),
        ("{apiVersion: v1, kind: Namespace, metadata: {name: a, lables: {}}}", "did you mean \"labels\"?"),
        ("{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a}, sepc: {}}", "did you mean \"spec\"?"),
        (
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a, labels: {kubernetes.io/service-name: a}},
               addressType: IPv4, endpoints: [{addresses: [10.0.0.1], conditions: {x: true}}]}",
            "the fields are ready, serving, terminating",
        ),
    ] {
        let decoded = read(yaml).remove(0);
        assert_eq!(decoded.problems()[0].help.as_deref(), Some(help), "{yaml}");
    }
}

fn read_value(yaml: &str) -> Value {
    serde_saphyr::from_str(yaml).unwrap()
}
