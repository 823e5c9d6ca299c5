//! What may be wrong with the configuration: stable codes, their severities, and problems of resources.
//!
//! The decoder returns problems of resources that it refuses; `findings` returns problems of accepted ones. docs/check.md lists
//! the codes.

use std::fmt;

/// How serious a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// A fact that may surprise.
    Info,
    /// It works, but probably not as intended.
    Warning,
    /// A resource, or a part of one, cannot work.
    Error,
}

impl Severity {
    /// Returns the name: `error`, `warning` or `info`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $code:ident $name:literal $severity:ident,)*) => {
        /// The kind of a problem. Its name is stable: scripts may rely on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code {
            $($(#[doc = $doc])* $code,)*
        }

        impl Code {
            /// Every code, in the order of docs/check.md.
            pub const ALL: &[Self] = &[$(Self::$code),*];

            /// Returns the stable name, such as `unknown-backend`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$code => $name,)* }
            }

            /// Returns the severity.
            pub fn severity(self) -> Severity {
                match self { $(Self::$code => Severity::$severity,)* }
            }
        }
    };
}

codes! {
    /// A file or directory that cannot be read.
    UnreadableFile "unreadable-file" Error,
    /// A document that is not YAML.
    InvalidYaml "invalid-yaml" Error,
    /// A document without `apiVersion` and `kind`.
    NotAResource "not-a-resource" Error,
    /// A kind that does not exist in its group.
    UnknownKind "unknown-kind" Error,
    /// A version that the kind does not have.
    UnknownVersion "unknown-version" Error,
    /// A kind of Gateway API that attaches to a Service and is not supported.
    UnsupportedKind "unsupported-kind" Error,
    /// A resource that is defined more than once.
    DuplicateResource "duplicate-resource" Error,
    /// A field or annotation that the kind does not have.
    UnknownField "unknown-field" Error,
    /// A required field that is absent.
    MissingField "missing-field" Error,
    /// A field or value of the API that the mesh does not support.
    UnsupportedField "unsupported-field" Error,
    /// A value of the wrong type or outside the limits of the API.
    InvalidValue "invalid-value" Error,
    /// A parent of kind Service in a group that has no Services.
    ParentGroup "parent-group" Error,
    /// A parent Service that does not exist.
    UnknownParent "unknown-parent" Error,
    /// A port or section that the parent Service does not have.
    UnknownParentPort "unknown-parent-port" Error,
    /// A parent Service that cannot have routes.
    UnsupportedParent "unsupported-parent" Error,
    /// A route for requests on a port whose protocol is not HTTP.
    ParentProtocol "parent-protocol" Error,
    /// A route that is inactive because another kind of route, or an older TCPRoute, is attached to the same port.
    ConflictingRoute "conflicting-route" Error,
    /// A route that matches only requests that another route matches first.
    ShadowedRoute "shadowed-route" Error,
    /// A backend Service that does not exist.
    UnknownBackend "unknown-backend" Error,
    /// A port that the backend Service does not have.
    UnknownBackendPort "unknown-backend-port" Error,
    /// A backend in another namespace without a ReferenceGrant.
    BackendNotPermitted "backend-not-permitted" Error,
    /// A backend that is no Service, or one of type ExternalName.
    UnsupportedBackend "unsupported-backend" Error,
    /// A backend whose protocol does not fit the route.
    BackendProtocol "backend-protocol" Error,
    /// A target of a policy that does not exist.
    UnknownTarget "unknown-target" Error,
    /// A target that cannot have the policy.
    UnsupportedTarget "unsupported-target" Error,
    /// A policy that does not apply to a target because another one does.
    ConflictingPolicy "conflicting-policy" Error,
    /// A Secret in another namespace without a ReferenceGrant.
    SecretNotPermitted "secret-not-permitted" Error,
    /// A Secret that a policy needs, and whose current version is refused.
    UnusableSecret "unusable-secret" Error,
    /// A client or key that a policy has in several places.
    DuplicateClient "duplicate-client" Error,
    /// An EndpointSlice of a Service that does not exist.
    UnknownService "unknown-service" Error,
    /// Two Services with the same cluster IP.
    DuplicateClusterIp "duplicate-cluster-ip" Error,
    /// A Service whose named `targetPort` no container of its pods declares.
    UnknownTargetPort "unknown-target-port" Error,
    /// A control plane without a ready replica.
    ControlPlaneNotReady "control-plane-not-ready" Error,
    /// A webhook that cannot be called.
    UnusableWebhook "unusable-webhook" Error,
    /// A directory or file without a resource that the mesh reads.
    NoResources "no-resources" Warning,
    /// A route without parents.
    NoParent "no-parent" Warning,
    /// A parent that is a Gateway by default, although a Service of this name exists.
    ParentKind "parent-kind" Warning,
    /// A match that never applies because an earlier one is the same.
    ShadowedMatch "shadowed-match" Warning,
    /// A rule without backends.
    NoBackends "no-backends" Warning,
    /// A rule whose backends all have weight 0.
    ZeroWeights "zero-weights" Warning,
    /// A retry that the time limit of the request does not permit.
    RetryBeyondTimeout "retry-beyond-timeout" Warning,
    /// Services that policies ask about each other's requests.
    QuestionCycle "question-cycle" Warning,
    /// An `appProtocol` that is probably misspelled.
    UnknownAppProtocol "unknown-app-protocol" Warning,
    /// A port of an EndpointSlice whose name no port of the Service has.
    UnknownSlicePort "unknown-slice-port" Warning,
    /// A Secret that a policy needs and that does not exist, or has no API keys.
    UnknownSecret "unknown-secret" Warning,
    /// A field that has no effect in the mesh.
    IgnoredField "ignored-field" Warning,
    /// A claim that a policy uses where no AuthenticationPolicy verifies tokens.
    UnverifiedClaim "unverified-claim" Warning,
    /// A cluster that is too old for native sidecars.
    OldCluster "old-cluster" Warning,
    /// CRDs of Gateway API that do not exist.
    MissingCrds "missing-crds" Warning,
    /// CRDs of Gateway API that are too old.
    OldCrds "old-crds" Warning,
    /// A node whose clock is wrong.
    ClockSkew "clock-skew" Warning,
    /// Trust roots that end soon.
    ExpiringRoots "expiring-roots" Warning,
    /// A pod whose sidecar has another image than new pods get.
    OldSidecar "old-sidecar" Warning,
    /// A pod without the sidecar that it is to have.
    MissingSidecar "missing-sidecar" Warning,
    /// A node on which no pod of the CNI plugin is ready.
    CniPluginNotReady "cni-plugin-not-ready" Warning,
    /// A port of a workload for which Services declare different protocols.
    ContradictingAppProtocols "contradicting-app-protocols" Warning,
    /// A client that calls a pod with a sidecar without mTLS.
    PlaintextClient "plaintext-client" Warning,
    /// A sidecar whose metrics cannot be read.
    UnreadableSidecar "unreadable-sidecar" Warning,
    /// A route that is attached to something other than a Service.
    ParentNotHandled "parent-not-handled" Info,
    /// Services whose endpoints are only those that register.
    NoEndpoints "no-endpoints" Info,
    /// A cluster without a control plane.
    NotInstalled "not-installed" Info,
    /// A permissive namespace whose sidecars have counted no connection without mTLS.
    StrictIsSafe "strict-is-safe" Info,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A problem of a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The path of the field, such as `spec.rules[0].matches[1].path`; empty for the resource as a whole.
    pub field: String,
    /// The kind of the problem.
    pub code: Code,
    /// What is wrong.
    pub message: String,
    /// The next step: similar names, existing ports, what to write.
    pub help: Option<String>,
}

impl Problem {
    /// Creates a problem. The code of a decoder's error is that of its message, since serde's errors are texts.
    pub(crate) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        let message = message.into();
        let code = match message.as_str() {
            text if text.starts_with("unknown field") || text.starts_with("unknown annotation") => {
                Code::UnknownField
            }
            text if text.starts_with("missing field") || text.starts_with("is missing") => Code::MissingField,
            text if text.contains("not supported") => Code::UnsupportedField,
            _ => Code::InvalidValue,
        };
        Self { field: field.into(), code, message, help: None }
    }

    /// Creates a problem with a code.
    pub(crate) fn of(code: Code, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), code, message: message.into(), help: None }
    }

    /// Adds the next step.
    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// `spec.rules[0].matchs: unknown field, did you mean "matches"?`
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, code, message, help } = self;
        if !field.is_empty() {
            write!(f, "{field}: ")?;
        }
        write!(f, "{message}")?;
        if let Some(help) = help {
            write!(f, "; {help}")?;
        }
        write!(f, " [{code}]")
    }
}
