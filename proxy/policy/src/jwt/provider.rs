//! A provider: whose tokens are accepted, with which keys, from where in a request, and what becomes of a verified one
//! (`JwtProvider`).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use http::header::AUTHORIZATION;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue};
use outrigger_core::Name;
use outrigger_proto::xds::{core, jwt_authn};
use serde_json::{Map, Value};

use super::cache::{self, Token};
use super::claims::{Conditions, at_path};
use super::failure::Failure;
use crate::credential::{Place, Prefix, without_parameter};
use crate::field::{Unusable, duration, each, required, unsupported, unsupported_any};
use crate::header_match::Head;
use crate::header_mutation::mutable_name;
use crate::jose::{Compact, KeySet, Trust};
use crate::key_source::RemoteKeys;
use crate::string_match;
use crate::verdict::RequestChanges;

/// Envoy's default (`clock_skew_seconds`).
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// A provider.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) name: Box<str>,
    pub(super) conditions: Conditions,
    keys: Keys,
    places: Box<[Place]>,
    /// A verified token stays in the request.
    forward: bool,
    /// The field that gets the payload, and whether it is padded.
    payload_field: Option<(HeaderName, bool)>,
    claim_fields: Box<[ClaimField]>,
    /// The names under which later filters find claims and header.
    claims_name: Option<Name>,
    header_name: Option<Name>,
    /// Claims that are lists with spaces between their elements.
    lists: Box<[Box<str>]>,
}

#[derive(Debug)]
enum Keys {
    Configured(Arc<KeySet>),
    Fetched(Arc<RemoteKeys>),
}

#[derive(Debug)]
struct ClaimField {
    name: HeaderName,
    path: Box<[Box<str>]>,
}

impl Provider {
    /// Decodes a provider.
    pub(super) fn decode(name: &str, wire: jwt_authn::JwtProvider) -> Result<Self, Unusable> {
        let jwt_authn::JwtProvider {
            issuer,
            audiences,
            subjects,
            require_expiration,
            max_lifetime,
            forward,
            from_headers,
            from_params,
            from_cookies,
            forward_payload_header,
            pad_forward_payload_header,
            payload_in_metadata,
            normalize_payload_in_metadata,
            header_in_metadata,
            failed_status_in_metadata,
            clock_skew_seconds,
            jwt_cache_config: _, // tokens are cached within bounds of our own
            claim_to_headers,
            clear_route_cache,
            jwks_source_specifier,
        } = wire;
        unsupported_any(&[
            ("failed_status_in_metadata", !failed_status_in_metadata.is_empty()),
            ("clear_route_cache", clear_route_cache),
        ])?;
        let clock_skew = match clock_skew_seconds {
            0 => CLOCK_SKEW,
            seconds => Duration::from_secs(seconds.into()),
        };
        let subjects =
            subjects.map(string_match::decode).transpose().map_err(|bad| bad.within("subjects"))?;
        let conditions = Conditions {
            issuer: Some(issuer).filter(|issuer| !issuer.is_empty()).map(Into::into),
            audiences: boxed(audiences),
            subjects,
            requires_expiration: require_expiration,
            longest: duration("max_lifetime", max_lifetime)?,
            clock_skew,
        };
        let payload_field = Some(forward_payload_header).filter(|name| !name.is_empty());
        let payload_field =
            payload_field.map(|name| mutable_name("forward_payload_header", &name)).transpose()?;
        let lists = normalize_payload_in_metadata
            .map_or(Vec::new(), |jwt_authn::jwt_provider::NormalizePayload { space_delimited_claims }| {
                space_delimited_claims
            });
        let named = |name: String| Some(name).filter(|name| !name.is_empty()).map(Into::into);
        Ok(Self {
            name: name.into(),
            conditions,
            keys: keys(required("jwks_source_specifier", jwks_source_specifier)?)?,
            places: places(from_headers, from_params, from_cookies)?,
            forward,
            payload_field: payload_field.map(|name| (name, pad_forward_payload_header)),
            claim_fields: each("claim_to_headers", claim_to_headers, ClaimField::decode)?.into(),
            claims_name: named(payload_in_metadata),
            header_name: named(header_in_metadata),
            lists: boxed(lists),
        })
    }

