//! A condition on a connection, a request or its caller (`envoy.config.rbac.v3.Permission` and `Principal`).

use std::net::IpAddr;
use std::ops::Range;

use ipnet::IpNet;
use outrigger_core::matcher::StringMatcher;
use outrigger_proto::xds::{core, matcher, rbac, route, types};

use super::Asked;
use super::claims::ClaimMatcher;
use crate::field::{Unusable, each, number, required};
use crate::header_match::HeaderMatcher;
use crate::string_match;
use crate::verdict::Source;

/// What conditions are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// A connection: conditions on a request are refused.
    Connection,
    /// A request.
    Request,
}

/// A condition.
#[derive(Debug, Clone)]
pub(super) enum Condition {
    Always,
    Each(Box<[Self]>),
    OneOf(Box<[Self]>),
    Not(Box<Self>),
    Header(HeaderMatcher),
    /// On the path without the query.
    Path(StringMatcher),
    DestinationIp(IpNet),
    /// Start (inclusive) and end (exclusive).
    DestinationPort(Range<u32>),
    /// A verified identity. With a matcher, on its URI.
    Authenticated(Option<StringMatcher>),
    CallerIp(IpNet),
    /// On a claim of a verified token.
    Claim(ClaimMatcher),
    /// On the server name of the TLS handshake; empty if there was none.
    ServerName(StringMatcher),
}

impl Condition {
    /// Returns whether a connection, and the request on it if there is one, satisfies the condition.
    pub(super) fn holds(&self, source: &Source<'_>, asked: Option<Asked<'_>>) -> bool {
        match self {
            Self::Always => true,
            Self::Each(all) => all.iter().all(|of| of.holds(source, asked)),
            Self::OneOf(all) => all.iter().any(|of| of.holds(source, asked)),
            Self::Not(inner) => !inner.holds(source, asked),
            Self::Header(matcher) => asked.is_some_and(|asked| matcher.matches(asked.head)),
            Self::Path(matcher) => asked.is_some_and(|asked| matcher.matches(path(asked.head.path))),
            Self::DestinationIp(net) => contains(net, source.destination.ip()),
            Self::DestinationPort(ports) => ports.contains(&source.destination.port().into()),
            Self::Authenticated(matcher) => source
                .identity
                .is_some_and(|id| matcher.as_ref().is_none_or(|matcher| matcher.matches(id.as_str()))),
            Self::CallerIp(net) => contains(net, source.address),
            Self::Claim(matcher) => asked.is_some_and(|asked| matcher.matches(asked.claims)),
            Self::ServerName(matcher) => matcher.matches(source.server_name.unwrap_or_default()),
        }
    }

    #[allow(deprecated)] // the deprecated form must be rejected, not overlooked
    pub(super) fn permission(wire: rbac::Permission, on: Scope) -> Result<Self, Unusable> {
        use rbac::permission::{Rule, Set};
        let rbac::Permission { rule } = wire;
        let inner = |wire| Self::permission(wire, on);
        let unsupported = |field: &str| Err(Unusable::new(field, "is not supported"));
        match required("rule", rule)? {
            Rule::AndRules(Set { rules }) => set("and_rules.rules", rules, inner).map(Self::Each),
            Rule::OrRules(Set { rules }) => set("or_rules.rules", rules, inner).map(Self::OneOf),
            Rule::Any(any) => always(any),
            Rule::NotRule(rule) => not("not_rule", *rule, inner),
            Rule::Header(wire) => header(wire, on),
            Rule::UrlPath(wire) => url_path(wire, on),
            Rule::DestinationIp(wire) => network("destination_ip", wire).map(Self::DestinationIp),
            Rule::DestinationPort(port @ 0..=65535) => Ok(Self::DestinationPort(port..port + 1)),
            Rule::DestinationPort(port) => {
                Err(Unusable::new("destination_port", format_args!("{port} is no port")))
            }
            Rule::DestinationPortRange(types::Int32Range { start, end }) => {
                let port = |port: i32| u32::try_from(port).ok().filter(|port| *port <= 65536);
                match (port(start), port(end)) {
                    (Some(start), Some(end)) if start < end => Ok(Self::DestinationPort(start..end)),
                    _ => Err(Unusable::new(
                        "destination_port_range",
                        format_args!("from {start} to {end} has no ports"),
                    )),
                }
            }
            Rule::RequestedServerName(wire) => string_match::decode(wire)
                .map(Self::ServerName)
                .map_err(|bad| bad.within("requested_server_name")),
            Rule::Metadata(_) => unsupported("metadata"),
            Rule::Matcher(_) => unsupported("matcher"),
            Rule::UriTemplate(_) => unsupported("uri_template"),
            Rule::SourcedMetadata(_) => unsupported("sourced_metadata"),
        }
    }

