//! SPIFFE identities: who a workload is.
//!
//! Parsed once, where bytes come in; compared whole, never by prefix or pattern. See the SPIFFE ID
//! specification, section 2, and DESIGN's form `spiffe://<trust domain>/ns/<namespace>/sa/<account>`.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// A SPIFFE trust domain: lower-case letters, digits, dots, dashes and underscores, at most 255 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Reads a trust domain name such as `cluster.local`.
    ///
    /// Fails on an empty name, one longer than 255 bytes, or a character outside `[a-z0-9._-]`.
    pub fn parse(name: &str) -> Result<Self, IdentityError> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if name.is_empty() || name.len() > 255 || !name.bytes().all(legal) {
            return Err(IdentityError::TrustDomain(name.into()));
        }
        Ok(Self(name.into()))
    }

    /// The name, without `spiffe://`.
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

/// The identity of a workload: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
///
/// Cloning is cheap. Equality is of the whole identity.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Arc<str>,
    trust_domain: TrustDomain,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

impl SpiffeId {
    /// Makes an identity from its parts.
    ///
    /// Fails when the namespace or the account is not a DNS label or subdomain name of Kubernetes
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
        let uri = format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}").into();
        Ok(Self { uri, trust_domain, namespace: namespace.into(), service_account: service_account.into() })
    }

    /// Reads the URI form. Anything but exactly our four path segments is refused.
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

    /// The URI form, as in a certificate's subject alternative name.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The trust domain, which selects the roots that may vouch for this identity.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &str {
        &self.service_account
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.uri)
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

/// Why a name is no identity. The text names the offending value.
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
