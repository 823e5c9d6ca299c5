//! The kind, name and metadata of a resource.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use outrigger_core::Name;
use serde_json::Value;

use super::strict;
use super::value::{is_label, is_subdomain};
use crate::model::diagnostic::{Code, Problem};
use crate::model::registration::{MtlsMode, NamespaceLabels};
use crate::model::similar::{did_you_mean, misspelled};

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
    /// `outrigger.dev/v1alpha1` AuthenticationPolicy.
    AuthenticationPolicy,
    /// `outrigger.dev/v1alpha1` AuthorizationPolicy.
    AuthorizationPolicy,
    /// `outrigger.dev/v1alpha1` BackendTrafficPolicy.
    BackendTrafficPolicy,
    /// `gateway.networking.x-k8s.io/v1alpha1` XBackendTrafficPolicy.
    XBackendTrafficPolicy,
    /// `outrigger.dev/v1alpha1` ExternalAuthorizationPolicy.
    ExternalAuthorizationPolicy,
    /// `outrigger.dev/v1alpha1` FaultInjectionPolicy.
    FaultInjectionPolicy,
    /// `outrigger.dev/v1alpha1` RateLimitPolicy.
    RateLimitPolicy,
    /// `v1` Secret with the label `outrigger.dev/api-keys: "true"`. Others are never read.
    Secret,
}

/// Annotation of a Service: the service accounts that may register for it, separated by commas.
pub(super) const SERVICE_ACCOUNTS: &str = "outrigger.dev/service-accounts";

/// Annotation of a Service: what its sidecars do about overload of the application.
pub(super) const OVERLOAD: &str = "outrigger.dev/overload";

/// Annotation of an EndpointSlice: its endpoints have a sidecar with this SPIFFE ID. If absent, they are reached in plaintext.
pub(super) const SPIFFE_ID: &str = "outrigger.dev/spiffe-id";

/// Label of a Secret that has API keys: its value is `true`.
pub(crate) const API_KEYS: &str = "outrigger.dev/api-keys";

/// Label of a Namespace: whether its pods require mTLS.
const MTLS: &str = "outrigger.dev/mtls";

/// Label of a Namespace: whether its pods get a sidecar.
const INJECT: &str = "outrigger.dev/inject";

/// The group of Gateway API.
pub(super) const GATEWAY: &str = "gateway.networking.k8s.io";

/// The group of the experimental kinds of Gateway API.
const EXPERIMENTAL_GATEWAY: &str = "gateway.networking.x-k8s.io";

/// The group of the policies.
pub(super) const OWN: &str = "outrigger.dev";

