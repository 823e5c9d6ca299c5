//! Descriptors of requests for rate limits: lists of keys and values, made by the actions of `envoy.config.route.v3.RateLimit`.
//!
//! An action that finds nothing in a request makes that there is no descriptor, so that its limit does not apply.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderName;
use ipnet::IpNet;
use outrigger_core::identity::SpiffeId;
use outrigger_proto::xds::metadata_key::metadata_key::path_segment::Segment;
use outrigger_proto::xds::metadata_key::{MetadataKey, metadata_key::PathSegment};
use outrigger_proto::xds::route::{self, rate_limit, rate_limit::action};

use crate::claim::{ClaimPath, NamedClaims};
use crate::field::{Unusable, each, non_empty, number, required, unsupported_any};
use crate::header_match::{Head, HeaderMatcher};

/// The command that stands for the verified identity of the caller, as Envoy writes it.
const IDENTITY: &str = "%DOWNSTREAM_PEER_URI_SAN%";

/// The highest stage (`RateLimit.stage`).
const STAGES: u32 = 10;

/// A descriptor: its entries, in order.
pub(crate) type Descriptor = Vec<(String, String)>;

/// What descriptors say of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) head: Head<'a>,
    /// The verified identity of the caller.
    pub(crate) identity: Option<&'a SpiffeId>,
    /// The address of the caller.
    pub(crate) address: IpAddr,
    /// The cluster that its route chose.
    pub(crate) cluster: Option<&'a str>,
    /// The claims of its verified tokens.
    pub(crate) claims: &'a [NamedClaims],
}

/// How descriptors are made for the filters of one stage.
#[derive(Debug, Clone)]
pub struct DescriptorRule {
    stage: u32,
    actions: Box<[Action]>,
}

/// The rules of a route and of its virtual host.
#[derive(Debug, Clone, Default)]
pub struct RouteDescriptors {
    of_route: Arc<[DescriptorRule]>,
    of_host: Arc<[DescriptorRule]>,
    /// Whether those of the virtual host apply beside those of the route (`include_vh_rate_limits`).
    includes_host: bool,
}

/// Which rules of a route apply to a filter (`VhRateLimitsOptions`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inherited {
    /// Those of the virtual host if the route has none.
    Override,
    /// Those of both.
    Include,
    /// Those of the route.
    Ignore,
}

#[derive(Debug, Clone)]
enum Action {
    Literal { key: String, value: String },
    Identity { key: String, default: String },
    Cluster,
    Field { key: String, name: Field, may_miss: bool },
    Query { key: String, name: String, may_miss: bool },
    Address,
    Network { v4: u8, v6: u8 },
    Claim { key: String, claim: ClaimPath, default: String, may_miss: bool },
    Match { key: String, value: String, headers: Box<[HeaderMatcher]>, expect: bool },
}

#[derive(Debug, Clone)]
enum Field {
    Method,
    Scheme,
    Authority,
    Path,
    Named(HeaderName),
}

/// What an action makes of a request.
enum Made {
    Entry(String, String),
    Nothing,
    NoDescriptor,
}

impl DescriptorRule {
    /// Decodes a rule.
    pub fn decode(wire: route::RateLimit) -> Result<Self, Unusable> {
        let route::RateLimit {
            stage,
            disable_key: _, // there is no runtime layer, so that the key never has a value
            actions,
            limit,
            hits_addend,
            apply_on_stream_done,
            x_ratelimit_option,
        } = wire;
        unsupported_any(&[
            ("limit", limit.is_some()),
            ("hits_addend", hits_addend.is_some()),
            ("apply_on_stream_done", apply_on_stream_done),
            ("x_ratelimit_option", x_ratelimit_option != 0),
        ])?;
        required("actions", actions.first())?;
        Ok(Self {
            stage: checked_stage(number(stage).unwrap_or(0))?,
            actions: each("actions", actions, Action::decode)?.into(),
        })
    }

    /// Returns the descriptor of a request, or `None` if it has none.
    pub(crate) fn descriptor(&self, request: &Subject<'_>) -> Option<Descriptor> {
        let mut entries = Vec::with_capacity(self.actions.len());
        for action in &self.actions {
            match action.make(request) {
                Made::Entry(key, value) => entries.push((key, value)),
                Made::Nothing => {}
                Made::NoDescriptor => return None,
            }
        }
        (!entries.is_empty()).then_some(entries)
    }
}

impl RouteDescriptors {
    /// Decodes the rules of a route. `host` has those of its virtual host.
    pub fn decode(
        wire: Vec<route::RateLimit>,
        host: &Arc<[DescriptorRule]>,
        includes_host: bool,
    ) -> Result<Self, Unusable> {
        let of_route = each("rate_limits", wire, DescriptorRule::decode)?.into();
        Ok(Self { of_route, of_host: Arc::clone(host), includes_host })
    }

