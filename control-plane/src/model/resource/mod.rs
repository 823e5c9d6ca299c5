//! The resources that the mesh reads, each parsed once into a type that cannot hold what an API server would refuse.
//!
//! A document comes in as a JSON value, whatever it was written in; a [`Resource`] or a [`FieldError`] with the path of the
//! offending field goes out. The kinds of Kubernetes' own API are read with k8s-openapi's types. Those of Gateway API
//! have types of our own: they parse straight into what routes are made of, with the limits of the CRDs in the types,
//! and refuse unknown fields where they stand. Tests hold them against the `gateway-api` crate.

mod field_errors;
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
pub use self::strict::FieldError;
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
    pub(crate) outcome: Result<Arc<Resource>, Vec<FieldError>>,
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
            outcome: Err(vec![FieldError::new(path, reason)]),
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
        for error in decoded.outcome.as_mut().err().into_iter().flatten() {
            error.path = format!("items[{at}].{}", error.path);
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
        let (outcome, unknown) = field_errors::read_leniently(object, |object| decode_kind(kind, object));
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
    read: impl FnOnce(Kind, Value) -> Result<Resource, (FieldError, Value)>,
) -> Decoded {
    let (title, mut id) = metadata::identify(&document);
    let outcome = match Kind::of(&document) {
        Ok(kind) => read(kind, document).map(Arc::new).map_err(|(first, document)| {
            field_errors::all(first, document, |document| decode_kind(kind, document))
        }),
        Err(error) => Err(vec![error]),
    };
    if let Ok(resource) = &outcome {
        id = Some(resource.metadata.id.clone());
    }
    Decoded { title, id, outcome, text: None }
}

fn decode_kind(kind: Kind, document: Value) -> Result<Resource, FieldError> {
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
fn spec<T: DeserializeOwned>(document: Value) -> Result<T, FieldError> {
    let Value::Object(mut fields) = document else { return Err(FieldError::new("", "is not an object")) };
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    if let Some(other) = fields.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(FieldError::new(other, "unknown field"));
    }
    let spec = fields.remove("spec").ok_or_else(|| FieldError::new("spec", "is missing"))?;
    strict::parse(&spec, "spec")
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
