//! Authentication by signed tokens (`envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication`, RFC 7519).
//!
//! A rule, or the route, says which tokens a request must have. One that does not have them is refused. The fields that claims are
//! copied to are always removed from what the client sent, also where no token is required, so that only this filter sets them.

mod requirement;
mod provider;
mod cache;
mod claims;
mod failure;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use outrigger_core::Name;
use outrigger_core::reason::Reason;
use outrigger_proto::xds::jwt_authn;

use crate::field::{Unusable, each, non_empty, required, unsupported};
use crate::header_match::Head;
use crate::route_match::RouteMatcher;
use crate::verdict::{FilterRequest, RequestChanges, ResponseChanges, Verdict};
use failure::Failure;
use provider::Provider;
use requirement::{Check, Requirement};

/// The configuration of the filter, in a listener or a route.
#[derive(Debug)]
pub enum Jwt {
    /// In a listener.
    Listener(Authentication),
    /// The route requires nothing.
    Disabled,
    /// The route has a requirement of the listener, by its name.
    Named(Box<str>),
}

/// Providers, and which requests need their tokens.
#[derive(Debug)]
pub struct Authentication {
    providers: Box<[Provider]>,
    rules: Box<[(RouteMatcher, Arc<Requirement>)]>,
    named: BTreeMap<Box<str>, Arc<Requirement>>,
    /// CORS preflight requests need no token: browsers send none with them.
    admits_preflight: bool,
    /// Clients do not read why they are refused.
    is_silent: bool,
    /// The fields that only this filter sets.
    own_fields: Box<[HeaderName]>,
}

impl Jwt {
    /// Decodes the filter of a listener.
    pub fn decode(wire: jwt_authn::JwtAuthentication) -> Result<Self, Unusable> {
        let jwt_authn::JwtAuthentication {
            providers,
            rules,
            filter_state_rules,
            bypass_cors_preflight,
            requirement_map,
            strip_failure_response,
            stat_prefix: _, // refusals are counted by their reason
        } = wire;
        unsupported("filter_state_rules", filter_state_rules.is_some())?;
        let providers: BTreeMap<_, _> = providers.into_iter().collect();
        let providers = providers.into_iter().map(|(name, wire)| {
            Provider::decode(&name, wire).map_err(|bad| bad.within(format_args!("providers[{name:?}]")))
        });
        let providers = providers.collect::<Result<Box<[_]>, _>>()?;
        let named = requirement_map.into_iter().map(|(name, wire)| {
            let requirement = Requirement::decode(wire, &providers);
            let within = |bad: Unusable| bad.within(format_args!("requirement_map[{name:?}]"));
            Ok((Box::from(&*name), Arc::new(requirement.map_err(within)?)))
        });
        let named = named.collect::<Result<BTreeMap<_, _>, _>>()?;
        let rules = each("rules", rules, |wire| rule(wire, &providers, &named))?;
        let own_fields = providers.iter().flat_map(Provider::own_fields).cloned().collect();
        Ok(Self::Listener(Authentication {
            providers,
            rules: rules.into(),
            named,
            admits_preflight: bypass_cors_preflight,
            is_silent: strip_failure_response,
            own_fields,
        }))
    }

    /// Decodes a filter's configuration for a route.
    pub fn decode_for_route(wire: jwt_authn::PerRouteConfig) -> Result<Self, Unusable> {
        use jwt_authn::per_route_config::RequirementSpecifier as Wire;
        let jwt_authn::PerRouteConfig { requirement_specifier } = wire;
        match required("requirement_specifier", requirement_specifier)? {
            Wire::Disabled(true) => Ok(Self::Disabled),
            Wire::Disabled(false) => Err(Unusable::new("disabled", "must be true")),
            Wire::RequirementName(name) => Ok(Self::Named(non_empty("requirement_name", name)?.into())),
        }
    }