    /// Returns the descriptors of a request for a filter of this stage.
    pub(crate) fn of(&self, request: &Subject<'_>, stage: u32, inherited: Inherited) -> Vec<Descriptor> {
        let host = match inherited {
            Inherited::Include => true,
            Inherited::Override => self.includes_host || self.of_route.is_empty(),
            Inherited::Ignore => false,
        };
        let of_host = self.of_host.iter().filter(|_| host);
        let rules = self.of_route.iter().chain(of_host).filter(|rule| rule.stage == stage);
        rules.filter_map(|rule| rule.descriptor(request)).collect()
    }
}

/// Returns a stage that exists.
pub(crate) fn checked_stage(stage: u32) -> Result<u32, Unusable> {
    if stage <= STAGES { Ok(stage) } else { Err(Unusable::new("stage", "is more than 10")) }
}

impl Action {
    fn decode(wire: rate_limit::Action) -> Result<Self, Unusable> {
        use action::ActionSpecifier as Wire;
        let rate_limit::Action { action_specifier } = wire;
        let within = |field: &'static str| move |bad: Unusable| bad.within(field);
        let refused = |field: &str| Err(Unusable::new(field, "is not supported"));
        #[allow(deprecated)] // the deprecated form must be rejected, not overlooked
        match required("action_specifier", action_specifier)? {
            Wire::GenericKey(wire) => generic_key(wire).map_err(within("generic_key")),
            Wire::DestinationCluster(action::DestinationCluster {}) => Ok(Self::Cluster),
            Wire::RequestHeaders(wire) => request_headers(wire).map_err(within("request_headers")),
            Wire::QueryParameters(wire) => {
                let action::QueryParameters { query_parameter_name, descriptor_key, skip_if_absent } = wire;
                Ok(Self::Query {
                    key: non_empty("query_parameters.descriptor_key", descriptor_key)?,
                    name: non_empty("query_parameters.query_parameter_name", query_parameter_name)?,
                    may_miss: skip_if_absent,
                })
            }
            Wire::RemoteAddress(action::RemoteAddress {}) => Ok(Self::Address),
            Wire::MaskedRemoteAddress(wire) => masked(wire).map_err(within("masked_remote_address")),
            Wire::HeaderValueMatch(wire) => header_match(wire).map_err(within("header_value_match")),
            Wire::SourceCluster(_) => refused("source_cluster"),
            Wire::DynamicMetadata(_) => refused("dynamic_metadata"),
            Wire::Metadata(wire) => claim(wire).map_err(within("metadata")),
            Wire::Extension(_) => refused("extension"),
            Wire::QueryParameterValueMatch(_) => refused("query_parameter_value_match"),
            Wire::RemoteAddressMatch(_) => refused("remote_address_match"),
        }
    }

    fn make(&self, request: &Subject<'_>) -> Made {
        let missing = |may_miss: &bool| if *may_miss { Made::Nothing } else { Made::NoDescriptor };
        let address = request.address.to_canonical();
        match self {
            Self::Literal { key, value } => Made::Entry(key.clone(), value.clone()),
            Self::Identity { key, default } => match request.identity {
                Some(identity) => Made::Entry(key.clone(), identity.as_str().to_owned()),
                None if default.is_empty() => Made::NoDescriptor,
                None => Made::Entry(key.clone(), default.clone()),
            },
            Self::Cluster => request.cluster.map_or(Made::NoDescriptor, |cluster| {
                Made::Entry("destination_cluster".to_owned(), cluster.to_owned())
            }),
            Self::Field { key, name, may_miss } => match name.value(&request.head) {
                Some(value) => Made::Entry(key.clone(), value),
                None => missing(may_miss),
            },
            Self::Query { key, name, may_miss } => match query(request.head.path, name) {
                Some(value) => Made::Entry(key.clone(), value.to_owned()),
                None => missing(may_miss),
            },
            Self::Address => Made::Entry("remote_address".to_owned(), address.to_string()),
            Self::Network { v4, v6 } => {
                let length = if address.is_ipv4() { *v4 } else { *v6 };
                match IpNet::new(address, length) {
                    Ok(net) => Made::Entry("masked_remote_address".to_owned(), net.trunc().to_string()),
                    Err(_) => Made::NoDescriptor,
                }
            }
            // As in Envoy, a value is a text, and an empty one is none.
            Self::Claim { key, claim, default, may_miss } => {
                let value = claim.find(request.claims).and_then(|claim| claim.as_str());
                match value.filter(|value| !value.is_empty()).unwrap_or(default) {
                    "" => missing(may_miss),
                    value => Made::Entry(key.clone(), value.to_owned()),
                }
            }
            Self::Match { key, value, headers, expect } => {
                let matches = headers.iter().all(|matcher| matcher.matches(&request.head));
                if matches == *expect { Made::Entry(key.clone(), value.clone()) } else { Made::NoDescriptor }
            }
        }
    }
}

