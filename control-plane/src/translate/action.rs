//! The action of a route: forward by weight, redirect, rewrite, mirror, change headers, answer cross-origin requests.

use outrigger_proto::xds::core::header_value_option::HeaderAppendAction;
use outrigger_proto::xds::core::{HeaderValue, HeaderValueOption, RuntimeFractionalPercent};
use outrigger_proto::xds::cors::CorsPolicy;
use outrigger_proto::xds::extension;
use outrigger_proto::xds::matcher::RegexMatchAndSubstitute;
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::route::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use outrigger_proto::xds::route::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier, RequestMirrorPolicy,
};
use outrigger_proto::xds::route::weighted_cluster::ClusterWeight;
use outrigger_proto::xds::route::{self, DirectResponseAction, RedirectAction, WeightedCluster};
use outrigger_proto::xds::type_url;
use outrigger_proto::xds::types::FractionalPercent;
use outrigger_proto::xds::types::fractional_percent::DenominatorType;

use super::destination::Target;
use super::external_auth::ExternalAuths;
use super::scope::{Dialect, Scope};
use super::sessions;
use super::wire::{any, boolean, duration, exact, matching, regex, strings, uint};
use super::{defaults, matching as matches};
use crate::model::route::{
    BackendTarget, Cors, Filters, HeaderChanges, InvalidBackend, Mirror, PathMatch, PathRewrite, Redirect,
    RedirectScheme, Rewrite, Route, RouteTarget, WeightedBackend,
};

/// A cluster that does not exist. It gets the share of an invalid backend, so that the answer is 500.
pub(super) const INVALID_BACKEND: &str = "outrigger.invalid-backend";

/// Translates a route of a target.
pub(super) fn route(
    scope: Scope<'_>,
    of: &Route,
    target: &Target,
    authorization: &ExternalAuths<'_>,
) -> route::Route {
    let Filters { request_headers, response_headers, rewrite: _, mirrors: _, cors, external_auth } =
        &of.action.filters;
    let action = match &of.action.target {
        // Nobody can allow its requests.
        _ if external_auth.as_ref().is_some_and(|auth| auth.target.is_err()) => unusable(scope),
        RouteTarget::Redirect(redirect) => {
            route::route::Action::Redirect(redirection(redirect, &of.matches.path, target.port))
        }
        RouteTarget::Forward(backends) => forward(scope, of, target, backends),
    };
    route::Route {
        name: of.id.to_string(),
        r#match: Some(matches::route_match(&of.matches)),
        action: Some(action),
        request_headers_to_add: additions(request_headers),
        request_headers_to_remove: strings(&request_headers.remove),
        response_headers_to_add: additions(response_headers),
        response_headers_to_remove: strings(&response_headers.remove),
        typed_per_filter_config: cors
            .iter()
            .map(|cors| (extension::CORS.into(), cors_policy(cors)))
            .chain(authorization.of_route(of))
            .chain(sessions::of_route(scope, of))
            .collect(),
        ..Default::default()
    }
}

/// Returns the route of a service without routes: all requests go to the service.
pub(super) fn straight_to(scope: Scope<'_>, target: &Target) -> route::Route {
    route::Route {
        name: defaults::ROUTE.into(),
        r#match: Some(matches::everything()),
        action: Some(route::route::Action::Route(route::RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(target.name(scope.domain()).to_string())),
            timeout: duration(std::time::Duration::ZERO),
            retry_policy: Some(defaults::retry_policy(scope.dialect(), None, None)),
            ..Default::default()
        })),
        typed_per_filter_config: sessions::of_service(scope, target).into_iter().collect(),
        ..Default::default()
    }
}

/// Returns the cluster of a backend of a route of `of`. If that is one endpoint, its own service as backend means this endpoint: the
/// client chose it.
pub(super) fn cluster_name(
    backend: &Result<BackendTarget, InvalidBackend>,
    of: &Target,
    cluster_domain: &str,
) -> String {
    match backend {
        Ok(target) if target.service == of.service && target.port == of.port => {
            of.name(cluster_domain).to_string()
        }
        Ok(target) => Target::service(target.service.clone(), target.port).name(cluster_domain).to_string(),
        Err(_) => INVALID_BACKEND.into(),
    }
}

