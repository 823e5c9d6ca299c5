//! Decodes resources, once, into types that cannot hold what an API server would refuse.
//!
//! A JSON value becomes a [`Resource`], or [`Problem`]s with the paths of the fields in error. Kubernetes' own kinds are
//! decoded with k8s-openapi's types. Those of Gateway API have types of our own, which carry the limits of the CRDs, refuse
//! unknown fields, and become the routes of the model directly. Tests compare them with the `gateway-api` crate, and with the
//! invalid examples that Gateway API publishes.

pub mod schema;
mod field_errors;
mod remarks;
mod endpoint_slice;
mod service;
mod grpc_route;
mod http_route;
mod authentication_policy;
mod api_keys;
mod api_key_secret;
mod api_key;
mod authorization_policy;
mod backend_traffic_policy;
mod x_backend_traffic_policy;
mod slow_start;
mod locality;
mod load_balancer;
mod outlier_detection;
mod health_check;
mod retry_budget;
mod hedging;
mod service_targets;
mod bounded;
mod external_authorization_policy;
mod fault_injection_policy;
mod rate_limit_policy;
pub(super) mod policy;
mod request_route;
mod session_persistence;
mod http_match;
mod named_match;
mod tcp_route;
mod reference_grant;
pub(super) mod rule;
mod filter;
mod claim;
mod credential_place;
mod jwks;
mod key_uri;
mod header_changes;
mod mirror;
mod external_auth;
pub(super) mod needed;
mod cors;
mod rewrite;
mod path;
pub(crate) mod reference;
mod metadata;
mod strict;
pub(super) mod value;

use std::sync::Arc;

use outrigger_core::Name;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub(super) use self::api_key_secret::ApiKeySecret;
use self::authentication_policy::AuthenticationPolicySpec;
use self::authorization_policy::AuthorizationPolicySpec;
use self::backend_traffic_policy::BackendTrafficPolicySpec;
pub(super) use self::endpoint_slice::EndpointSlice;
use self::external_authorization_policy::ExternalAuthorizationPolicySpec;
use self::fault_injection_policy::FaultInjectionPolicySpec;
use self::grpc_route::GrpcRouteSpec;
use self::http_route::HttpRouteSpec;
pub(crate) use self::metadata::{API_KEYS, Metadata, known_mtls_mode};
pub use self::metadata::{Kind, ResourceId};
pub(super) use self::mirror::MirrorSpec;
use self::policy::PolicySpec;
use self::rate_limit_policy::RateLimitPolicySpec;
pub(super) use self::reference_grant::ReferenceGrantSpec;
use self::rule::RouteSpec;
use self::tcp_route::TcpRouteSpec;
use self::x_backend_traffic_policy::XBackendTrafficPolicySpec;
use super::diagnostic::{Code, Problem};
use super::registration::NamespaceLabels;
use super::service::Service;

/// A valid resource.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Resource {
    pub(crate) metadata: Metadata,
    pub(super) body: Body,
    /// Problems that do not prevent it from being active.
    pub(crate) remarks: Vec<Problem>,
}

/// The content of a resource.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Body {
    /// Namespaces need no declaration. In a cluster, labels of one concern its pods.
    Namespace(NamespaceLabels),
    Service(Service),
    EndpointSlice(EndpointSlice),
    /// A route; the metadata has its kind.
    Route(RouteSpec),
    ReferenceGrant(ReferenceGrantSpec),
    /// A policy; the metadata has its kind.
    Policy(PolicySpec),
    /// A Secret with API keys.
    Secret(ApiKeySecret),
}

impl Resource {
    /// Returns true if it stands for a policy that was refused, and denies what it is attached to, or for a Secret that was refused or cannot be
    /// read, and has no clients.
    pub(crate) fn stands_in(&self) -> bool {
        match &self.body {
            Body::Policy(spec) => spec.stands_in(),
            Body::Secret(secret) => secret.stands_in,
            _ => false,
        }
    }

    /// Returns the last good version of a Secret, with why the current one is refused: as what would stand for it without a good version says.
    /// Returns None for other kinds.
    pub(crate) fn although_refused(&self, stand_in: &Self) -> Option<Self> {
        let (Body::Secret(good), Body::Secret(refused)) = (&self.body, &stand_in.body) else { return None };
        let body = Body::Secret(ApiKeySecret { problem: refused.problem.clone(), ..good.clone() });
        Some(Self { body, ..self.clone() })
    }