    /// Returns the clusters that keys are fetched from.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = &Name> {
        let providers = match self {
            Self::Listener(filter) => &*filter.providers,
            Self::Disabled | Self::Named(_) => &[],
        };
        providers.iter().filter_map(Provider::cluster)
    }

    /// Decides about a request. `listener` has the providers. Adds `WWW-Authenticate` to the response of a refused one.
    pub fn decide(
        &self,
        listener: &Self,
        request: &FilterRequest<'_>,
        response: &mut ResponseChanges,
    ) -> Verdict {
        let forbidden = || Verdict::refuse(Reason::Unauthenticated, StatusCode::FORBIDDEN);
        let Self::Listener(filter) = listener else { return forbidden() };
        let mut changes = RequestChanges::default();
        for name in filter.own_fields.iter().filter(|name| request.head.headers.contains_key(*name)) {
            changes.fields.remove(name.clone());
        }
        let requirement = match self {
            Self::Listener(of) => of.required(request),
            Self::Disabled => None,
            Self::Named(name) => match filter.named.get(name) {
                Some(requirement) => Some(&**requirement),
                // As Envoy answers a name that the listener does not have.
                None => return forbidden(),
            },
        };
        let Some(requirement) = requirement else { return admit(changes) };
        let now = (request.time_of_day)().duration_since(UNIX_EPOCH).unwrap_or_default();
        let providers = &filter.providers;
        let (verified, awaited) = (Vec::new(), Vec::new());
        let mut check = Check { providers, head: request.head, now, verified, awaited };
        let checked = requirement.check(&mut check);
        // Nothing is decided, not even that an optional token is ignored, while the keys may come.
        for keys in check.awaited {
            if let Some(fetches) = keys.worth_waiting((request.now)()) {
                return Verdict::AwaitKeys(keys, fetches);
            }
        }
        if let Err(failure) = checked {
            let (reason, status) = failure.answer();
            if status == StatusCode::UNAUTHORIZED {
                response.set(challenge(failure, &request.head, filter.is_silent));
            }
            return Verdict::refuse(reason, status);
        }
        for (provider, token) in check.verified {
            filter.providers[provider].apply(&token, &request.head, &mut changes);
        }
        admit(changes)
    }
}

impl Authentication {
    /// The first rule that matches applies.
    fn required(&self, request: &FilterRequest<'_>) -> Option<&Requirement> {
        if self.admits_preflight && is_preflight(&request.head) {
            return None;
        }
        let (_, requirement) =
            self.rules.iter().find(|(of, _)| of.matches(&request.head, (request.random)()))?;
        Some(&**requirement)
    }
}

fn rule(
    wire: jwt_authn::RequirementRule,
    providers: &[Provider],
    named: &BTreeMap<Box<str>, Arc<Requirement>>,
) -> Result<(RouteMatcher, Arc<Requirement>), Unusable> {
    use jwt_authn::requirement_rule::RequirementType as Wire;
    let jwt_authn::RequirementRule { r#match, requirement_type } = wire;
    let matcher = RouteMatcher::decode(required("match", r#match)?).map_err(|bad| bad.within("match"))?;
    let requirement = match requirement_type {
        None => Arc::new(Requirement::Nothing),
        Some(Wire::Requires(wire)) => {
            Arc::new(Requirement::decode(wire, providers).map_err(|bad| bad.within("requires"))?)
        }
        Some(Wire::RequirementName(name)) => named.get(&*name).cloned().ok_or_else(|| {
            Unusable::new("requirement_name", format_args!("{name:?} is not in requirement_map"))
        })?,
    };
    Ok((matcher, requirement))
}

fn admit(changes: RequestChanges) -> Verdict {
    if changes == RequestChanges::default() {
        Verdict::Admit
    } else {
        Verdict::AdmitChanged(Box::new(changes))
    }
}

/// The challenge of RFC 6750 section 3. A request without a token gets no error code.
fn challenge(failure: Failure, head: &Head<'_>, is_silent: bool) -> HeaderMap {
    let realm: String =
        head.authority.chars().filter(|c| c.is_ascii_alphanumeric() || ".-:[]".contains(*c)).collect();
    let error = match failure {
        Failure::Missing => String::new(),
        _ if is_silent => String::new(),
        failure => format!(", error=\"invalid_token\", error_description=\"{}\"", failure.description()),
    };
    let value = HeaderValue::try_from(format!("Bearer realm=\"{realm}\"{error}"));
    HeaderMap::from_iter(value.map(|value| (WWW_AUTHENTICATE, value)))
}

/// A CORS preflight request (Fetch section 4.8, "CORS-preflight fetch").
fn is_preflight(head: &Head<'_>) -> bool {
    *head.method == Method::OPTIONS
        && head.headers.contains_key(ORIGIN)
        && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

#[cfg(test)]
mod tests;
