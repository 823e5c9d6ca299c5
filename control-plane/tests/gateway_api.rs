//! The resources that we read have the shape of the real ones: what we accept is what the types generated from Gateway
//! API's own CRDs accept, field by field.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::fs;
use std::path::{Path, PathBuf};

use gateway_api::apis::experimental::tcproutes;
use gateway_api::apis::experimental::{grpcroutes, httproutes, referencegrants};
use outrigger_control_plane::model::diagnostic::Code;
use outrigger_control_plane::source::check::{Input, check};
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
    let report = check(vec![Input::Path(fixtures)]);
    let refusals: Vec<_> = report.problems.iter().filter(|one| DECODER.contains(&one.problem.code)).collect();
    assert!(refusals.is_empty(), "{refusals:?}");
}

/// The codes of refusals.
const DECODER: [Code; 4] =
    [Code::UnknownField, Code::MissingField, Code::UnsupportedField, Code::InvalidValue];

#[test]
fn the_examples_have_no_problem_and_every_reference_resolves() {
    for (example, resources) in [("shop", 13), ("hello", 1), ("kubernetes", 12)] {
        let report = check(vec![Input::Path(repository().join("deploy/examples").join(example))]);
        let codes: Vec<_> = report.problems.iter().map(|one| one.problem.code).collect();
        assert_eq!((codes, report.accepted), (vec![Code::NoEndpoints], resources));
    }
}

#[test]
fn a_refusal_has_its_file_line_document_and_field() {
    let directory = tempfile::tempdir().unwrap();
    let route =
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: shop}\n";
    let text = format!("# nothing\n---\n{route}spec: {{rules: [{{matchs: []}}]}}\n");
    let file = directory.path().join("broken.yaml");
    fs::write(&file, text).unwrap();
    let report = check(vec![Input::Path(directory.path().into())]);
    let one = report.problems.iter().find(|one| one.problem.code == Code::UnknownField).unwrap();
    assert_eq!((one.file.as_ref(), one.document), (Some(&file), 1));
    assert_eq!(one.position.map(|at| (at.line, at.column)), Some((6, 17)));
    assert_eq!(one.problem.field, "spec.rules[0].matchs");
}