    /// Returns what stands for a Secret that the control plane cannot read.
    pub(crate) fn unreadable_secret(id: ResourceId, reason: &str) -> Self {
        let body = Body::Secret(ApiKeySecret::without_clients(format!("cannot be read: {reason}")));
        Self { metadata: Metadata::of(id), body, remarks: Vec::new() }
    }

    /// Returns the Secrets with API keys that a policy refers to.
    pub(crate) fn secrets(&self) -> Vec<ResourceId> {
        match &self.body {
            Body::Policy(spec) => spec.secrets(&self.metadata.id.namespace),
            _ => Vec::new(),
        }
    }

    /// Returns true if it is a ReferenceGrant that lets policies of this kind and namespace refer to a Secret.
    pub(crate) fn permits_secret(&self, policy: Kind, namespace: &Name, to: &ResourceId) -> bool {
        let Body::ReferenceGrant(grant) = &self.body else { return false };
        let ResourceId { kind, namespace: of, name } = to;
        self.metadata.id.namespace == *of
            && grant.permissions().any(|(from, from_namespace, to_kind, to_name)| {
                let granted = **from == *policy.name() && from_namespace == namespace && to_kind == *kind;
                granted && to_name.is_none_or(|to_name| to_name == name)
            })
    }

    /// Returns the text of a Secret with hashes in place of its keys. Returns None for other kinds, whose text is not secret.
    pub(crate) fn text_without_keys(&self) -> Option<String> {
        let Body::Secret(secret) = &self.body else { return None };
        Some(secret.document(&self.metadata).to_string())
    }
}

/// The outcome of decoding a resource.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Decoded {
    /// `Kind namespace/name`, as far as it can be determined.
    pub(crate) title: Option<String>,
    /// The resource whose last good version is retained if this one is refused.
    pub(crate) id: Option<ResourceId>,
    pub(crate) outcome: Outcome,
    /// What a refused policy is replaced with if it fails closed and has no good version, so that it never admits more than the author meant. For a
    /// refused Secret: one without clients.
    pub(crate) stand_in: Option<Arc<Resource>>,
    /// The index and the text of an item of a List. None if the resource is a document of its own.
    pub(crate) item: Option<(usize, Arc<str>)>,
}

/// What a document is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// A valid resource.
    Accepted(Arc<Resource>),
    /// At least one error.
    Refused(Vec<Problem>),
    /// A resource of a kind that the mesh does not read.
    NotHandled,
}

/// Decodes a document. A `List` has several resources, an empty document none.
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
            outcome: Outcome::Refused(vec![Problem::new(path, reason)]),
            stand_in: None,
            item: None,
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
        let mut decoded = Decoded { item: Some((at, text)), ..decode_one(item) };
        if let Outcome::Refused(problems) = &mut decoded.outcome {
            problems.iter_mut().for_each(|problem| problem.field = format!("items[{at}].{}", problem.field));
        }
        decoded
    };
    items.into_iter().enumerate().map(item).collect()
}

/// Decodes an object that an API server has admitted. Unknown fields are ignored, and so are unsupported preferences; errors about them
/// are returned.
pub(crate) fn decode_admitted(mut object: Value) -> (Decoded, Vec<Problem>) {
    strict::drop_nulls(&mut object);
    let mut ignored = Vec::new();
    let decoded = decode_with(object, |kind, object| {
        let read = |object| decode_kind(kind, object).map_err(|problem| strictly(kind, problem));
        let (outcome, unknown) = field_errors::read_leniently(object, read);
        ignored = unknown;
        outcome
    });
    (decoded, ignored)
}

/// An unknown field of a policy may be a condition of a newer version. Without it the policy would have another meaning, so it is not
/// ignored.
fn strictly(kind: Kind, problem: Problem) -> Problem {
    match kind.is_policy() && problem.field.starts_with("spec") && problem.code == Code::UnknownField {
        true => Problem { code: Code::UnsupportedField, ..problem },
        false => problem,
    }
}

fn decode_one(document: Value) -> Decoded {
    decode_with(document, |kind, document| {
        decode_kind(kind, document.clone()).map_err(|first| (first, document))
    })
}

