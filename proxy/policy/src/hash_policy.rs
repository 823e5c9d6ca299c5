//! The hash of a request, by which a cluster with a hashing balancer picks its endpoint (`RouteAction.hash_policy`,
//! `ConsistentHashingLbConfig.hash_policy`, `envoy.type.v3.HashPolicy` for connections).
//!
//! The hashes are those of Envoy, xxHash64 with seed 0, so that both proxies send a request to the same endpoint. A request without
//! any of the values has no hash, and its endpoint is picked at random.

use std::borrow::Cow;
use std::net::SocketAddr;

use http::HeaderValue;
use outrigger_proto::xds::{matcher, route, types};
use regex::bytes::Regex;
use twox_hash::XxHash64;

use crate::cookie::Cookie;
use crate::field::{Unusable, duration, each, non_empty, required};
use crate::header_match::{Head, Name};
use crate::rewrite;
use crate::verdict::Source;

/// What the hash of a request is made of.
#[derive(Debug, Clone, Default)]
pub struct HashPolicies(Box<[HashPolicy]>);

#[derive(Debug, Clone)]
struct HashPolicy {
    of: HashOf,
    /// Whether the policies after it are left out if there is a hash.
    terminal: bool,
}

#[derive(Debug, Clone)]
enum HashOf {
    Header(Name, Option<Substitution>),
    Cookie(HashedCookie),
    SourceAddress,
    QueryParameter(Box<str>),
}

/// What replaces each match of an expression in a value.
#[derive(Debug, Clone)]
struct Substitution {
    pattern: Regex,
    template: Box<str>,
}

#[derive(Debug, Clone)]
struct HashedCookie {
    cookie: Cookie,
    /// Whether the proxy generates missing ones.
    generated: bool,
}

impl HashPolicies {
    /// Decodes the policies of a route or of a cluster. Returns an error for those that hash the state of Envoy's filters.
    pub fn decode(wire: Vec<route::route_action::HashPolicy>) -> Result<Self, Unusable> {
        let policies = each("hash_policy", wire, HashPolicy::decode)?;
        // Without the source address, the properties of a connection have nothing to hash.
        Ok(Self(policies.into_iter().flatten().collect()))
    }

    /// Decodes the policies of a TCP proxy. Returns an error for those that hash the state of Envoy's filters.
    pub fn decode_tcp(wire: Vec<types::HashPolicy>) -> Result<Self, Unusable> {
        use types::hash_policy::PolicySpecifier as Wire;
        let policy = |wire: types::HashPolicy| {
            let types::HashPolicy { policy_specifier } = wire;
            match required("source_ip", policy_specifier)? {
                Wire::SourceIp(types::hash_policy::SourceIp {}) => {
                    Ok(HashPolicy { of: HashOf::SourceAddress, terminal: false })
                }
                Wire::FilterState(_) => Err(Unusable::new("filter_state", "is not supported")),
            }
        };
        Ok(Self(each("hash_policy", wire, policy)?.into()))
    }

    /// Returns whether there is no policy, so that no request has a hash.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the hash of a request, or `None` if it has none of the values. `set_cookie` gets the `set-cookie` line of each cookie
    /// that is generated for its client.
    pub fn of_request(
        &self,
        head: &Head<'_>,
        source: &Source<'_>,
        mut set_cookie: impl FnMut(HeaderValue),
    ) -> Option<u64> {
        self.combined(|of| match of {
            HashOf::Header(name, substitution) => of_header(name, substitution.as_ref(), head),
            HashOf::Cookie(cookie) => cookie.hash(head, source, &mut set_cookie),
            HashOf::SourceAddress => of_address(source),
            HashOf::QueryParameter(name) => {
                let (_, query) = head.path.split_once('?')?;
                let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
                pairs.into_iter().find(|(key, _)| *key == &**name).map(|(_, value)| hash(value.as_bytes()))
            }
        })
    }

    /// Returns the hash of a connection. Only its address has one.
    pub fn of_connection(&self, source: &Source<'_>) -> Option<u64> {
        self.combined(|of| matches!(of, HashOf::SourceAddress).then(|| of_address(source)).flatten())
    }

    fn combined(&self, mut hash: impl FnMut(&HashOf) -> Option<u64>) -> Option<u64> {
        let mut all: Option<u64> = None;
        for HashPolicy { of, terminal } in &self.0 {
            if let Some(next) = hash(of) {
                all = Some(all.unwrap_or_default().rotate_left(1) ^ next);
            }
            if *terminal && all.is_some() {
                break;
            }
        }
        all
    }
}