    /// Returns the cluster that its keys are fetched from.
    pub(super) fn cluster(&self) -> Option<&Name> {
        match &self.keys {
            Keys::Configured(_) => None,
            Keys::Fetched(keys) => Some(keys.cluster()),
        }
    }

    /// Returns the fields that only this filter sets.
    pub(super) fn own_fields(&self) -> impl Iterator<Item = &HeaderName> {
        let payload = self.payload_field.iter().map(|(name, _)| name);
        payload.chain(self.claim_fields.iter().map(|field| &field.name))
    }

    /// Returns the tokens of a request at the places of this provider.
    pub(super) fn tokens<'a>(&self, head: &Head<'a>) -> Vec<Cow<'a, str>> {
        let mut tokens = Vec::new();
        self.places.iter().for_each(|place| place.find(head, &mut tokens));
        tokens
    }

    /// Verifies a token. `audiences` replace the provider's own; `now` is the time since the epoch.
    pub(super) fn verify(
        &self,
        text: &str,
        audiences: Option<&[Box<str>]>,
        now: Duration,
    ) -> Result<Arc<Token>, Failure> {
        let keys = match &self.keys {
            Keys::Configured(keys) => Arc::clone(keys),
            Keys::Fetched(keys) => keys.keys().ok_or(Failure::KeysUnavailable)?,
        };
        let token = match cache::get(text, &keys) {
            Some(token) => {
                self.conditions.is_issuer(&token.claims).then_some(token).ok_or(Failure::UnknownIssuer)?
            }
            None => {
                let compact = Compact::read(text)?;
                let claims = compact.claims()?;
                if !self.conditions.is_issuer(&claims) {
                    return Err(Failure::UnknownIssuer);
                }
                keys.verify(&compact)?;
                let (header, payload) = compact.into_parts();
                let token = Arc::new(Token { header: header.into(), claims: claims.into(), payload });
                cache::put(text, &keys, Arc::clone(&token));
                token
            }
        };
        self.conditions.check(&token.claims, audiences, now)?;
        Ok(token)
    }

    /// Returns the keys that may be there or newer soon, if that is why a token was not verified.
    pub(super) fn awaited(&self, failure: Failure) -> Option<&Arc<RemoteKeys>> {
        match (&self.keys, failure) {
            (Keys::Fetched(keys), Failure::KeysUnavailable | Failure::NoKey) => Some(keys),
            _ => None,
        }
    }

    /// Adds what a verified token changes in its request.
    pub(super) fn apply(&self, token: &Token, head: &Head<'_>, changes: &mut RequestChanges) {
        if !self.forward {
            self.places.iter().for_each(|place| remove(place, head, changes));
        }
        if let Some((name, padded)) = &self.payload_field {
            let payload = if *padded {
                URL_SAFE.encode(&token.payload)
            } else {
                URL_SAFE_NO_PAD.encode(&token.payload)
            };
            if let Ok(value) = HeaderValue::try_from(payload) {
                changes.fields.set(name.clone(), value);
            }
        }
        for ClaimField { name, path } in &self.claim_fields {
            if let Some(value) = at_path(&token.claims, path).and_then(field_value) {
                changes.fields.set(name.clone(), value);
            }
        }
        if let Some(name) = &self.claims_name {
            changes.claims.push((name.clone(), self.with_lists(&token.claims)));
        }
        if let Some(name) = &self.header_name {
            changes.claims.push((name.clone(), Arc::clone(&token.header)));
        }
    }

    /// Returns the claims, in which those with spaces between their elements are lists.
    fn with_lists(&self, claims: &Arc<Map<String, Value>>) -> Arc<Map<String, Value>> {
        let mut claims = Arc::clone(claims);
        for name in &self.lists {
            if let Some(Value::String(text)) = claims.get(&**name) {
                let list: Value = text.split_ascii_whitespace().collect();
                Arc::make_mut(&mut claims).insert((**name).into(), list);
            }
        }
        claims
    }
}