/// Decodes one resource with `read`, which returns the first error and the document.
fn decode_with(
    document: Value,
    read: impl FnOnce(Kind, Value) -> Result<Resource, (Problem, Value)>,
) -> Decoded {
    let (title, mut id) = metadata::identify(&document);
    let mut stand_in = None;
    let outcome = match Kind::of(&document) {
        Ok(None) => Outcome::NotHandled,
        Ok(Some(kind)) => match read(kind, document) {
            Ok(resource) => Outcome::Accepted(resource.into()),
            Err((first, document)) => {
                stand_in = stand_in_for(kind, &document, &first);
                let problems = field_errors::all(first, document, |document| decode_kind(kind, document));
                let with_help = |problem| schema::with_known_fields(kind, problem);
                Outcome::Refused(problems.into_iter().map(with_help).collect())
            }
        },
        Err(error) => Outcome::Refused(vec![error]),
    };
    if let Outcome::Accepted(resource) = &outcome {
        id = Some(resource.metadata.id.clone());
    }
    Decoded { title, id, outcome, stand_in, item: None }
}

/// Returns what a refused policy is replaced with, if it fails closed, or a refused Secret.
fn stand_in_for(kind: Kind, document: &Value, problem: &Problem) -> Option<Arc<Resource>> {
    let body = match kind {
        Kind::Secret => Body::Secret(ApiKeySecret::stand_in(problem)),
        _ => Body::Policy(policy::stand_in(kind, document)?),
    };
    let metadata = Metadata::decode(kind, document).ok()?;
    Some(Arc::new(Resource { metadata, body, remarks: Vec::new() }))
}

fn decode_kind(kind: Kind, document: Value) -> Result<Resource, Problem> {
    let metadata = Metadata::decode(kind, &document)?;
    let body = decode_body(kind, &metadata, &document)?;
    let remarks = remarks::of(&document, &metadata, &body);
    Ok(Resource { metadata, body, remarks })
}

fn decode_body(kind: Kind, metadata: &Metadata, document: &Value) -> Result<Body, Problem> {
    Ok(match kind {
        Kind::Namespace => {
            strict::decode::<k8s_openapi::api::core::v1::Namespace>(document)?;
            Body::Namespace(metadata.namespace_labels())
        }
        Kind::Service => Body::Service(service::decode(metadata, strict::decode(document)?)?),
        Kind::EndpointSlice => {
            Body::EndpointSlice(endpoint_slice::decode(metadata, strict::decode(document)?)?)
        }
        Kind::HttpRoute => Body::Route(spec::<HttpRouteSpec>(document)?.0),
        Kind::GrpcRoute => Body::Route(spec::<GrpcRouteSpec>(document)?.0),
        Kind::TcpRoute => Body::Route(spec::<TcpRouteSpec>(document)?.0),
        Kind::ReferenceGrant => Body::ReferenceGrant(spec(document)?),
        Kind::AuthenticationPolicy => Body::Policy(spec::<AuthenticationPolicySpec>(document)?.0),
        Kind::AuthorizationPolicy => Body::Policy(spec::<AuthorizationPolicySpec>(document)?.0),
        Kind::BackendTrafficPolicy => Body::Policy(spec::<BackendTrafficPolicySpec>(document)?.0),
        Kind::XBackendTrafficPolicy => Body::Policy(spec::<XBackendTrafficPolicySpec>(document)?.0),
        Kind::ExternalAuthorizationPolicy => {
            Body::Policy(spec::<ExternalAuthorizationPolicySpec>(document)?.0)
        }
        Kind::FaultInjectionPolicy => Body::Policy(spec::<FaultInjectionPolicySpec>(document)?.0),
        Kind::RateLimitPolicy => Body::Policy(spec::<RateLimitPolicySpec>(document)?.0),
        Kind::Secret => Body::Secret(ApiKeySecret::decode(document)?),
    })
}

/// Decodes the `spec` of a kind of Gateway API. `status` is ignored: controllers write it.
fn spec<T: DeserializeOwned>(document: &Value) -> Result<T, Problem> {
    let Value::Object(fields) = document else { return Err(Problem::new("", "is not an object")) };
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    if let Some(other) = fields.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(Problem::new(other, "unknown field"));
    }
    let spec = fields.get("spec").ok_or_else(|| Problem::new("spec", "is missing"))?;
    strict::parse(spec, "spec")
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