fn generic_key(wire: action::GenericKey) -> Result<Action, Unusable> {
    let action::GenericKey { descriptor_value, default_value, descriptor_key } = wire;
    let key = if descriptor_key.is_empty() { "generic_key".to_owned() } else { descriptor_key };
    let value = non_empty("descriptor_value", descriptor_value)?;
    match value.as_str() {
        IDENTITY => Ok(Action::Identity { key, default: default_value }),
        text if text.contains('%') => {
            Err(Unusable::new("descriptor_value", format_args!("no command but {IDENTITY} is supported")))
        }
        _ => Ok(Action::Literal { key, value }),
    }
}

fn request_headers(wire: action::RequestHeaders) -> Result<Action, Unusable> {
    let action::RequestHeaders { header_name, descriptor_key, skip_if_absent } = wire;
    let name =
        match header_name.to_ascii_lowercase().as_str() {
            ":method" => Field::Method,
            ":scheme" => Field::Scheme,
            ":authority" | "host" => Field::Authority,
            ":path" => Field::Path,
            name => Field::Named(HeaderName::try_from(name).map_err(|_| {
                Unusable::new("header_name", format_args!("{header_name:?} is no header name"))
            })?),
        };
    Ok(Action::Field { key: non_empty("descriptor_key", descriptor_key)?, name, may_miss: skip_if_absent })
}

fn masked(wire: action::MaskedRemoteAddress) -> Result<Action, Unusable> {
    let action::MaskedRemoteAddress { v4_prefix_mask_len, v6_prefix_mask_len } = wire;
    let length = |field: &str, wire, most: u8| match number(wire) {
        None => Ok(most),
        Some(length) => u8::try_from(length)
            .ok()
            .filter(|length| *length <= most)
            .ok_or_else(|| Unusable::new(field, format_args!("is more than {most}"))),
    };
    Ok(Action::Network {
        v4: length("v4_prefix_mask_len", v4_prefix_mask_len, 32)?,
        v6: length("v6_prefix_mask_len", v6_prefix_mask_len, 128)?,
    })
}

fn claim(wire: action::MetaData) -> Result<Action, Unusable> {
    let action::MetaData { descriptor_key, metadata_key, default_value, source, skip_if_absent } = wire;
    if source != action::meta_data::Source::Dynamic as i32 {
        return Err(Unusable::new("source", "must be DYNAMIC: routes have no metadata to read"));
    }
    let MetadataKey { key, path } = required("metadata_key", metadata_key)?;
    let segment = |PathSegment { segment }| match required("segment", segment)? {
        Segment::Key(key) => Ok(key),
        Segment::Index(_) => Err(Unusable::new("index", "is not supported")),
    };
    let path = each("metadata_key.path", path, segment)?;
    Ok(Action::Claim {
        key: non_empty("descriptor_key", descriptor_key)?,
        claim: ClaimPath::new(("metadata_key.key", &key), ("metadata_key.path", path))?,
        default: default_value,
        may_miss: skip_if_absent,
    })
}

fn header_match(wire: action::HeaderValueMatch) -> Result<Action, Unusable> {
    let action::HeaderValueMatch {
        descriptor_value,
        default_value: _, // for values that substitution commands make
        descriptor_key,
        expect_match,
        headers,
    } = wire;
    required("headers", headers.first())?;
    let value = non_empty("descriptor_value", descriptor_value)?;
    if value.contains('%') {
        return Err(Unusable::new(
            "descriptor_value",
            "holds a substitution command, which is not supported",
        ));
    }
    Ok(Action::Match {
        key: if descriptor_key.is_empty() { "header_match".to_owned() } else { descriptor_key },
        value,
        headers: each("headers", headers, HeaderMatcher::decode)?.into(),
        expect: expect_match.is_none_or(|expect| expect.value),
    })
}

impl Field {
    fn value(&self, head: &Head<'_>) -> Option<String> {
        let text = match self {
            Self::Method => head.method.as_str(),
            Self::Scheme => head.scheme,
            Self::Authority => head.authority,
            Self::Path => head.path,
            Self::Named(name) => {
                // The lines of a field are one value (RFC 9110 section 5.3): a further line changes it and hides nothing.
                let lines =
                    head.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
                let lines: Vec<_> = lines.collect();
                return (!lines.is_empty()).then(|| lines.join(","));
            }
        };
        Some(text.to_owned())
    }
}

/// Returns the value of the first parameter with this name, as it is in the path.
fn query<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = path.split_once('?')?;
    let mut parameters = query.split('&').map(|part| part.split_once('=').unwrap_or((part, "")));
    parameters.find(|(of, _)| *of == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests;
