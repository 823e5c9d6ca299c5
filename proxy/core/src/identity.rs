//! SPIFFE identities of workloads (SPIFFE ID specification, section 2).
//!
//! An identity is parsed once, where it is received, and compared as a whole, never by prefix or pattern. Its form is
//! `spiffe://<trust domain>/ns/<namespace>/sa/<account>`.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use thiserror::Error;

/// A SPIFFE trust domain: lower-case letters, digits, dots, dashes and underscores, at most 255 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a trust domain name such as `cluster.local`.
    ///
    /// Returns an error if the name is empty, longer than 255 bytes, or has a character outside `[a-z0-9._-]`.
    pub fn parse(name: &str) -> Result<Self, IdentityError> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if name.is_empty() || name.len() > 255 || !name.bytes().all(legal) {
            return Err(IdentityError::TrustDomain(name.into()));
        }
        Ok(Self(name.into()))
    }

    /// Returns the name, without `spiffe://`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// The namespace and service account of a control plane.
const CONTROL_PLANE: (&str, &str) = ("outrigger-system", "control-plane");

/// The identity of a workload: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
///
/// Cloning is cheap. Two identities are equal if their URIs are.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId(Arc<Parts>);

struct Parts {
    uri: String,
    trust_domain: TrustDomain,
    namespace: String,
    service_account: String,
}

impl SpiffeId {
    /// Creates an identity from its parts.
    ///
    /// Returns an error if the namespace or the account is not a Kubernetes DNS label or subdomain name
    /// (lower-case letters, digits, dashes and dots, at most 253 bytes).
    pub fn new(
        trust_domain: TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, IdentityError> {
        for part in [namespace, service_account] {
            if !is_kubernetes_name(part) {
                return Err(IdentityError::Name(part.into()));
            }
        }
        Ok(Self::of_valid(trust_domain, namespace, service_account))
    }

    /// Returns the identity of every control plane of `trust_domain`. No workload may have it.
    pub fn control_plane(trust_domain: TrustDomain) -> Self {
        Self::of_valid(trust_domain, CONTROL_PLANE.0, CONTROL_PLANE.1)
    }

    fn of_valid(trust_domain: TrustDomain, namespace: &str, service_account: &str) -> Self {
        let uri = format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}");
        Self(Arc::new(Parts {
            uri,
            trust_domain,
            namespace: namespace.into(),
            service_account: service_account.into(),
        }))
    }

    /// Parses the URI form. Returns an error unless the path is exactly `/ns/<namespace>/sa/<account>`.
    pub fn parse(uri: &str) -> Result<Self, IdentityError> {
        let malformed = || IdentityError::Uri(uri.into());
        let rest = uri.strip_prefix("spiffe://").ok_or_else(malformed)?;
        let mut parts = rest.split('/');
        let (Some(domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed());
        };
        Self::new(TrustDomain::parse(domain)?, namespace, account)
    }

    /// Returns the URI form, as in a certificate's subject alternative name.
    pub fn as_str(&self) -> &str {
        &self.0.uri
    }

    /// Returns the trust domain, which selects the root certificates that may issue this identity.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// Returns the Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// Returns the Kubernetes service account.
    pub fn service_account(&self) -> &str {
        &self.0.service_account
    }

    /// Returns true if this is the identity of a control plane, of whatever trust domain.
    pub fn is_control_plane(&self) -> bool {
        (self.namespace(), self.service_account()) == CONTROL_PLANE
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.uri)
    }
}

// The URI contains the other parts.
impl PartialEq for Parts {
    fn eq(&self, other: &Self) -> bool {
        self.uri == other.uri
    }
}

impl Eq for Parts {}

impl Hash for Parts {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.uri.hash(state);
    }
}

impl PartialOrd for Parts {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Parts {
    fn cmp(&self, other: &Self) -> Ordering {
        self.uri.cmp(&other.uri)
    }
}

fn is_kubernetes_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    !name.is_empty()
        && name.len() <= 253
        && name.bytes().all(inner)
        && !name.starts_with(['-', '.'])
        && !name.ends_with(['-', '.'])
}

/// Why a text is not a valid identity. The message names the value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// Not a trust domain name.
    #[error("{0:?} is not a SPIFFE trust domain")]
    TrustDomain(String),
    /// Not a namespace or service account name.
    #[error("{0:?} is not a Kubernetes name")]
    Name(String),
    /// Not of the form `spiffe://<trust domain>/ns/<namespace>/sa/<account>`.
    #[error("{0:?} is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<account>")]
    Uri(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_plane_of_any_trust_domain_is_known_by_namespace_and_account() {
        let identity = SpiffeId::control_plane(TrustDomain::parse("example.org").unwrap());
        assert_eq!(identity.as_str(), "spiffe://example.org/ns/outrigger-system/sa/control-plane");
        assert!(SpiffeId::parse(identity.as_str()).unwrap().is_control_plane());
        for other in ["ns/outrigger-system/sa/other", "ns/shop/sa/control-plane"] {
            assert!(!SpiffeId::parse(&format!("spiffe://example.org/{other}")).unwrap().is_control_plane());
        }
    }

    #[test]
    fn an_identity_survives_the_round_trip_through_its_uri() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
        assert_eq!(
            (id.trust_domain().as_str(), id.namespace(), id.service_account()),
            ("cluster.local", "shop", "cart")
        );
        assert_eq!(SpiffeId::parse(id.as_str()).unwrap(), id);
    }

    #[test]
    fn anything_but_the_exact_form_is_refused() {
        for uri in [
            "",
            "https://cluster.local/ns/shop/sa/cart",
            "spiffe://cluster.local/ns/shop/sa/cart/x",
            "spiffe://cluster.local/ns/shop/sa/",
            "spiffe://cluster.local/ns//sa/cart",
            "spiffe://Cluster.local/ns/shop/sa/cart",
            "spiffe://cluster.local:8080/ns/shop/sa/cart",
            "spiffe://cluster.local/sa/cart/ns/shop",
            "spiffe://cluster.local/ns/shop/sa/cart?x",
        ] {
            assert!(SpiffeId::parse(uri).is_err(), "{uri}");
        }
    }
}
