//! The CRDs of our own kinds, generated from the types that decode them: `deploy/chart/templates/crds.yaml`.
//!
//! `OUTRIGGER_WRITE_CRDS=1 cargo test -p outrigger-control-plane --lib crd` writes the file; without the variable, the test fails if it
//! is not current. An API server validates by a structural schema: no references, and unknown fields are not refused but removed.

use std::fs;
use std::path::Path;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::super::super::authentication_policy::AuthenticationPolicySpec;
use super::super::super::authorization_policy::AuthorizationPolicySpec;
use super::super::super::backend_traffic_policy::BackendTrafficPolicySpec;
use super::super::super::external_authorization_policy::ExternalAuthorizationPolicySpec;
use super::super::super::fault_injection_policy::FaultInjectionPolicySpec;
use super::super::super::metadata::{Kind, OWN};
use super::super::super::rate_limit_policy::RateLimitPolicySpec;

const FILE: &str = "../deploy/chart/templates/crds.yaml";

#[test]
fn the_crds_of_the_chart_are_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let own = Kind::all().filter(|kind| kind.api().0 == OWN);
    let documents: Vec<_> = own.map(|kind| serde_saphyr::to_string(&crd(kind)).unwrap()).collect();
    let head = "# Generated from the types that decode the kinds (control-plane/src/model/resource/schema/tests/crd.rs).";
    let text = format!("{head}\n{}\n", documents.join("---\n").trim_end());
    assert!(!text.contains("{{"), "Helm would read an action");
    if std::env::var_os("OUTRIGGER_WRITE_CRDS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), text, "OUTRIGGER_WRITE_CRDS=1 writes {FILE}");
}

#[test]
fn the_schema_is_structural_and_has_the_limits_of_the_decoder() {
    for spec in Kind::all().filter(|kind| kind.api().0 == OWN).map(spec_of) {
        for word in
            ["$ref", "const", "anyOf", "oneOf", "allOf", "not", "additionalProperties\":false", "null"]
        {
            assert!(!spec.to_string().contains(&format!("\"{word}")), "{word} in {spec}");
        }
        assert!(!spec.to_string().contains(",null"), "{spec}");
    }
    let spec = spec_of(Kind::AuthorizationPolicy);
    assert_eq!(spec["required"], json!(["action"]));
    assert_eq!(spec["properties"]["action"]["enum"], json!(["Allow", "Deny", "Audit"]));
    let operation = &spec["properties"]["rules"]["items"]["properties"]["to"]["items"];
    assert_eq!(operation["properties"]["ports"]["items"]["maximum"], 65535);
    assert_eq!(operation["properties"]["ports"]["minItems"], 1);
    let selector = &spec["properties"]["targetRefs"]["items"]["properties"]["selector"]["properties"];
    assert_eq!(selector["matchLabels"]["additionalProperties"]["type"], "string");
}

fn crd(kind: Kind) -> Value {
    let (group, versions) = kind.api();
    let singular = kind.name().to_ascii_lowercase();
    let plural =
        singular.strip_suffix('y').map_or_else(|| format!("{singular}s"), |stem| format!("{stem}ies"));
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{group}"),
            "labels": {
                "app.kubernetes.io/part-of": "outrigger",
                // As other tools find the kinds that attach to resources (GEP-713).
                "gateway.networking.k8s.io/policy": "Direct",
            },
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": { "kind": kind.name(), "listKind": format!("{kind}List"), "plural": plural, "singular": singular },
            "versions": versions.iter().enumerate().map(|(at, version)| json!({
                "name": version,
                "served": true,
                "storage": at == 0,
                "subresources": { "status": {} },
                "additionalPrinterColumns": [
                    { "name": "Accepted", "type": "string", "jsonPath": ".status.ancestors[*].conditions[?(@.type==\"Accepted\")].status" },
                    { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
                ],
                "schema": { "openAPIV3Schema": {
                    "type": "object",
                    "required": ["spec"],
                    "properties": {
                        "apiVersion": { "type": "string" },
                        "kind": { "type": "string" },
                        "metadata": { "type": "object" },
                        "spec": spec_of(kind),
                        // Its form is Gateway API's PolicyStatus. Only this controller writes it.
                        "status": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                    },
                } },
            })).collect::<Vec<_>>(),
        },
    })
}

fn spec_of(kind: Kind) -> Value {
    let mut generator =
        SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true).into_generator();
    let schema: Value = match kind {
        Kind::AuthenticationPolicy => generator.root_schema_for::<AuthenticationPolicySpec>().into(),
        Kind::AuthorizationPolicy => generator.root_schema_for::<AuthorizationPolicySpec>().into(),
        Kind::BackendTrafficPolicy => generator.root_schema_for::<BackendTrafficPolicySpec>().into(),
        Kind::ExternalAuthorizationPolicy => {
            generator.root_schema_for::<ExternalAuthorizationPolicySpec>().into()
        }
        Kind::FaultInjectionPolicy => generator.root_schema_for::<FaultInjectionPolicySpec>().into(),
        Kind::RateLimitPolicy => generator.root_schema_for::<RateLimitPolicySpec>().into(),
        other => panic!("{other} is not ours"),
    };
    structural(schema)
}

/// Returns the schema in the form that API servers require.
fn structural(schema: Value) -> Value {
    let Value::Object(mut fields) = schema else { return schema };
    // An optional field is one that may be absent: the server removes nulls.
    if let Some(Value::Array(options)) = fields.remove("anyOf") {
        let mut options = options.into_iter().filter(|option| option["type"] != "null");
        let (Some(only), None) = (options.next(), options.next()) else { panic!("several options") };
        return structural(only);
    }
    if let Some(Value::Array(types)) = fields.get("type") {
        let only = types.iter().find(|one| *one != "null").cloned().unwrap();
        fields.insert("type".into(), only);
    }
    if let Some(Value::Array(options)) = fields.get_mut("enum") {
        options.retain(|option| !option.is_null());
    }
    if fields.get("additionalProperties") == Some(&json!(false)) {
        fields.remove("additionalProperties");
    }
    for name in ["$schema", "title", "description", "default", "format"] {
        fields.remove(name);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = fields.remove(name) {
            fields.insert(name.into(), structural(inner));
        }
    }
    if let Some(Value::Object(properties)) = fields.remove("properties") {
        let all: Map<_, _> = properties.into_iter().map(|(name, inner)| (name, structural(inner))).collect();
        fields.insert("properties".into(), all.into());
    }
    Value::Object(fields)
}