    #[allow(deprecated)] // the older form is still sent
    pub(super) fn principal(wire: rbac::Principal, on: Scope) -> Result<Self, Unusable> {
        use rbac::principal::{Authenticated, Identifier, Set};
        let rbac::Principal { identifier } = wire;
        let inner = |wire| Self::principal(wire, on);
        let unsupported = |field: &str| Err(Unusable::new(field, "is not supported"));
        match required("identifier", identifier)? {
            Identifier::AndIds(Set { ids }) => set("and_ids.ids", ids, inner).map(Self::Each),
            Identifier::OrIds(Set { ids }) => set("or_ids.ids", ids, inner).map(Self::OneOf),
            Identifier::Any(any) => always(any),
            Identifier::NotId(id) => not("not_id", *id, inner),
            Identifier::Authenticated(Authenticated { principal_name }) => {
                let name = principal_name.map(|wire| {
                    string_match::decode(wire).map_err(|bad| bad.within("authenticated.principal_name"))
                });
                name.transpose().map(Self::Authenticated)
            }
            // Fields of the request do not change the address of the caller here, so that the three are the same.
            Identifier::SourceIp(wire) => network("source_ip", wire).map(Self::CallerIp),
            Identifier::DirectRemoteIp(wire) => network("direct_remote_ip", wire).map(Self::CallerIp),
            Identifier::RemoteIp(wire) => network("remote_ip", wire).map(Self::CallerIp),
            Identifier::Header(wire) => header(wire, on),
            Identifier::UrlPath(wire) => url_path(wire, on),
            Identifier::Metadata(wire) => claim("metadata", wire, on),
            Identifier::SourcedMetadata(rbac::SourcedMetadata { metadata_matcher, metadata_source }) => {
                if metadata_source != rbac::MetadataSource::Dynamic as i32 {
                    let why = "ROUTE is not supported: routes have no metadata to compare";
                    return Err(Unusable::new("sourced_metadata.metadata_source", why));
                }
                let field = "sourced_metadata.metadata_matcher";
                claim(field, required(field, metadata_matcher)?, on)
            }
            Identifier::FilterState(_) => unsupported("filter_state"),
            Identifier::Custom(_) => unsupported("custom"),
        }
    }
}

fn always(any: bool) -> Result<Condition, Unusable> {
    if any { Ok(Condition::Always) } else { Err(Unusable::new("any", "must be true")) }
}

fn set<W>(
    field: &str,
    wire: Vec<W>,
    decode: impl Fn(W) -> Result<Condition, Unusable>,
) -> Result<Box<[Condition]>, Unusable> {
    required(field, wire.first())?;
    Ok(each(field, wire, decode)?.into())
}

fn not<W>(
    field: &str,
    wire: W,
    decode: impl Fn(W) -> Result<Condition, Unusable>,
) -> Result<Condition, Unusable> {
    decode(wire).map(|inner| Condition::Not(Box::new(inner))).map_err(|bad| bad.within(field))
}

/// Returns an error for a condition on a request where there is none.
fn needs_request(field: &str, on: Scope) -> Result<(), Unusable> {
    match on {
        Scope::Request => Ok(()),
        Scope::Connection => {
            Err(Unusable::new(field, "is a condition on requests, and this filter sees none"))
        }
    }
}

fn header(wire: route::HeaderMatcher, on: Scope) -> Result<Condition, Unusable> {
    needs_request("header", on)?;
    HeaderMatcher::decode(wire).map(Condition::Header).map_err(|bad| bad.within("header"))
}

fn url_path(wire: matcher::PathMatcher, on: Scope) -> Result<Condition, Unusable> {
    needs_request("url_path", on)?;
    let matcher::PathMatcher { rule } = wire;
    let matcher::path_matcher::Rule::Path(path) = required("url_path.rule", rule)?;
    string_match::decode(path).map(Condition::Path).map_err(|bad| bad.within("url_path.path"))
}

fn claim(field: &str, wire: matcher::MetadataMatcher, on: Scope) -> Result<Condition, Unusable> {
    needs_request(field, on)?;
    ClaimMatcher::decode(wire).map(Condition::Claim).map_err(|bad| bad.within(field))
}

/// Decodes a range of addresses. Bits beyond the prefix are ignored, as in Envoy.
fn network(field: &str, wire: core::CidrRange) -> Result<IpNet, Unusable> {
    let core::CidrRange { address_prefix, prefix_len } = wire;
    let bad = |what: String| Unusable::new(field, what);
    let address: IpAddr =
        address_prefix.parse().map_err(|_| bad(format!("{address_prefix:?} is no IP address")))?;
    let length = number(prefix_len).unwrap_or(0);
    let net = u8::try_from(length).ok().and_then(|length| IpNet::new(address, length).ok());
    net.map(|net| net.trunc()).ok_or_else(|| bad(format!("/{length} is too long for {address}")))
}

/// An IPv4 address that an IPv6 socket received is compared as IPv4.
fn contains(net: &IpNet, address: IpAddr) -> bool {
    net.contains(&address.to_canonical())
}

fn path(target: &str) -> &str {
    target.split(['?', '#']).next().unwrap_or_default()
}