impl ClaimField {
    fn decode(wire: jwt_authn::JwtClaimToHeader) -> Result<Self, Unusable> {
        let jwt_authn::JwtClaimToHeader { header_name, claim_name, claim_path } = wire;
        let name = mutable_name("header_name", &header_name)?;
        let path = match (claim_name.is_empty(), claim_path.is_empty()) {
            (false, true) => claim_name.split('.').map(Into::into).collect(),
            (true, false) => claim_path.into_iter().map(|segment| segment.key.into()).collect(),
            (true, true) => return Err(Unusable::new("claim_name", "is required, or claim_path")),
            (false, false) => return Err(Unusable::new("claim_path", "excludes claim_name")),
        };
        Ok(Self { name, path })
    }
}

fn keys(wire: jwt_authn::jwt_provider::JwksSourceSpecifier) -> Result<Keys, Unusable> {
    use core::data_source::Specifier;
    use jwt_authn::jwt_provider::JwksSourceSpecifier as Wire;
    let core::DataSource { watched_directory, specifier } = match wire {
        Wire::LocalJwks(source) => source,
        Wire::RemoteJwks(wire) => {
            let keys = RemoteKeys::decode(wire).map_err(|bad| bad.within("remote_jwks"))?;
            return Ok(Keys::Fetched(keys));
        }
    };
    unsupported("local_jwks.watched_directory", watched_directory.is_some())?;
    let text = match required("local_jwks.specifier", specifier)? {
        Specifier::InlineString(text) => text.into_bytes(),
        Specifier::InlineBytes(bytes) => bytes,
        // A control plane says nothing of the files of the machine.
        Specifier::Filename(_) => return Err(Unusable::new("local_jwks.filename", "is not supported")),
        Specifier::EnvironmentVariable(_) => {
            return Err(Unusable::new("local_jwks.environment_variable", "is not supported"));
        }
    };
    let keys = KeySet::read(&text, Trust::Configuration);
    keys.map(|keys| Keys::Configured(Arc::new(keys))).map_err(|why| Unusable::new("local_jwks", why))
}

/// Without any place, these are `Authorization: Bearer` and `access_token` in the query (RFC 6750 sections 2.1 and 2.3).
fn places(
    headers: Vec<jwt_authn::JwtHeader>,
    params: Vec<String>,
    cookies: Vec<String>,
) -> Result<Box<[Place]>, Unusable> {
    let header = |jwt_authn::JwtHeader { name, value_prefix }| {
        let name = HeaderName::try_from(name).map_err(|_| Unusable::new("name", "is not a field name"))?;
        let prefix = match value_prefix.as_str() {
            "Bearer " => Prefix::Bearer,
            _ => Prefix::Text(value_prefix.into()),
        };
        Ok(Place::Header(name, prefix))
    };
    let mut places = each("from_headers", headers, header)?;
    places.extend(params.into_iter().map(|name| Place::Query(name.into())));
    places.extend(cookies.into_iter().map(|name| Place::Cookie(name.into())));
    if places.is_empty() {
        places = vec![Place::Header(AUTHORIZATION, Prefix::Bearer), Place::Query("access_token".into())];
    }
    Ok(places.into())
}

/// Removes the tokens at a place. Cookies stay, as in Envoy: the application may need its session.
fn remove(place: &Place, head: &Head<'_>, changes: &mut RequestChanges) {
    let mut tokens = Vec::new();
    place.find(head, &mut tokens);
    match place {
        Place::Header(name, _) if !tokens.is_empty() => changes.fields.remove(name.clone()),
        Place::Query(name) if !tokens.is_empty() => {
            let path = changes.path.as_ref().map_or(head.path, PathAndQuery::as_str);
            // What is left of a valid query is valid.
            if let Ok(path) = PathAndQuery::try_from(without_parameter(path, name)) {
                changes.path = Some(path);
            }
        }
        Place::Header(..) | Place::Query(_) | Place::Cookie(_) => {}
    }
}

/// Text, numbers and truth values as they are; lists and objects as JSON in base64. What no field can hold is left out.
fn field_value(claim: &Value) -> Option<HeaderValue> {
    match claim {
        Value::String(text) => HeaderValue::try_from(text).ok(),
        Value::Number(_) | Value::Bool(_) => HeaderValue::try_from(claim.to_string()).ok(),
        Value::Array(_) | Value::Object(_) => HeaderValue::try_from(STANDARD.encode(claim.to_string())).ok(),
        Value::Null => None,
    }
}

fn boxed(texts: Vec<String>) -> Box<[Box<str>]> {
    texts.into_iter().map(Into::into).collect()
}
