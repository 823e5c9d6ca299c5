//! The AuthenticationPolicies that apply to a port of a workload, as filters: one refuses where a refused policy has no good version, then one
//! checks tokens, one the algorithms of those whose keys are elsewhere, and one API keys. Of several policies, that of the narrowest place applies.

use std::collections::BTreeMap;

use outrigger_core::Name;
use outrigger_proto::xds::api_key_auth::{
    ApiKeyAuth, ApiKeyAuthPerRoute, Credential, Forwarding, KeySource as WireKeySource,
};
use outrigger_proto::xds::jwt_authn::per_route_config::RequirementSpecifier;
use outrigger_proto::xds::jwt_authn::requirement_rule::RequirementType;
use outrigger_proto::xds::jwt_authn::{JwtAuthentication, PerRouteConfig, RequirementRule};
use outrigger_proto::xds::listener::Filter;
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::route::FilterConfig;
use outrigger_proto::xds::type_url;

use super::applied::{Applied, Configs};
use super::listener::network_filter;
use super::matching;
use super::rbac::{ANYTHING, Form, Ruleset, encode, refusal};
use super::scope::{Dialect, Scope};
use super::token::{limited_algorithms, providers, requirement};
use super::wire::any;
use crate::model::authentication::{ApiKeys, Authentication, AuthenticationMode, CredentialPlace};
use crate::model::policy::{Place, Policy, PolicyName};
use crate::model::route::Route;

/// The names of the filters. Routes configure them by these.
const REFUSED: &str = "outrigger.authentication.refused";
const TOKENS: &str = "outrigger.authentication.jwt";
const ALGORITHMS: &str = "outrigger.authentication.algorithms";
const KEYS: &str = "outrigger.authentication.api-keys";

/// Which credentials the requests of a port need.
#[derive(Debug)]
pub(super) struct Authenticated<'a> {
    policies: Applied<'a, Authentication>,
    /// Those in force: for the whole port, or at one of its routes.
    used: BTreeMap<&'a PolicyName, &'a Policy<Authentication>>,
    /// The domain of the names of services.
    domain: &'a str,
    /// The proxy knows hashes in place of API keys. Another one would take a hash for the key, so that what needs keys is refused.
    knows_hashes: bool,
}

impl<'a> Authenticated<'a> {
    /// Of a port with these routes.
    pub(super) fn new(policies: Applied<'a, Authentication>, routes: &[&Route], scope: Scope<'a>) -> Self {
        let (domain, knows_hashes) = (&*scope.settings.cluster_domain, scope.dialect() == Dialect::Outrigger);
        let of_routes = routes.iter().filter_map(|route| policies.narrowest_at_route(route));
        let used = policies.narrowest().into_iter().chain(of_routes);
        Self { used: used.map(|policy| (&policy.name, policy)).collect(), policies, domain, knows_hashes }
    }

    /// Returns the HTTP filters, in order: none without a policy.
    pub(super) fn filters(&self) -> Configs {
        let whole = self.policies.narrowest();
        let mut filters = Vec::new();
        if self.uses(|spec| self.refuses(spec)) {
            filters.push((REFUSED, self.refusal(whole, Form::Filter)));
        }
        if self.uses(|spec| !spec.issuers.is_empty()) {
            filters.push((TOKENS, self.tokens(whole)));
        }
        let policies = self.used.values();
        let mut rules = Ruleset::denying(ANYTHING);
        for (issuer, header, algorithms) in policies.flat_map(|policy| limited_algorithms(policy)) {
            rules.add_other_algorithms(&format!("{issuer} (algorithms)"), &header, algorithms);
        }
        if !rules.is_empty() {
            let value = encode(Form::Filter, &rules, None);
            filters.push((ALGORITHMS, Any { type_url: type_url::RBAC.into(), value }));
        }
        if self.knows_hashes && self.uses(|spec| spec.api_keys.is_some()) {
            let keys = whole.and_then(|policy| policy.spec.api_keys.as_ref()).map(listener_keys);
            filters.push((KEYS, any(type_url::API_KEY_AUTH, &keys.unwrap_or_default())));
        }
        filters
    }

    /// Returns true for a filter of the port that applies only where a route enables it.
    pub(super) fn is_disabled(&self, filter: &str) -> bool {
        filter == KEYS && self.policies.narrowest().is_none_or(|policy| policy.spec.api_keys.is_none())
    }

    /// Returns the configuration of the filters for a route. Empty if it is no target.
    pub(super) fn of_route(&self, route: &Route) -> Configs {
        let Some(policy) = self.policies.narrowest_at_route(route) else { return Vec::new() };
        let mut configs = Vec::new();
        if self.uses(|spec| self.refuses(spec)) {
            configs.push((REFUSED, self.refusal(Some(policy), Form::Route)));
        }
        if self.uses(|spec| !spec.issuers.is_empty()) {
            let required = match policy.spec.issuers.is_empty() {
                true => RequirementSpecifier::Disabled(true),
                false => RequirementSpecifier::RequirementName(policy.name.to_string()),
            };
            let config = PerRouteConfig { requirement_specifier: Some(required) };
            configs.push((TOKENS, any(type_url::JWT_PER_ROUTE, &config)));
        }
        if self.knows_hashes && self.uses(|spec| spec.api_keys.is_some()) {
            let config = match &policy.spec.api_keys {
                Some(keys) => any(type_url::API_KEY_AUTH_PER_ROUTE, &route_keys(keys)),
                None => any(type_url::FILTER_CONFIG, &FilterConfig { disabled: true, ..Default::default() }),
            };
            configs.push((KEYS, config));
        }
        configs
    }

