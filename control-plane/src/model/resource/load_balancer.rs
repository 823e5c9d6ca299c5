//! The field `loadBalancer` of a BackendTrafficPolicy.

use outrigger_core::Name;
use schemars::JsonSchema;
use serde::Deserialize;

use super::strict::at;
use super::value::{GepDuration, HeaderName, ReplacementPath, Text};
use crate::model::backend_traffic::{HashKey, LoadBalancer};

/// How an endpoint is picked.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct WireLoadBalancer {
    r#type: WireBalancerType,
    consistent_hash: Option<WireHash>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
enum WireBalancerType {
    #[serde(rename = "PeakEWMA")]
    PeakEwma,
    LeastRequest,
    RoundRobin,
    Random,
    RingHash,
    Maglev,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireHash {
    r#type: WireHashType,
    header: Option<HeaderName>,
    cookie: Option<WireCookie>,
    query_param: Option<Text<256>>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
enum WireHashType {
    Header,
    Cookie,
    QueryParam,
    Source,
}

/// The name of a cookie is a token, as that of a header.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireCookie {
    name: HeaderName,
    ttl: Option<GepDuration>,
    path: Option<ReplacementPath>,
}

impl WireLoadBalancer {
    /// Returns the balancer. Returns the error of a field of `loadBalancer`.
    pub(super) fn decode(self) -> Result<LoadBalancer, String> {
        let Self { r#type: kind, consistent_hash: hash } = self;
        let balancer = match (kind, hash) {
            (WireBalancerType::RingHash, Some(hash)) => return Ok(LoadBalancer::RingHash(hash.decode()?)),
            (WireBalancerType::Maglev, Some(hash)) => return Ok(LoadBalancer::Maglev(hash.decode()?)),
            (WireBalancerType::RingHash | WireBalancerType::Maglev, None) => {
                return Err(at("loadBalancer.consistentHash", "is missing: it says what is hashed"));
            }
            (_, Some(_)) => {
                return Err(at("loadBalancer.consistentHash", "has an effect with RingHash and Maglev only"));
            }
            (WireBalancerType::PeakEwma, None) => LoadBalancer::PeakEwma,
            (WireBalancerType::LeastRequest, None) => LoadBalancer::LeastRequest,
            (WireBalancerType::RoundRobin, None) => LoadBalancer::RoundRobin,
            (WireBalancerType::Random, None) => LoadBalancer::Random,
        };
        Ok(balancer)
    }
}

impl WireHash {
    fn decode(self) -> Result<HashKey, String> {
        match self {
            Self { r#type: WireHashType::Header, header: Some(name), cookie: None, query_param: None } => {
                Ok(HashKey::Header(name.lower()))
            }
            Self { r#type: WireHashType::Cookie, header: None, cookie: Some(cookie), query_param: None } => {
                let WireCookie { name, ttl, path } = cookie;
                let path = path.map_or_else(|| Name::from("/"), |path| path.0);
                // RFC 6265 section 4.1.1: a semicolon would begin another attribute.
                if !path.starts_with('/') || path.contains(';') {
                    let field = "loadBalancer.consistentHash.cookie.path";
                    return Err(at(field, format_args!("{path:?} is not the path of a cookie")));
                }
                Ok(HashKey::Cookie { name: name.0, ttl: ttl.map(|ttl| ttl.0), path })
            }
            Self {
                r#type: WireHashType::QueryParam,
                header: None,
                cookie: None,
                query_param: Some(name),
            } => Ok(HashKey::QueryParam(name.0)),
            Self { r#type: WireHashType::Source, header: None, cookie: None, query_param: None } => {
                Ok(HashKey::Source)
            }
            _ => Err(at("loadBalancer.consistentHash", "needs the field of its type, and no other")),
        }
    }
}