impl HashPolicy {
    fn decode(wire: route::route_action::HashPolicy) -> Result<Option<Self>, Unusable> {
        use route::route_action::hash_policy as wires;
        use wires::PolicySpecifier as Wire;
        let route::route_action::HashPolicy { terminal, policy_specifier } = wire;
        let of = match required("policy_specifier", policy_specifier)? {
            Wire::Header(wires::Header { header_name, regex_rewrite }) => {
                let name = Name::decode(&header_name)
                    .map_err(|Unusable { problem, .. }| Unusable::new("header.header_name", problem))?;
                let substitution = regex_rewrite.map(Substitution::decode).transpose();
                HashOf::Header(name, substitution.map_err(|bad| bad.within("header.regex_rewrite"))?)
            }
            Wire::Cookie(wire) => {
                HashOf::Cookie(HashedCookie::decode(wire).map_err(|bad| bad.within("cookie"))?)
            }
            Wire::ConnectionProperties(wires::ConnectionProperties { source_ip: true }) => {
                HashOf::SourceAddress
            }
            Wire::ConnectionProperties(wires::ConnectionProperties { source_ip: false }) => return Ok(None),
            Wire::QueryParameter(wires::QueryParameter { name }) => {
                HashOf::QueryParameter(non_empty("query_parameter.name", name)?.into())
            }
            Wire::FilterState(_) => return Err(Unusable::new("filter_state", "is not supported")),
        };
        Ok(Some(Self { of, terminal }))
    }
}

impl Substitution {
    fn decode(wire: matcher::RegexMatchAndSubstitute) -> Result<Self, Unusable> {
        let (pattern, template) = rewrite::substitution(wire)?;
        // A field value need not be text.
        let pattern = Regex::new(pattern.as_str()).map_err(|bad| Unusable::new("pattern.regex", bad))?;
        Ok(Self { pattern, template })
    }
}

/// Several lines of a name have the same hash in any order.
fn of_header(name: &Name, substitution: Option<&Substitution>, head: &Head<'_>) -> Option<u64> {
    let mut values = name.values(head);
    let (first, second) = (values.next()?, values.next());
    if second.is_none() && substitution.is_none() {
        return Some(hash(first));
    }
    let rewritten = |value| match substitution {
        None => Cow::Borrowed(value),
        Some(Substitution { pattern, template }) => pattern.replace_all(value, template.as_bytes()),
    };
    let mut values: Vec<_> = [first].into_iter().chain(second).chain(values).map(rewritten).collect();
    values.sort();
    Some(values.iter().fold(0, |seed, value| XxHash64::oneshot(seed, value)))
}

fn of_address(source: &Source<'_>) -> Option<u64> {
    Some(hash(source.address.to_string().as_bytes()))
}

fn hash(of: &[u8]) -> u64 {
    XxHash64::oneshot(0, of)
}

impl HashedCookie {
    fn decode(wire: route::route_action::hash_policy::Cookie) -> Result<Self, Unusable> {
        let route::route_action::hash_policy::Cookie { name, ttl, path, attributes } = wire;
        let ttl = duration("ttl", ttl)?;
        let attributes = attributes.into_iter().map(|wire| {
            let route::route_action::hash_policy::CookieAttribute { name, value } = wire;
            (name, value)
        });
        // A cookie without a lifetime, not even that of the browser's session, is not generated.
        Ok(Self { cookie: Cookie::new(name, ttl, &path, attributes)?, generated: ttl.is_some() })
    }

    fn hash(
        &self,
        head: &Head<'_>,
        source: &Source<'_>,
        set_cookie: &mut impl FnMut(HeaderValue),
    ) -> Option<u64> {
        if let Some(value) = self.cookie.value(head) {
            return Some(hash(value));
        }
        if !self.generated {
            return None;
        }
        // As in Envoy: the addresses of the connection, so that all its requests go to one endpoint already.
        let client = SocketAddr::new(source.address, source.port);
        let value = format!("{:016x}", hash(format!("{client}{}", source.destination).as_bytes()));
        set_cookie(self.cookie.set(&value)?);
        Some(hash(value.as_bytes()))
    }
}

#[cfg(test)]
mod tests;
