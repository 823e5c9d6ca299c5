//! AuthenticationPolicy, outrigger.dev/v1alpha1: which tokens and API keys requests need.

use std::sync::Arc;
use std::time::Duration;

use outrigger_core::Name;
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::claim::claim_path;
use super::credential_place::{Places, settable};
use super::jwks::InlineKeys;
use super::policy::{PolicyRules, PolicySpec, TargetRefs};
use super::strict::at;
use super::value::{
    GepDuration, HeaderName, HeaderValue, List, NamespaceName, Port, ReplacementPath, Text, Unsupported,
    refuse_repeated,
};
use crate::model::authentication::{ApiKeys, Authentication, AuthenticationMode, Issuer, KeySource};

/// The `spec` of an AuthenticationPolicy.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(try_from = "WireSpec")]
#[schemars(with = "WireSpec")]
pub(crate) struct AuthenticationPolicySpec(pub(crate) PolicySpec);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireSpec {
    #[serde(default)]
    target_refs: TargetRefs,
    #[serde(default)]
    mode: WireMode,
    jwt: Option<WireJwt>,
    api_keys: Option<WireApiKeys>,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize, JsonSchema)]
enum WireMode {
    #[default]
    Required,
    Optional,
    Off,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireJwt {
    issuers: List<OneIssuer, 1, 8>,
}

impl TryFrom<WireSpec> for AuthenticationPolicySpec {
    type Error = String;

    fn try_from(WireSpec { target_refs, mode, jwt, api_keys }: WireSpec) -> Result<Self, String> {
        let mode = match mode {
            WireMode::Off if jwt.is_some() || api_keys.is_some() => {
                return Err(at("mode", "is Off, which excludes jwt and apiKeys"));
            }
            WireMode::Optional if api_keys.is_some() => {
                return Err(at("mode", "is Optional, which excludes apiKeys: only tokens can be optional"));
            }
            WireMode::Required | WireMode::Optional if jwt.is_none() && api_keys.is_none() => {
                return Err("requires nothing: write jwt, apiKeys or both, or mode: Off".into());
            }
            WireMode::Required => AuthenticationMode::Required,
            WireMode::Optional => AuthenticationMode::Optional,
            WireMode::Off => AuthenticationMode::Off,
        };
        let issuers: Vec<_> = jwt.into_iter().flat_map(|jwt| jwt.issuers.0).map(|one| one.0).collect();
        let api_keys = api_keys
            .map(ApiKeys::try_from)
            .transpose()
            .map_err(|(field, reason)| at("apiKeys", at(field, reason)))?;
        let spec = Authentication { mode, issuers, api_keys, stands_in: false };
        let rules = PolicyRules::Authentication(Arc::new(spec));
        Ok(Self(PolicySpec { targets: target_refs.0, rules }))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "WireIssuer")]
#[schemars(with = "WireIssuer")]
struct OneIssuer(Issuer);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireIssuer {
    issuer: Text<2048>,
    audiences: Option<List<Text<2048>, 1, 64>>,
    keys: Keys,
    clock_skew: Option<GepDuration>,
    from: Option<Places>,
    #[serde(default)]
    forward: bool,
    claims_to_headers: Option<List<WireClaimHeader, 1, 32>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireClaimHeader {
    name: Option<Text<256>>,
    path: Option<List<Text<256>, 1, 8>>,
    header: HeaderName,
}

impl TryFrom<WireIssuer> for OneIssuer {
    type Error = String;