fn forward(
    scope: Scope<'_>,
    of: &Route,
    target: &Target,
    backends: &[WeightedBackend],
) -> route::route::Action {
    let live: Vec<_> = backends.iter().filter(|backend| backend.weight > 0).collect();
    if live.iter().all(|backend| backend.target.is_err()) {
        return unusable(scope);
    }
    let mut action = route::RouteAction {
        cluster_specifier: Some(clusters(scope, of, &sessions::kept(scope, of, backends), target)),
        timeout: duration(of.action.timeouts.request.unwrap_or_default()),
        retry_policy: Some(defaults::retry_policy(
            scope.dialect(),
            of.action.retry.as_ref(),
            of.action.timeouts.backend_request.filter(|limit| !limit.is_zero()),
        )),
        request_mirror_policies: mirrors(&of.action.filters.mirrors, target, scope.domain()),
        ..Default::default()
    };
    if live.iter().any(|backend| backend.target.is_err()) {
        action.cluster_not_found_response_code = ClusterNotFoundResponseCode::InternalServerError as i32;
    }
    if let Some(Rewrite { hostname, path }) = &of.action.filters.rewrite {
        action.host_rewrite_specifier =
            hostname.as_ref().map(|host| HostRewriteSpecifier::HostRewriteLiteral(host.to_string()));
        match path.as_ref().map(|path| new_path(path, &of.matches.path)) {
            Some(NewPath::Full(path)) => {
                action.regex_rewrite = Some(substitute("^.*$", &path));
            }
            Some(NewPath::Prefix(prefix)) => action.prefix_rewrite = prefix,
            Some(NewPath::Regex(rewrite)) => action.regex_rewrite = Some(rewrite),
            None => {}
        }
    }
    route::route::Action::Route(action)
}

/// Returns the action of a route without a valid backend, which is answered 500. Our proxy says why; a cluster that does not
/// exist would make a gRPC client wait for it.
fn unusable(scope: Scope<'_>) -> route::route::Action {
    match scope.dialect() {
        Dialect::Outrigger => route::route::Action::Route(route::RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(INVALID_BACKEND.into())),
            cluster_not_found_response_code: ClusterNotFoundResponseCode::InternalServerError as i32,
            ..Default::default()
        }),
        Dialect::Envoy => {
            route::route::Action::DirectResponse(DirectResponseAction { status: 500, ..Default::default() })
        }
    }
}

fn clusters(scope: Scope<'_>, route: &Route, live: &[&WeightedBackend], of: &Target) -> ClusterSpecifier {
    let cluster_domain = scope.domain();
    if let [WeightedBackend { weight: _, target, filters }] = live
        && *filters == Filters::default()
    {
        return ClusterSpecifier::Cluster(cluster_name(target, of, cluster_domain));
    }
    let weight = |backend: &&WeightedBackend| {
        let Filters { request_headers, response_headers, .. } = &backend.filters;
        ClusterWeight {
            name: cluster_name(&backend.target, of, cluster_domain),
            weight: uint(backend.weight),
            request_headers_to_add: additions(request_headers),
            request_headers_to_remove: strings(&request_headers.remove),
            response_headers_to_add: additions(response_headers),
            response_headers_to_remove: strings(&response_headers.remove),
            typed_per_filter_config: sessions::of_backend(scope, route, backend).into_iter().collect(),
            ..Default::default()
        }
    };
    let clusters = live.iter().map(weight).collect();
    ClusterSpecifier::WeightedClusters(WeightedCluster { clusters, ..Default::default() })
}

/// Translates mirrors. Those with an invalid backend are left out; the status of the route reports them.
fn mirrors(mirrors: &[Mirror], of: &Target, cluster_domain: &str) -> Vec<RequestMirrorPolicy> {
    let valid = mirrors.iter().filter(|mirror| mirror.target.is_ok());
    valid
        .map(|mirror| RequestMirrorPolicy {
            cluster: cluster_name(&mirror.target, of, cluster_domain),
            runtime_fraction: Some(RuntimeFractionalPercent {
                default_value: Some(FractionalPercent {
                    numerator: mirror.share.millionths(),
                    denominator: DenominatorType::Million as i32,
                }),
                ..Default::default()
            }),
            // Gateway API does not change the host of the copy; Envoy would append `-shadow`.
            disable_shadow_host_suffix_append: true,
            ..Default::default()
        })
        .collect()
}

