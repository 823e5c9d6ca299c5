//! The resources that we read have the shape of the real ones: what we accept is what the types generated from Gateway
//! API's own CRDs accept, field by field.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::fs;
use std::path::{Path, PathBuf};

use gateway_api::apis::experimental::tcproutes;
use gateway_api::apis::experimental::{grpcroutes, httproutes, referencegrants};
use outrigger_control_plane::source::check::check;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every document of every file of a directory.
fn documents(directory: &Path) -> Vec<Value> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        all.extend(serde_saphyr::from_multiple::<Value>(&text).unwrap());
    }
    all
}

/// Reads a document with a generated type, and checks that no field was lost.
fn keeps_everything<T: DeserializeOwned + Serialize>(document: &Value) {
    let typed: T = serde_json::from_value(document.clone()).unwrap_or_else(|e| panic!("{e} in {document}"));
    // Not the version: TCPRoute is v1 since Gateway API 1.6, and still v1alpha2 in the crate.
    let mut again = serde_json::to_value(typed).unwrap();
    again["apiVersion"] = document["apiVersion"].clone();
    assert_eq!(again, *document);
}

#[test]
fn what_we_accept_the_generated_types_accept_whole() {
    let (fixtures, shop) = (
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"),
        repository().join("deploy/examples/shop"),
    );
    let mut seen = 0;
    for document in documents(&fixtures).iter().chain(&documents(&shop)) {
        match document["kind"].as_str() {
            Some("HTTPRoute") => keeps_everything::<httproutes::HttpRoute>(document),
            Some("GRPCRoute") => keeps_everything::<grpcroutes::GrpcRoute>(document),
            Some("TCPRoute") => keeps_everything::<tcproutes::TcpRoute>(document),
            Some("ReferenceGrant") => keeps_everything::<referencegrants::ReferenceGrant>(document),
            _ => continue,
        }
        seen += 1;
    }
    assert_eq!(seen, 7);
    let report = check(fixtures).unwrap();
    assert!(report.refused() == 0, "{report}");
}

#[test]
fn the_example_shop_is_accepted_and_every_reference_resolves() {
    let report = check(repository().join("deploy/examples/shop")).unwrap();
    let text = report.to_string();
    assert!(report.refused() == 0, "{text}");
    assert!(text.ends_with("13 accepted, 0 refused\n"), "{text}");
    assert!(!text.contains("=False"), "{text}");
    assert!(
        text.contains("HTTPRoute shop/catalog  (catalog.yaml)\n  parent Service shop/catalog:80\n    Accepted=True (Accepted)\n    ResolvedRefs=True (ResolvedRefs)"),
        "{text}"
    );
}

#[test]
fn a_refusal_has_its_file_document_and_field() {
    let directory = tempfile::tempdir().unwrap();
    let route =
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: shop}\n";
    let text = format!("# nothing\n---\n{route}spec: {{rules: [{{matchs: []}}]}}\n");
    fs::write(directory.path().join("broken.yaml"), text).unwrap();
    let report = check(directory.path()).unwrap();
    assert!(report.refused() > 0);
    let expected = "refused: broken.yaml, document 1, HTTPRoute shop/r, spec.rules[0].matchs: unknown field";
    assert!(report.to_string().contains(expected), "{report}");
}