    fn try_from(wire: WireIssuer) -> Result<Self, String> {
        let WireIssuer { issuer, audiences, keys, clock_skew, from, forward, claims_to_headers } = wire;
        let clock_skew = clock_skew.map(|GepDuration(skew)| skew);
        let longest = Duration::from_secs(3600);
        if clock_skew.is_some_and(|skew| skew.subsec_nanos() != 0 || skew.is_zero() || skew > longest) {
            return Err(at("clockSkew", "is not a number of whole seconds between 1s and 1h"));
        }
        let mut claim_headers = Vec::new();
        for (index, WireClaimHeader { name, path, header }) in
            claims_to_headers.map_or_else(Vec::new, |list| list.0).into_iter().enumerate()
        {
            let within = |reason| at(format_args!("claimsToHeaders[{index}]"), reason);
            let header = settable(&header).map_err(|reason| within(at("header", reason)))?;
            claim_headers.push((claim_path(name, path).map_err(within)?, header));
        }
        refuse_repeated(claim_headers.iter().map(|(_, header)| header))
            .map_err(|reason| at("claimsToHeaders", reason))?;
        Ok(Self(Issuer {
            issuer: issuer.0,
            audiences: audiences
                .map_or_else(Vec::new, |list| list.0.into_iter().map(|text| text.0).collect()),
            keys: keys.0,
            clock_skew,
            places: from.map_or_else(Vec::new, |places| places.0),
            forwards: forward,
            claim_headers,
        }))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "WireKeys")]
#[schemars(with = "WireKeys")]
struct Keys(KeySource);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireKeys {
    inline: Option<InlineKeys>,
    service: Option<WireService>,
    /// A set outside the mesh.
    #[schemars(skip)]
    uri: Option<Unsupported>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireService {
    namespace: Option<NamespaceName>,
    name: NamespaceName,
    port: Port,
    path: ReplacementPath,
}

impl TryFrom<WireKeys> for Keys {
    type Error = String;

    fn try_from(WireKeys { inline, service, uri: None }: WireKeys) -> Result<Self, String> {
        match (inline, service) {
            (Some(InlineKeys(keys)), None) => Ok(Self(KeySource::Inline(keys))),
            (None, Some(WireService { namespace, name, port, path })) => {
                if !path.0.starts_with('/') {
                    return Err(at("service.path", "does not start with /"));
                }
                if http::uri::PathAndQuery::try_from(&*path.0).is_err() {
                    return Err(at("service.path", "has a character that no path may have"));
                }
                let namespace = namespace.map(|namespace| namespace.0);
                Ok(Self(KeySource::Service { namespace, name: name.0, port: port.0, path: path.0 }))
            }
            _ => Err("needs one of inline and service".into()),
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireApiKeys {
    clients: List<WireClient, 1, 256>,
    from: Places,
    client_header: Option<HeaderName>,
    #[serde(default)]
    forward: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireClient {
    name: HeaderValue,
    key: Option<HeaderValue>,
    sha256: Option<Text<64>>,
}

impl TryFrom<WireApiKeys> for ApiKeys {
    type Error = (String, String);

    fn try_from(wire: WireApiKeys) -> Result<Self, (String, String)> {
        let WireApiKeys { clients, from, client_header, forward } = wire;
        let mut hashed: Vec<(Name, Name)> = Vec::new();
        for (index, WireClient { name, key, sha256 }) in clients.0.into_iter().enumerate() {
            let bad = |inner: &str, reason: &str| (format!("clients[{index}]{inner}"), reason.to_owned());
            let hash = match (key, sha256) {
                (Some(HeaderValue(key)), None) => hash_of(&key),
                (None, Some(Text(digits))) => {
                    let legal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                    if digits.len() != 64 || !digits.bytes().all(legal) {
                        return Err(bad(".sha256", "is not 64 hexadecimal digits in lower case"));
                    }
                    digits
                }
                _ => return Err(bad("", "needs one of key and sha256")),
            };
            if hashed.iter().any(|(_, other)| *other == hash) {
                return Err(bad("", "has the key of another client"));
            }
            hashed.push((name.0, hash));
        }
        let client_header = client_header
            .map(|header| settable(&header))
            .transpose()
            .map_err(|reason| ("clientHeader".to_owned(), reason))?;
        from.check_for_keys().map_err(|(index, reason)| (format!("from[{index}]"), reason))?;
        Ok(Self { clients: hashed, places: from.0, client_header, forwards: forward })
    }
}

/// Returns the SHA-256 of a key in hexadecimal digits: from here on, nothing has the key itself.
fn hash_of(key: &str) -> Name {
    Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

#[cfg(test)]
mod tests;