fn redirection(redirect: &Redirect, matched: &PathMatch, service_port: u16) -> RedirectAction {
    let Redirect { scheme, hostname, path, port, status } = redirect;
    let (word, well_known) = match scheme {
        Some(RedirectScheme::Https) => (Some("https"), 443),
        Some(RedirectScheme::Http) => (Some("http"), 80),
        None => (None, 80),
    };
    let asked = port.map_or(if scheme.is_some() { well_known } else { 0 }, u32::from);
    // The well-known port of a scheme is left out of `Location` ("HTTPRequestRedirectFilter.port"). Envoy writes any port that
    // it is given, and otherwise keeps that of `Host`: the port is replaced only if it may be another one.
    let implied = asked == well_known && (hostname.is_some() || service_port == 80);
    RedirectAction {
        scheme_rewrite_specifier: word.map(|word| SchemeRewriteSpecifier::SchemeRedirect(word.into())),
        host_redirect: hostname.as_ref().map(|host| host.to_string()).unwrap_or_default(),
        port_redirect: if implied { 0 } else { asked },
        response_code: match status {
            301 => RedirectResponseCode::MovedPermanently,
            303 => RedirectResponseCode::SeeOther,
            307 => RedirectResponseCode::TemporaryRedirect,
            308 => RedirectResponseCode::PermanentRedirect,
            _ => RedirectResponseCode::Found,
        } as i32,
        path_rewrite_specifier: path.as_ref().map(|path| match new_path(path, matched) {
            NewPath::Full(path) => PathRewriteSpecifier::PathRedirect(path),
            NewPath::Prefix(prefix) => PathRewriteSpecifier::PrefixRewrite(prefix),
            NewPath::Regex(rewrite) => PathRewriteSpecifier::RegexRewrite(rewrite),
        }),
        ..Default::default()
    }
}

enum NewPath {
    Full(String),
    Prefix(String),
    Regex(RegexMatchAndSubstitute),
}

/// Translates a path rewrite. Gateway API replaces whole path elements, Envoy's `prefix_rewrite` bytes: they differ if the
/// matched or the new prefix is `/` (GEP-726, table of examples).
fn new_path(path: &PathRewrite, matched: &PathMatch) -> NewPath {
    let prefix = match path {
        PathRewrite::Full(path) => return NewPath::Full(path.to_string()),
        PathRewrite::Prefix(prefix) => prefix.trim_end_matches('/'),
    };
    match matched {
        PathMatch::Prefix(matched) if matched.as_ref() == "/" => NewPath::Prefix(format!("{prefix}/")),
        PathMatch::Prefix(matched) if prefix.is_empty() => {
            NewPath::Regex(substitute(&format!("^{}/*", ::regex::escape(matched)), "/"))
        }
        PathMatch::Prefix(_) | PathMatch::Exact(_) | PathMatch::Regex(_) => NewPath::Prefix(prefix.into()),
    }
}

/// Escapes backslashes, which would refer to groups of the expression.
fn substitute(expression: &str, with: &str) -> RegexMatchAndSubstitute {
    RegexMatchAndSubstitute { pattern: Some(regex(expression)), substitution: with.replace('\\', r"\\") }
}

/// Translates headers to set and to add. A percent sign is doubled: a single one begins a substitution command
/// (`HeaderValueOption.header`, "Custom request/response headers"), which Gateway API does not have.
fn additions(changes: &HeaderChanges) -> Vec<HeaderValueOption> {
    let option = |append: HeaderAppendAction| {
        move |(name, value): &(outrigger_core::Name, outrigger_core::Name)| HeaderValueOption {
            header: Some(HeaderValue {
                key: name.to_string(),
                value: value.replace('%', "%%"),
                ..Default::default()
            }),
            append_action: append as i32,
            ..Default::default()
        }
    };
    let set = changes.set.iter().map(option(HeaderAppendAction::OverwriteIfExistsOrAdd));
    set.chain(changes.add.iter().map(option(HeaderAppendAction::AppendIfExistsOrAdd))).collect()
}

fn cors_policy(cors: &Cors) -> Any {
    let Cors { allow_origins, allow_credentials, allow_methods, allow_headers, expose_headers, max_age } =
        cors;
    let origin = |origin: &outrigger_core::Name| match origin.as_ref() {
        "*" => matching(".*"),
        plain if !plain.contains('*') => exact(plain),
        // `https://*.example.com`: at least one label in place of the star.
        wild => {
            let parts: Vec<_> = wild.split('*').map(::regex::escape).collect();
            matching(&parts.join("[A-Za-z0-9._-]+"))
        }
    };
    let policy = CorsPolicy {
        allow_origin_string_match: allow_origins.iter().map(origin).collect(),
        allow_methods: allow_methods.join(","),
        allow_headers: allow_headers.join(","),
        expose_headers: expose_headers.join(","),
        max_age: max_age.as_secs().to_string(),
        allow_credentials: boolean(*allow_credentials),
        ..Default::default()
    };
    any(type_url::CORS_POLICY, &policy)
}

/// Returns true if a route has a CORS policy, so that the listener needs the filter.
pub(super) fn uses_cors(routes: &[Route]) -> bool {
    routes.iter().any(|route| route.action.filters.cors.is_some())
}
