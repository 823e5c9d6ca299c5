//! JSON Schema of every kind, generated from the types that decode it: what editors complete and check.
//!
//! A schema accepts everything that the decoder accepts. It refuses unknown fields, wrong types and most values outside the
//! limits; what only code can decide (regular expressions, fields that exclude each other) it leaves to the decoder. Draft 7,
//! which editors know best.

use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, json_schema};
use serde_json::{Map, Value, json};

use super::authentication_policy::AuthenticationPolicySpec;
use super::authorization_policy::AuthorizationPolicySpec;
use super::backend_traffic_policy::BackendTrafficPolicySpec;
use super::external_authorization_policy::ExternalAuthorizationPolicySpec;
use super::fault_injection_policy::FaultInjectionPolicySpec;
use super::grpc_route::GrpcRouteSpec;
use super::http_route::HttpRouteSpec;
use super::metadata::Kind;
use super::rate_limit_policy::RateLimitPolicySpec;
use super::reference_grant::ReferenceGrantSpec;
use super::tcp_route::TcpRouteSpec;
use super::x_backend_traffic_policy::XBackendTrafficPolicySpec;
use crate::model::diagnostic::{Code, Problem};
use crate::model::similar::did_you_mean;

/// Returns the JSON Schema of a kind.
pub fn schema(kind: Kind) -> Value {
    let mut generator = generator();
    let schema = of_kind(kind, &mut generator);
    complete(schema, generator)
}

/// Returns the JSON Schema of any document: of every kind, and of a List of them. Documents of other kinds are accepted.
pub fn schema_of_all() -> Value {
    let mut generator = generator();
    let mut cases = Vec::new();
    for (kind, group, _) in Kind::ALL {
        let reference = json!({ "$ref": format!("#/definitions/{kind}") });
        let schema = of_kind(kind, &mut generator);
        generator.definitions_mut().insert(kind.name().to_owned(), schema.into());
        let of_group = match group {
            "" => "^[^/]*$".to_owned(),
            group => format!("^{}/", group.replace('.', "\\.")),
        };
        cases.push(json!({
            "if": {
                "required": ["apiVersion", "kind"],
                "properties": { "kind": { "const": kind.name() }, "apiVersion": { "pattern": of_group } },
            },
            "then": reference,
        }));
    }
    cases.push(json!({
        "if": { "required": ["kind"], "properties": { "kind": { "const": "List" } } },
        "then": { "properties": { "items": { "type": "array", "items": { "$ref": "#" } } } },
    }));
    let names: Vec<_> = Kind::ALL.iter().map(|(kind, _, _)| kind.name()).collect();
    let versions = Kind::ALL.iter().map(|(kind, _, _)| api_versions(*kind)[0].clone());
    let mut versions: Vec<_> = versions.collect();
    versions.sort_unstable();
    versions.dedup();
    let schema = json_schema!({
        "title": "A resource of the mesh",
        "type": "object",
        "required": ["apiVersion", "kind"],
        "properties": {
            "apiVersion": { "anyOf": [{ "enum": versions }, { "type": "string" }] },
            "kind": { "anyOf": [{ "enum": names }, { "type": "string" }] },
        },
        "allOf": cases,
    });
    complete(schema, generator)
}

/// Adds the next step to the problem of an unknown field: the names that resemble it, or all names.
pub(super) fn with_known_fields(kind: Kind, problem: Problem) -> Problem {
    if problem.code != Code::UnknownField || problem.help.is_some() {
        return problem;
    }
    let (outer, name) = match problem.field.rsplit_once('.') {
        Some((outer, name)) => (outer, name),
        None => ("", &*problem.field),
    };
    let schema = schema(kind);
    let Some(known) = fields_at(&schema, outer) else { return problem };
    let all = || format!("the fields are {}", known.join(", "));
    let help = did_you_mean(name, known.iter().copied()).unwrap_or_else(all);
    problem.help(help)
}

/// Returns the names of the fields at a path, such as `spec.ports[0]`.
fn fields_at<'s>(root: &'s Value, path: &str) -> Option<Vec<&'s str>> {
    let mut at = root;
    for step in path.split(['.', '[']).filter(|step| !step.is_empty()) {
        at = resolve(root, at)?;
        at = if step.ends_with(']') { at.get("items")? } else { at.get("properties")?.get(step)? };
    }
    let fields = resolve(root, at)?.get("properties")?.as_object()?;
    Some(fields.keys().map(String::as_str).collect())
}