    /// Returns the headers that requests of a route, or those of no route that is a target, must not bring: the filter for API keys sets them
    /// elsewhere. The filter for tokens removes its own headers everywhere.
    pub(super) fn headers_to_remove(&self, route: Option<&Route>) -> Vec<String> {
        let here = route.and_then(|route| self.policies.narrowest_at_route(route));
        let here = here.or_else(|| self.policies.narrowest());
        let header = |policy: &Policy<Authentication>| policy.spec.api_keys.as_ref()?.client_header.clone();
        let own = here.and_then(header);
        let others =
            self.used.values().filter_map(|policy| header(policy)).filter(|name| Some(name) != own.as_ref());
        let mut all: Vec<_> = others.map(|name| name.to_string()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Returns the network filter of a chain of opaque bytes, if such connections are refused: they have no credentials, and where requests
    /// need some, requests must not pass as opaque bytes. A port of opaque bytes alone is refused only by a policy that names the port.
    pub(super) fn network_filter(&self, stat: &str, beside_requests: bool) -> Option<Filter> {
        let needs = |policy: &&&Policy<Authentication>| {
            let of_port =
                || policy.places.iter().any(|place| matches!(place, Place::Service { port: Some(_), .. }));
            let required = policy.spec.mode == AuthenticationMode::Required;
            self.refuses(&policy.spec) || required && (beside_requests || of_port())
        };
        let refusing = self.used.values().find(needs)?;
        let config = refusal(Form::Connection(stat), Some(&refusing.name.to_string()));
        Some(network_filter(REFUSED, config))
    }

    fn uses(&self, what: impl Fn(&Authentication) -> bool) -> bool {
        self.used.values().any(|policy| what(&policy.spec))
    }

    /// Returns true if everything is refused: the policy stands for a refused one, has no key, or cannot be enforced by this proxy.
    fn refuses(&self, spec: &Authentication) -> bool {
        self.refusal_reason(spec).is_some()
    }

    /// Returns why everything is refused, for `denied_by` of the access log.
    fn refusal_reason(&self, spec: &Authentication) -> Option<&'static str> {
        let unsupported = spec.api_keys.is_some() && !self.knows_hashes;
        spec.refuses_all().or(unsupported.then_some("refused"))
    }

    /// Returns what denies everything if the policy does, and nothing otherwise.
    fn refusal(&self, policy: Option<&Policy<Authentication>>, form: Form<'_>) -> Any {
        let refusing = policy.and_then(|policy| Some((&policy.name, self.refusal_reason(&policy.spec)?)));
        refusal(form, refusing.map(|(name, reason)| format!("{name} ({reason})")).as_deref())
    }

    /// Returns the filter for tokens, with the issuers of every policy.
    fn tokens(&self, whole: Option<&Policy<Authentication>>) -> Any {
        let with_issuers = self.used.values().filter(|policy| !policy.spec.issuers.is_empty());
        let requirements = with_issuers.clone().map(|policy| (policy.name.to_string(), requirement(policy)));
        let whole = whole.filter(|policy| !policy.spec.issuers.is_empty());
        let rule = whole.map(|policy| RequirementRule {
            r#match: Some(matching::everything()),
            requirement_type: Some(RequirementType::RequirementName(policy.name.to_string())),
        });
        let filter = JwtAuthentication {
            providers: with_issuers.clone().flat_map(|policy| providers(policy, self.domain)).collect(),
            requirement_map: requirements.collect(),
            rules: rule.into_iter().collect(),
            // Browsers send no token with them.
            bypass_cors_preflight: true,
            ..Default::default()
        };
        any(type_url::JWT_AUTHENTICATION, &filter)
    }
}

fn listener_keys(keys: &ApiKeys) -> ApiKeyAuth {
    let ApiKeyAuthPerRoute { credentials, key_sources, forwarding, .. } = route_keys(keys);
    ApiKeyAuth { credentials, key_sources, forwarding }
}

/// The hash of a key stands in its place, which our own proxy knows.
fn route_keys(
    ApiKeys { clients, secrets: _, places, client_header, forwards }: &ApiKeys,
) -> ApiKeyAuthPerRoute {
    let credential = |(client, hash): &(Name, Name)| Credential {
        key: format!("sha256:{hash}"),
        client: client.to_string(),
    };
    let source = |place: &CredentialPlace| {
        let mut source = WireKeySource::default();
        match place {
            CredentialPlace::Header { name, .. } => source.header = name.to_string(),
            CredentialPlace::Query(name) => source.query = name.to_string(),
            CredentialPlace::Cookie(name) => source.cookie = name.to_string(),
        }
        source
    };
    ApiKeyAuthPerRoute {
        credentials: clients.iter().map(credential).collect(),
        key_sources: places.iter().map(source).collect(),
        allowed_clients: Vec::new(),
        forwarding: Some(Forwarding {
            header: client_header.as_ref().map(ToString::to_string).unwrap_or_default(),
            hide_credentials: !forwards,
        }),
    }
}
