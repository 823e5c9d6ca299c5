//! Who sends a request, by signed tokens or API keys: the meaning of an AuthenticationPolicy.

use std::time::Duration;

use outrigger_core::Name;

use super::service::ServiceKey;

/// The meaning of an AuthenticationPolicy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authentication {
    /// Whether requests need credentials.
    pub mode: AuthenticationMode,
    /// Whose tokens are accepted: one of them is needed. Empty if tokens do not matter.
    pub issuers: Vec<Issuer>,
    /// The keys that are accepted, if keys matter. A request needs both, a token and a key.
    pub api_keys: Option<ApiKeys>,
    /// It stands for a policy that was refused and that has no good version: everything is refused.
    pub stands_in: bool,
}

/// Whether requests need credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthenticationMode {
    /// A request without them is refused.
    Required,
    /// A request without them is admitted, one with invalid ones refused.
    Optional,
    /// Nothing is checked.
    Off,
}

/// An issuer of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// The claim `iss`.
    pub issuer: Name,
    /// The claim `aud` must have one of them. Empty: any.
    pub audiences: Vec<Name>,
    /// The keys that verify its tokens.
    pub keys: KeySource,
    /// The algorithms of its signatures: names of RFC 7518. Empty: those that its keys are for.
    pub algorithms: Vec<&'static str>,
    /// How far its clock may be from ours, in whole seconds. None: the proxy's default.
    pub clock_skew: Option<Duration>,
    /// Where requests have its tokens. Empty: `Authorization: Bearer` and the query parameter `access_token`.
    pub places: Vec<CredentialPlace>,
    /// Whether the application gets the token.
    pub forwards: bool,
    /// Claims, by the names that lead to them, and the header in lower case that each is copied to.
    pub claim_headers: Vec<(Vec<Name>, Name)>,
}

/// Where keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// In the policy: a JSON Web Key Set.
    Inline(Name),
    /// At a service of the mesh.
    Service {
        /// The namespace of the service. None: that of the policy.
        namespace: Option<Name>,
        /// Its name.
        name: Name,
        /// Its port.
        port: u16,
        /// The path of the set.
        path: Name,
        /// False if the Service or its port does not exist: nothing is fetched, and no token is verified.
        exists: bool,
    },
    /// Outside the mesh.
    Uri(KeyUri),
}

/// Keys outside the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUri {
    /// The whole URI, of scheme https.
    pub uri: Name,
    /// The host in lower case, a DNS name.
    pub host: Name,
    /// The port.
    pub port: u16,
    /// The roots that certify the host, in PEM. None: those of the machine.
    pub roots: Option<Name>,
}

impl KeySource {
    /// Returns the Service that has the keys, and its port. `namespace` is that of the policy.
    pub fn service(&self, namespace: &Name) -> Option<(ServiceKey, u16)> {
        let Self::Service { namespace: own, name, port, path: _, exists: _ } = self else { return None };
        let namespace = own.as_ref().unwrap_or(namespace).clone();
        Some((ServiceKey { namespace, name: name.clone() }, *port))
    }
}

/// Where a request has a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialPlace {
    /// In a header, after a prefix.
    Header {
        /// The name in lower case.
        name: Name,
        /// What stands before it.
        prefix: Name,
    },
    /// In a query parameter.
    Query(Name),
    /// In a cookie.
    Cookie(Name),
}

/// API keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeys {
    /// Each client with the SHA-256 of its key, in hexadecimal digits. With those in Secrets, if it is the meaning of an active policy. A
    /// policy without any refuses everything.
    pub clients: Vec<(Name, Name)>,
    /// The Secrets that have more of them.
    pub secrets: Vec<SecretRef>,
    /// Where requests have them.
    pub places: Vec<CredentialPlace>,
    /// The header in lower case that gets the name of the client.
    pub client_header: Option<Name>,
    /// Whether the application gets the key.
    pub forwards: bool,
}

/// A reference to a Secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretRef {
    /// The namespace. None: that of the policy.
    pub namespace: Option<Name>,
    /// The name.
    pub name: Name,
}

impl Authentication {
    /// Returns why everything is refused, whatever credentials a request has. Returns None if requests can have valid ones.
    pub fn refuses_all(&self) -> Option<&'static str> {
        match &self.api_keys {
            _ if self.stands_in => Some("refused"),
            Some(keys) if keys.clients.is_empty() => Some("no API key"),
            _ => None,
        }
    }

    /// Returns the policy of a namespace in which ports of Services that do not exist, as `missing` says, are marked as such.
    pub fn without(&self, namespace: &Name, missing: impl Fn(&ServiceKey, u16) -> bool) -> Self {
        let mut marked = self.clone();
        for issuer in &mut marked.issuers {
            let of_service = issuer.keys.service(namespace);
            let is_missing = of_service.is_some_and(|(service, port)| missing(&service, port));
            if let (true, KeySource::Service { exists, .. }) = (is_missing, &mut issuer.keys) {
                *exists = false;
            }
        }
        marked
    }

    /// Returns what stands for a refused policy: it refuses everything.
    pub fn stand_in() -> Self {
        Self { mode: AuthenticationMode::Required, issuers: Vec::new(), api_keys: None, stands_in: true }
    }
}

impl AuthenticationMode {
    /// Returns the name, as in YAML.
    pub fn name(self) -> &'static str {
        match self {
            Self::Required => "Required",
            Self::Optional => "Optional",
            Self::Off => "Off",
        }
    }
}