/// Follows references, to the schema that has properties or items.
fn resolve<'s>(root: &'s Value, mut schema: &'s Value) -> Option<&'s Value> {
    for _ in 0..8 {
        let inner = ["allOf", "anyOf"].into_iter().find_map(|list| schema.get(list)?.get(0));
        schema = match (schema.get("$ref").and_then(Value::as_str), inner) {
            (Some(reference), _) => root.pointer(reference.strip_prefix('#')?)?,
            (None, Some(inner)) => inner,
            (None, None) => return Some(schema),
        };
    }
    None
}

fn generator() -> SchemaGenerator {
    SchemaSettings::draft07().with_transform(RecursiveTransform(close)).into_generator()
}

/// Adds the definitions, and the version of JSON Schema.
fn complete(mut schema: Schema, mut generator: SchemaGenerator) -> Value {
    let definitions = generator.take_definitions(true);
    let fields = schema.ensure_object();
    fields.insert("$schema".into(), "http://json-schema.org/draft-07/schema#".into());
    fields.insert("definitions".into(), definitions.into());
    schema.into()
}

/// Refuses unknown fields, which the types of k8s-openapi would ignore.
fn close(schema: &mut Schema) {
    if schema.get("properties").is_some() && schema.get("additionalProperties").is_none() {
        schema.insert("additionalProperties".into(), false.into());
    }
}

fn api_versions(kind: Kind) -> Vec<String> {
    let all = Kind::ALL.iter().filter(|(other, _, _)| *other == kind);
    let version = |group: &str, version: &str| {
        if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
    };
    all.flat_map(|(_, group, versions)| versions.iter().map(move |one| version(group, one))).collect()
}

/// Returns the schema of a whole document.
fn of_kind(kind: Kind, generator: &mut SchemaGenerator) -> Schema {
    let (mut fields, required) = match kind {
        Kind::Namespace => (fields_of::<Namespace>(generator), vec![]),
        Kind::Service => (fields_of::<Service>(generator), vec!["spec"]),
        Kind::EndpointSlice => (fields_of::<EndpointSlice>(generator), vec!["addressType"]),
        Kind::HttpRoute => (route_fields::<HttpRouteSpec>(generator), vec!["spec"]),
        Kind::GrpcRoute => (route_fields::<GrpcRouteSpec>(generator), vec!["spec"]),
        Kind::TcpRoute => (route_fields::<TcpRouteSpec>(generator), vec!["spec"]),
        Kind::ReferenceGrant => (route_fields::<ReferenceGrantSpec>(generator), vec!["spec"]),
        Kind::AuthenticationPolicy => (route_fields::<AuthenticationPolicySpec>(generator), vec!["spec"]),
        Kind::AuthorizationPolicy => (route_fields::<AuthorizationPolicySpec>(generator), vec!["spec"]),
        Kind::BackendTrafficPolicy => (route_fields::<BackendTrafficPolicySpec>(generator), vec!["spec"]),
        Kind::XBackendTrafficPolicy => (route_fields::<XBackendTrafficPolicySpec>(generator), vec!["spec"]),
        Kind::ExternalAuthorizationPolicy => {
            (route_fields::<ExternalAuthorizationPolicySpec>(generator), vec!["spec"])
        }
        Kind::FaultInjectionPolicy => (route_fields::<FaultInjectionPolicySpec>(generator), vec!["spec"]),
        Kind::RateLimitPolicy => (route_fields::<RateLimitPolicySpec>(generator), vec!["spec"]),
        Kind::Secret => (fields_of::<Secret>(generator), vec![]),
    };
    let metadata = json!({ "allOf": [generator.subschema_for::<ObjectMeta>()], "required": ["name"] });
    fields.insert("metadata".into(), metadata);
    fields.insert("apiVersion".into(), json!({ "enum": api_versions(kind) }));
    fields.insert("kind".into(), json!({ "const": kind.name() }));
    let required: Vec<_> = ["apiVersion", "kind", "metadata"].into_iter().chain(required).collect();
    json_schema!({
        "title": kind.name(),
        "type": "object",
        "additionalProperties": false,
        "required": required,
        "properties": fields,
    })
}

/// Returns the fields of a whole document of Kubernetes' own kinds.
fn fields_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Map<String, Value> {
    let schema: Value = T::json_schema(generator).into();
    schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Returns the fields of a whole document of a kind of Gateway API or of our own, whose `spec` is decoded.
fn route_fields<T: JsonSchema>(generator: &mut SchemaGenerator) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("spec".into(), generator.subschema_for::<T>().into());
    fields.insert("status".into(), json!({ "description": "Written by controllers; ignored." }));
    fields
}

#[cfg(test)]
mod tests;
