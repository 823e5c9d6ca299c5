//! AuthenticationPolicy, outrigger.dev/v1alpha1: which tokens and API keys requests need.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::api_keys::WireApiKeys;
use super::claim::claim_path;
use super::credential_place::{Places, settable};
use super::jwks::InlineKeys;
use super::key_uri::{HttpsUri, RootCertificates};
use super::policy::{PolicyRules, PolicySpec, TargetRefs};
use super::strict::at;
use super::value::{
    GepDuration, HeaderName, List, NamespaceName, Port, ReplacementPath, Text, refuse_repeated,
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
    algorithms: Option<List<Algorithm, 1, 13>>,
    clock_skew: Option<GepDuration>,
    from: Option<Places>,
    #[serde(default)]
    forward: bool,
    claims_to_headers: Option<List<WireClaimHeader, 1, 32>>,
}

/// An algorithm of signatures (RFC 7518 section 3.1, RFC 8037 section 3.1).
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
enum Algorithm {
    #[serde(rename = "EdDSA")]
    EdDsa,
    Es256,
    Es384,
    Es512,
    Hs256,
    Hs384,
    Hs512,
    Ps256,
    Ps384,
    Ps512,
    Rs256,
    Rs384,
    Rs512,
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
        }
    }
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
        let WireIssuer { issuer, audiences, keys, algorithms, clock_skew, from, forward, claims_to_headers } =
            wire;
        let algorithms = algorithms.map_or_else(Vec::new, |list| list.0);
        let algorithms: Vec<_> = algorithms.into_iter().map(Algorithm::name).collect();
        let keys = keys.only_for(&algorithms).map_err(|reason| at("algorithms", reason))?;
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
            keys,
            algorithms,
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
enum Keys {
    Inline(InlineKeys),
    Elsewhere(KeySource),
}

impl Keys {
    /// Returns the keys, and if they are in the policy only those for `algorithms`. Without algorithms, all of them.
    fn only_for(self, algorithms: &[&str]) -> Result<KeySource, String> {
        match self {
            Self::Inline(keys) if algorithms.is_empty() => Ok(KeySource::Inline(keys.text)),
            Self::Inline(keys) => keys.only_for(algorithms).map(KeySource::Inline),
            Self::Elsewhere(source) => match algorithms.iter().find(|name| name.starts_with("HS")) {
                Some(name) => Err(format!("has {name}: only an inline set can have its secret")),
                None => Ok(source),
            },
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireKeys {
    inline: Option<InlineKeys>,
    service: Option<WireService>,
    uri: Option<HttpsUri>,
    ca_certificates: Option<RootCertificates>,
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

    fn try_from(WireKeys { inline, service, uri, ca_certificates }: WireKeys) -> Result<Self, String> {
        if ca_certificates.is_some() && uri.is_none() {
            return Err(at("caCertificates", "are for the host of uri"));
        }
        match (inline, service, uri) {
            (Some(keys), None, None) => Ok(Self::Inline(keys)),
            (None, None, Some(uri)) => Ok(Self::Elsewhere(KeySource::Uri(uri.certified_by(ca_certificates)))),
            (None, Some(WireService { namespace, name, port, path }), None) => {
                if !path.0.starts_with('/') {
                    return Err(at("service.path", "does not start with /"));
                }
                if http::uri::PathAndQuery::try_from(&*path.0).is_err() {
                    return Err(at("service.path", "has a character that no path may have"));
                }
                let namespace = namespace.map(|namespace| namespace.0);
                let (name, path) = (name.0, path.0);
                let port = port.0;
                Ok(Self::Elsewhere(KeySource::Service { namespace, name, port, path, exists: true }))
            }
            _ => Err("needs one of inline, service and uri".into()),
        }
    }
}

#[cfg(test)]
mod tests;
