//! The kind, name and metadata of a resource.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use outrigger_core::Name;
use serde_json::Value;

use super::strict::{self, FieldError};
use super::value::{is_label, is_subdomain};

/// The kinds that the mesh reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1` Namespace.
    Namespace,
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `gateway.networking.k8s.io/v1` (and `v1beta1`) HTTPRoute.
    HttpRoute,
    /// `gateway.networking.k8s.io/v1` GRPCRoute.
    GrpcRoute,
    /// `gateway.networking.k8s.io/v1` (and `v1alpha2`) TCPRoute.
    TcpRoute,
    /// `gateway.networking.k8s.io/v1` (and `v1beta1`) ReferenceGrant.
    ReferenceGrant,
}

/// Annotation of a Service: the service accounts that may register for it, separated by commas.
pub(super) const SERVICE_ACCOUNTS: &str = "outrigger.dev/service-accounts";

/// Annotation of an EndpointSlice: its endpoints have a sidecar with this SPIFFE ID. If absent, they are reached in plaintext.
pub(super) const SPIFFE_ID: &str = "outrigger.dev/spiffe-id";

const GATEWAY: &str = "gateway.networking.k8s.io";

impl Kind {
    /// Returns the kind's name, as in YAML.
    pub fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TcpRoute => "TCPRoute",
            Self::ReferenceGrant => "ReferenceGrant",
        }
    }

    /// Returns the kind of a document by its group, version and kind, as the CRDs of Gateway API 1.6 serve them.
    pub(super) fn of(document: &Value) -> Result<Self, FieldError> {
        if !document.is_object() {
            return Err(FieldError::new("", "is not an object with apiVersion and kind"));
        }
        let field = |name: &str| match document.get(name) {
            Some(Value::String(text)) => Ok(text.as_str()),
            Some(_) => Err(FieldError::new(name, "is not a string")),
            None => Err(FieldError::new(name, "is missing")),
        };
        let (version, kind) = (field("apiVersion")?, field("kind")?);
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let (found, versions): (_, &[&str]) = match (group, kind) {
            ("", "Namespace") => (Self::Namespace, &["v1"]),
            ("", "Service") => (Self::Service, &["v1"]),
            ("discovery.k8s.io", "EndpointSlice") => (Self::EndpointSlice, &["v1"]),
            (GATEWAY, "HTTPRoute") => (Self::HttpRoute, &["v1", "v1beta1"]),
            (GATEWAY, "GRPCRoute") => (Self::GrpcRoute, &["v1"]),
            (GATEWAY, "TCPRoute") => (Self::TcpRoute, &["v1", "v1alpha2"]),
            (GATEWAY, "ReferenceGrant") => (Self::ReferenceGrant, &["v1", "v1beta1"]),
            (
                GATEWAY,
                "Gateway" | "GatewayClass" | "TLSRoute" | "UDPRoute" | "BackendTLSPolicy" | "ListenerSet",
            ) => return Err(FieldError::new("kind", format!("{kind} is not supported yet"))),
            _ => {
                let group = if group.is_empty() { "the core group" } else { group };
                return Err(FieldError::new("kind", format!("unknown kind {kind} of {group}")));
            }
        };
        if !versions.contains(&version) {
            let versions = versions.join(" or ");
            return Err(FieldError::new(
                "apiVersion",
                format!("{kind} has no version {version}: write {versions}"),
            ));
        }
        Ok(found)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Identifies a resource, whatever the version of its API.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceId {
    /// The kind.
    pub kind: Kind,
    /// The namespace; empty for a Namespace itself.
    pub namespace: Name,
    /// The name.
    pub name: Name,
}

/// `HTTPRoute shop/catalog`
impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name } = self;
        if namespace.is_empty() { write!(f, "{kind} {name}") } else { write!(f, "{kind} {namespace}/{name}") }
    }
}