/// The other kinds of Gateway API.
const OTHER_GATEWAY_KINDS: [&str; 6] =
    ["Gateway", "GatewayClass", "TLSRoute", "UDPRoute", "BackendTLSPolicy", "ListenerSet"];

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
            Self::AuthenticationPolicy => "AuthenticationPolicy",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::BackendTrafficPolicy => "BackendTrafficPolicy",
            Self::XBackendTrafficPolicy => "XBackendTrafficPolicy",
            Self::ExternalAuthorizationPolicy => "ExternalAuthorizationPolicy",
            Self::FaultInjectionPolicy => "FaultInjectionPolicy",
            Self::RateLimitPolicy => "RateLimitPolicy",
            Self::Secret => "Secret",
        }
    }

    /// Returns every kind.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().map(|(kind, _, _)| kind)
    }

    /// Returns true for a kind that attaches to other resources by `targetRefs` (GEP-713).
    pub(crate) fn is_policy(self) -> bool {
        let of_servers = matches!(
            self,
            Self::AuthenticationPolicy
                | Self::AuthorizationPolicy
                | Self::ExternalAuthorizationPolicy
                | Self::FaultInjectionPolicy
                | Self::RateLimitPolicy
        );
        of_servers || self.concerns_callers()
    }

    /// Returns true for a policy about the callers of Services. It names the Services, and never applies to a namespace.
    pub(crate) fn concerns_callers(self) -> bool {
        matches!(self, Self::BackendTrafficPolicy | Self::XBackendTrafficPolicy)
    }

    /// Returns true if all policies of this kind that apply to a place are merged. Of other kinds, the oldest policy of a target applies.
    pub(crate) fn is_merged(self) -> bool {
        matches!(self, Self::AuthorizationPolicy | Self::RateLimitPolicy)
    }

    /// Returns true for a kind of policies that apply to connections of opaque bytes too.
    pub(crate) fn judges_connections(self) -> bool {
        matches!(self, Self::AuthenticationPolicy | Self::AuthorizationPolicy)
    }

    /// Returns true for a kind that attaches to Services by `parentRefs` (GEP-1294).
    pub(crate) fn is_route(self) -> bool {
        matches!(self, Self::HttpRoute | Self::GrpcRoute | Self::TcpRoute)
    }

    /// Returns the API group, empty for the core group, and the versions that are read, the preferred one first.
    pub(crate) fn api(self) -> (&'static str, &'static [&'static str]) {
        let found = Self::ALL.iter().find(|(kind, _, _)| *kind == self);
        found.map_or(("", &[]), |(_, group, versions)| (group, versions))
    }

    /// Returns `apiVersion` of the preferred version.
    pub(crate) fn api_version(self) -> String {
        let (group, versions) = self.api();
        let slash = if group.is_empty() { "" } else { "/" };
        format!("{group}{slash}{}", versions.first().unwrap_or(&""))
    }

    /// Every kind, with its group and versions; those of Gateway API as the CRDs of 1.6 serve them.
    pub(super) const ALL: [(Self, &'static str, &'static [&'static str]); 15] = [
        (Self::Namespace, "", &["v1"]),
        (Self::Service, "", &["v1"]),
        (Self::EndpointSlice, "discovery.k8s.io", &["v1"]),
        (Self::HttpRoute, GATEWAY, &["v1", "v1beta1"]),
        (Self::GrpcRoute, GATEWAY, &["v1"]),
        (Self::TcpRoute, GATEWAY, &["v1", "v1alpha2"]),
        (Self::ReferenceGrant, GATEWAY, &["v1", "v1beta1"]),
        (Self::AuthenticationPolicy, OWN, &["v1alpha1"]),
        (Self::AuthorizationPolicy, OWN, &["v1alpha1"]),
        (Self::BackendTrafficPolicy, OWN, &["v1alpha1"]),
        (Self::XBackendTrafficPolicy, EXPERIMENTAL_GATEWAY, &["v1alpha1"]),
        (Self::ExternalAuthorizationPolicy, OWN, &["v1alpha1"]),
        (Self::FaultInjectionPolicy, OWN, &["v1alpha1"]),
        (Self::RateLimitPolicy, OWN, &["v1alpha1"]),
        (Self::Secret, "", &["v1"]),
    ];

    /// Returns the kind of a document. Returns None for a kind that the mesh does not read, and for a Secret without API keys. A misspelled kind is an error, and
    /// so is one that attaches to a Service: it would silently have no effect.
    pub(super) fn of(document: &Value) -> Result<Option<Self>, Problem> {
        if !document.is_object() {
            return Err(Problem::of(Code::NotAResource, "", "is not an object with apiVersion and kind"));
        }
        let field = |name: &str| match document.get(name) {
            Some(Value::String(text)) => Ok(text.as_str()),
            Some(_) => Err(Problem::of(Code::NotAResource, name, "is not a string")),
            None => Err(Problem::of(Code::NotAResource, name, "is missing")),
        };
        let (version, kind) = (field("apiVersion")?, field("kind")?);
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let Some((found, _, versions)) =
            Self::ALL.iter().find(|(found, of, _)| (found.name(), *of) == (kind, group))
        else {
            return Self::not_handled(document, group, kind).map(|()| None);
        };
        if *found == Self::Secret && !has_api_keys(document) {
            return Ok(None);
        }
        if !versions.contains(&version) {
            let versions = versions.join(" or ");
            let message = format!("{kind} has no version {version}: write {versions}");
            return Err(Problem::of(Code::UnknownVersion, "apiVersion", message));
        }
        Ok(Some(*found))
    }

    /// Returns an error if a kind that the mesh does not read is a mistake, or if ignoring it would be.
    fn not_handled(document: &Value, group: &str, kind: &str) -> Result<(), Problem> {
        let of_group = if group.is_empty() { "the core group" } else { group };
        let unknown = Problem::of(Code::UnknownKind, "kind", format!("unknown kind {kind} of {of_group}"));
        if OTHER_GATEWAY_KINDS.contains(&kind) && group == GATEWAY {
            let refers_to_service = |list: &str| {
                let references = document.pointer(list).and_then(Value::as_array);
                references.is_some_and(|all| all.iter().any(|one| one["kind"] == "Service"))
            };
            return match ["/spec/parentRefs", "/spec/targetRefs"].into_iter().any(refers_to_service) {
                true => {
                    Err(Problem::of(Code::UnsupportedKind, "kind", format!("{kind} is not supported yet")))
                }
                false => Ok(()),
            };
        }
        // Of a group of Kubernetes itself. Others may have kinds of the same name, such as Knative's Service.
        let is_builtin = !group.contains('.') || group.ends_with(".k8s.io");
        if let Some((found, _, _)) = Self::ALL.iter().find(|(found, _, _)| is_builtin && found.name() == kind)
        {
            return Err(unknown.help(format!("write apiVersion: {}", found.api_version())));
        }
        let of_same_group =
            Self::ALL.iter().filter(|(_, of, _)| *of == group).map(|(found, _, _)| found.name());
        match misspelled(kind, of_same_group) {
            Some(right) => Err(unknown.help(format!("did you mean {right}?"))),
            None if group == OWN => Err(unknown),
            None => Ok(()),
        }
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
    pub(super) fn decode(kind: Kind, document: &Value) -> Result<Self, Problem> {
        let field = document.get("metadata").ok_or_else(|| Problem::new("metadata", "is missing"))?;
        let meta: ObjectMeta = strict::decode_at(field, "metadata")?;
        let name = meta.name.ok_or_else(|| Problem::new("metadata.name", "is missing"))?;
        let legal = match kind {
            Kind::Namespace => is_label(&name),
            // RFC 1035: a Service's name is a DNS label that starts with a letter.
            Kind::Service => is_label(&name) && name.starts_with(|c: char| c.is_ascii_lowercase()),
            _ => is_subdomain(&name),
        };
        if !legal {
            return Err(Problem::new("metadata.name", format!("{name:?} is not a valid name for a {kind}")));
        }
        let namespace = match (kind, meta.namespace) {
            (Kind::Namespace, None) => "".into(),
            (Kind::Namespace, Some(_)) => {
                return Err(Problem::new("metadata.namespace", "a Namespace is in no namespace"));
            }
            (_, None) => DEFAULT_NAMESPACE.into(),
            (_, Some(namespace)) if is_label(&namespace) => namespace.into(),
            (_, Some(namespace)) => {
                return Err(Problem::new("metadata.namespace", format!("{namespace:?} is not a DNS label")));
            }
        };
        let mut annotations = names(meta.annotations);
        check_annotations(kind, &annotations)?;
        if kind == Kind::Secret {
            // kubectl writes the whole object into one.
            annotations.clear();
        }
        Ok(Self {
            id: ResourceId { kind, namespace, name: name.into() },
            created: meta.creation_timestamp.map(|time| time.0),
            generation: meta.generation,
            labels: names(meta.labels),
            annotations,
        })
    }
}

impl Metadata {
    /// Returns the metadata of a resource of which only the name is known.
    pub(super) fn of(id: ResourceId) -> Self {
        Self { id, created: None, generation: None, labels: BTreeMap::new(), annotations: BTreeMap::new() }
    }

    /// Returns the labels of a namespace. An mTLS mode that is not known is strict: a misspelled `strict` must not let clients without mTLS
    /// in.
    pub(super) fn namespace_labels(&self) -> NamespaceLabels {
        NamespaceLabels {
            mtls: self.labels.get(MTLS).map(|mode| known_mtls_mode(mode).unwrap_or(MtlsMode::Strict)),
            injected: self.labels.get(INJECT).is_some_and(|value| &**value == "enabled"),
        }
    }

    /// Returns the problem of a label with a mode that is not known.
    pub(super) fn mtls_problem(&self) -> Option<Problem> {
        let unknown = self.labels.get(MTLS).filter(|mode| known_mtls_mode(mode).is_none())?;
        let message = format!("unknown mode {unknown:?}: its pods are strict");
        let problem = Problem::new(format!("metadata.labels.{MTLS}"), message);
        Some(problem.help("write permissive or strict"))
    }
}

/// Returns true if a Secret has the label of those with API keys.
fn has_api_keys(secret: &Value) -> bool {
    secret["metadata"]["labels"][API_KEYS] == "true"
}

/// Returns the mTLS mode of this name.
pub(crate) fn known_mtls_mode(mode: &str) -> Option<MtlsMode> {
    match mode {
        "permissive" => Some(MtlsMode::Permissive),
        "strict" => Some(MtlsMode::Strict),
        _ => None,
    }
}

pub(super) fn names(map: Option<BTreeMap<String, String>>) -> BTreeMap<Name, Name> {
    map.unwrap_or_default().into_iter().map(|(key, value)| (key.into(), value.into())).collect()
}

/// Refuses unknown annotations of ours: a misspelled one would silently have no effect.
fn check_annotations(kind: Kind, annotations: &BTreeMap<Name, Name>) -> Result<(), Problem> {
    let known: &[&str] = match kind {
        Kind::Service => &[SERVICE_ACCOUNTS, OVERLOAD],
        Kind::EndpointSlice => &[SPIFFE_ID],
        _ => &[],
    };
    match annotations.keys().find(|key| key.starts_with("outrigger.dev/") && !known.contains(&&***key)) {
        None => Ok(()),
        Some(key) => {
            let path = format!("metadata.annotations.{key}");
            let problem = Problem::new(path, format!("unknown annotation for a {kind}"));
            Err(match did_you_mean(key, known.iter().copied()) {
                Some(help) => problem.help(help),
                None => problem,
            })
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
    let found = Kind::of(document).ok().flatten();
    let namespace = match found {
        Some(Kind::Namespace) => "",
        _ => text("/metadata/namespace").unwrap_or(DEFAULT_NAMESPACE),
    };
    let id = found.map(|kind| ResourceId { kind, namespace: namespace.into(), name: name.into() });
    let title = id.as_ref().map_or_else(|| format!("{kind} {namespace}/{name}"), ResourceId::to_string);
    (Some(title), id)
}