/// The part of `metadata` that is used. The rest is only validated.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Metadata {
    pub(crate) id: ResourceId,
    /// Rarely set in files: conflicts are then decided by name.
    pub(crate) created: Option<jiff::Timestamp>,
    pub(crate) generation: Option<i64>,
    pub(crate) labels: BTreeMap<Name, Name>,
    pub(crate) annotations: BTreeMap<Name, Name>,
}

/// The namespace of a resource that specifies none, as with kubectl.
const DEFAULT_NAMESPACE: &str = "default";

impl Metadata {
    /// Decodes `metadata`, and validates names as an API server does.
    pub(super) fn decode(kind: Kind, document: &Value) -> Result<Self, FieldError> {
        let field = document.get("metadata").ok_or_else(|| FieldError::new("metadata", "is missing"))?;
        let meta: ObjectMeta = strict::decode_at(field, "metadata")?;
        let name = meta.name.ok_or_else(|| FieldError::new("metadata.name", "is missing"))?;
        let legal = match kind {
            Kind::Namespace => is_label(&name),
            // RFC 1035: a Service's name is a DNS label that starts with a letter.
            Kind::Service => is_label(&name) && name.starts_with(|c: char| c.is_ascii_lowercase()),
            _ => is_subdomain(&name),
        };
        if !legal {
            return Err(FieldError::new(
                "metadata.name",
                format!("{name:?} is not a valid name for a {kind}"),
            ));
        }
        let namespace = match (kind, meta.namespace) {
            (Kind::Namespace, None) => "".into(),
            (Kind::Namespace, Some(_)) => {
                return Err(FieldError::new("metadata.namespace", "a Namespace is in no namespace"));
            }
            (_, None) => DEFAULT_NAMESPACE.into(),
            (_, Some(namespace)) if is_label(&namespace) => namespace.into(),
            (_, Some(namespace)) => {
                return Err(FieldError::new(
                    "metadata.namespace",
                    format!("{namespace:?} is not a DNS label"),
                ));
            }
        };
        let annotations = names(meta.annotations);
        check_annotations(kind, &annotations)?;
        Ok(Self {
            id: ResourceId { kind, namespace, name: name.into() },
            created: meta.creation_timestamp.map(|time| time.0),
            generation: meta.generation,
            labels: names(meta.labels),
            annotations,
        })
    }
}

fn names(map: Option<BTreeMap<String, String>>) -> BTreeMap<Name, Name> {
    map.unwrap_or_default().into_iter().map(|(key, value)| (key.into(), value.into())).collect()
}

/// Refuses unknown annotations of ours: a misspelled one would silently have no effect.
fn check_annotations(kind: Kind, annotations: &BTreeMap<Name, Name>) -> Result<(), FieldError> {
    let known: &[&str] = match kind {
        Kind::Service => &[SERVICE_ACCOUNTS],
        Kind::EndpointSlice => &[SPIFFE_ID],
        _ => &[],
    };
    match annotations.keys().find(|key| key.starts_with("outrigger.dev/") && !known.contains(&&***key)) {
        None => Ok(()),
        Some(key) => {
            let path = format!("metadata.annotations.{key}");
            Err(FieldError::new(path, format!("unknown annotation for a {kind}")))
        }
    }
}

/// Returns the title of a document, and its ID, by which the last good version is found if the document is refused. Each is
/// None if it cannot be determined.
pub(super) fn identify(document: &Value) -> (Option<String>, Option<ResourceId>) {
    let text = |at: &str| document.pointer(at).and_then(Value::as_str);
    let (Some(kind), Some(name)) = (text("/kind"), text("/metadata/name")) else {
        return (text("/kind").map(str::to_owned), None);
    };
    let found = Kind::of(document).ok();
    let namespace = match found {
        Some(Kind::Namespace) => "",
        _ => text("/metadata/namespace").unwrap_or(DEFAULT_NAMESPACE),
    };
    let id = found.map(|kind| ResourceId { kind, namespace: namespace.into(), name: name.into() });
    let title = id.as_ref().map_or_else(|| format!("{kind} {namespace}/{name}"), ResourceId::to_string);
    (Some(title), id)
}
