//! Route configurations and the messages in them.

use outrigger_proto::xds::protobuf::{Any, BoolValue};
use outrigger_proto::xds::{core, cors, matcher, route, type_url, types};

use super::place::Place;
use super::rate_limits::rule;
use crate::fixture::*;

use route::route_action::{ClusterSpecifier, HostRewriteSpecifier, RequestMirrorPolicy};

fn in_table(wire: route::RouteConfiguration) -> (String, Any) {
    (wire.name.clone(), table_body(wire))
}

fn in_host(host: route::VirtualHost) -> (String, Any) {
    in_table(route::RouteConfiguration { virtual_hosts: vec![host], ..table(CART, CART) })
}

pub fn in_route(of: route::Route) -> (String, Any) {
    let mut wire = table(CART, CART);
    wire.virtual_hosts[0].routes = vec![of];
    in_table(wire)
}

fn does(action: route::route::Action) -> (String, Any) {
    in_route(route::Route { action: Some(action), ..forward(CART) })
}

pub fn in_action(of: route::RouteAction) -> (String, Any) {
    does(route::route::Action::Route(of))
}

fn in_match(of: route::RouteMatch) -> (String, Any) {
    in_route(route::Route { r#match: Some(of), ..forward(CART) })
}

fn in_shares(of: route::WeightedCluster) -> (String, Any) {
    in_action(route::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::WeightedClusters(of)),
        ..Default::default()
    })
}

fn in_retry(of: route::RetryPolicy) -> (String, Any) {
    in_action(route::RouteAction { retry_policy: Some(of), ..action() })
}

fn in_mirror(of: RequestMirrorPolicy) -> (String, Any) {
    in_action(route::RouteAction { request_mirror_policies: vec![of], ..action() })
}

fn in_header_option(of: core::HeaderValueOption) -> (String, Any) {
    in_route(route::Route { request_headers_to_add: vec![of], ..forward(CART) })
}

fn in_header_match(of: route::HeaderMatcher) -> (String, Any) {
    in_match(route::RouteMatch { headers: vec![of], ..everything() })
}

fn in_text(of: matcher::StringMatcher) -> (String, Any) {
    use route::header_matcher::HeaderMatchSpecifier::StringMatch;
    in_header_match(route::HeaderMatcher {
        name: "a".into(),
        header_match_specifier: Some(StringMatch(of)),
        ..Default::default()
    })
}

fn in_filters(any: Any) -> (String, Any) {
    let typed_per_filter_config = [("envoy.filters.http.cors".to_owned(), any)].into();
    in_route(route::Route { typed_per_filter_config, ..forward(CART) })
}

pub fn action() -> route::RouteAction {
    route::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(CART.into())),
        ..Default::default()
    }
}

fn everything() -> route::RouteMatch {
    forward(CART).r#match.unwrap()
}

fn shares() -> route::WeightedCluster {
    let share =
        route::weighted_cluster::ClusterWeight { name: CART.into(), weight: number(3), ..Default::default() };
    route::WeightedCluster { clusters: vec![share], ..Default::default() }
}

fn added() -> core::HeaderValueOption {
    let header = Some(core::HeaderValue { key: "a".into(), value: "b".into(), ..Default::default() });
    core::HeaderValueOption { header, ..Default::default() }
}

fn regex() -> matcher::RegexMatcher {
    matcher::RegexMatcher { regex: "/a".into(), ..Default::default() }
}

pub fn substitute() -> matcher::RegexMatchAndSubstitute {
    matcher::RegexMatchAndSubstitute { pattern: Some(regex()), substitution: "/b".into() }
}

fn tenth() -> types::FractionalPercent {
    types::FractionalPercent { numerator: 10, denominator: 0 }
}

fn part() -> core::RuntimeFractionalPercent {
    core::RuntimeFractionalPercent { default_value: Some(tenth()), runtime_key: String::new() }
}

fn exact(text: &str) -> matcher::StringMatcher {
    matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(text.into())),
        ignore_case: false,
    }
}

const UNREAD: &str = "for other filters to read; ours read none";
const RE2: &str = "can only say RE2, whose syntax this is";
const RUNTIME: &str = "there is no runtime layer, so that the key never has a value";
const FILTER_CONFIG: &str = "type.googleapis.com/envoy.config.route.v3.FilterConfig";

#[expect(deprecated, reason = "older forms are still sent")]
pub fn places() -> Vec<Place> {
    use route::route::Action;
    let mirror = || RequestMirrorPolicy { cluster: CART.into(), ..Default::default() };
    let back_off =
        || route::retry_policy::RetryBackOff { base_interval: seconds(1), max_interval: seconds(2) };
    let stream = || route::route_action::MaxStreamDuration {
        max_stream_duration: seconds(1),
        grpc_timeout_header_max: seconds(9),
        grpc_timeout_header_offset: seconds(1),
    };
    let cors_policy =
        || cors::CorsPolicy { allow_origin_string_match: vec![exact("https://a")], ..Default::default() };
    let upgrade =
        || route::route_action::UpgradeConfig { upgrade_type: "websocket".into(), ..Default::default() };
    let query = || route::QueryParameterMatcher { name: "a".into(), ..Default::default() };
    let body = |text: &str| core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(text.into())),
        ..Default::default()
    };
    let direct =
        move || route::DirectResponseAction { status: 200, body: Some(body("x")), ..Default::default() };
    let typed = |of: Any| [("x".to_owned(), of)].into();
    let cors_any = move || packed(type_url::CORS_POLICY, &cors_policy());
    let gone = "is optional, and not known";
    vec![
        Place::new("RouteConfiguration", "envoy.config.route.v3.RouteConfiguration", table(CART, CART), in_table)
            .probe("request_mirror_policies", move |of: &mut route::RouteConfiguration| of.request_mirror_policies = vec![mirror()])
            .probe("request_headers_to_add", |of: &mut route::RouteConfiguration| of.request_headers_to_add = vec![added()])
            .probe("response_headers_to_add", |of: &mut route::RouteConfiguration| of.response_headers_to_add = vec![added()])
            .probe("typed_per_filter_config", move |of: &mut route::RouteConfiguration| of.typed_per_filter_config = typed(cors_any()))
            .probe("max_direct_response_body_size_bytes", move |of: &mut route::RouteConfiguration| {
                of.virtual_hosts[0].routes[0].action = Some(Action::DirectResponse(direct()));
                of.max_direct_response_body_size_bytes = number(1);
            })
            .harmless("routes wait for their clusters for a while, and what never comes answers with the route's own status", &["validate_clusters"])
            .harmless(UNREAD, &["metadata"]),
        Place::new("VirtualHost", "envoy.config.route.v3.VirtualHost", table(CART, CART).virtual_hosts.remove(0), in_host)
            .probe("rate_limits", |of: &mut route::VirtualHost| of.rate_limits = vec![rule()])
            .probe("request_mirror_policies", move |of: &mut route::VirtualHost| of.request_mirror_policies = vec![mirror()])
            .probe("request_headers_to_add", |of: &mut route::VirtualHost| of.request_headers_to_add = vec![added()])
            .probe("response_headers_to_add", |of: &mut route::VirtualHost| of.response_headers_to_add = vec![added()])
            .probe("typed_per_filter_config", move |of: &mut route::VirtualHost| of.typed_per_filter_config = typed(cors_any()))
            .probe("hedge_policy", |of: &mut route::VirtualHost| {
            of.hedge_policy = Some(route::HedgePolicy { hedge_on_per_try_timeout: true, ..Default::default() });
        })
        .harmless("statistics are by route", &["virtual_clusters"])
            .harmless(UNREAD, &["metadata"]),
        Place::new("Route", "envoy.config.route.v3.Route", forward(CART), in_route)
            .probe("request_headers_to_add", |of: &mut route::Route| of.request_headers_to_add = vec![added()])
            .probe("response_headers_to_add", |of: &mut route::Route| of.response_headers_to_add = vec![added()])
            .probe("typed_per_filter_config", move |of: &mut route::Route| of.typed_per_filter_config = typed(cors_any()))
            .probe("direct_response", move |of: &mut route::Route| of.action = Some(Action::DirectResponse(direct())))
            .harmless("names of spans and their sampling are the proxy's own", &["decorator", "tracing"])
            .harmless("statistics are by route", &["stat_prefix"])
            .harmless(UNREAD, &["metadata"]),
        Place::new("RouteMatch", "envoy.config.route.v3.RouteMatch", everything(), in_match)
            .probe("case_sensitive", |of: &mut route::RouteMatch| of.case_sensitive = Some(BoolValue { value: false }))
            .probe("path_separated_prefix", |of: &mut route::RouteMatch| {
                of.path_specifier = Some(route::route_match::PathSpecifier::PathSeparatedPrefix("/a".into()));
            })
            .probe("safe_regex", |of: &mut route::RouteMatch| {
                of.path_specifier = Some(route::route_match::PathSpecifier::SafeRegex(regex()));
            })
            .probe("runtime_fraction", |of: &mut route::RouteMatch| of.runtime_fraction = Some(part()))
            .probe("headers", |of: &mut route::RouteMatch| of.headers = vec![route::HeaderMatcher { name: "a".into(), ..Default::default() }])
            .probe("query_parameters", move |of: &mut route::RouteMatch| of.query_parameters = vec![query()]),
        Place::new("RouteMatch.GrpcRouteMatchOptions", "envoy.config.route.v3.RouteMatch.GrpcRouteMatchOptions", route::route_match::GrpcRouteMatchOptions {}, |of| {
            in_match(route::RouteMatch { grpc: Some(of), ..everything() })
        }),
        Place::new("HeaderMatcher", "envoy.config.route.v3.HeaderMatcher", route::HeaderMatcher { name: "a".into(), ..Default::default() }, in_header_match)
            .probe("string_match", |of: &mut route::HeaderMatcher| {
                of.header_match_specifier = Some(route::header_matcher::HeaderMatchSpecifier::StringMatch(exact("b")));
            })
            .probe("present_match", |of: &mut route::HeaderMatcher| {
                of.header_match_specifier = Some(route::header_matcher::HeaderMatchSpecifier::PresentMatch(false));
            }),
        Place::new("QueryParameterMatcher", "envoy.config.route.v3.QueryParameterMatcher", query(), |of| {
            in_match(route::RouteMatch { query_parameters: vec![of], ..everything() })
        })
        .probe("string_match", |of: &mut route::QueryParameterMatcher| {
            of.query_parameter_match_specifier = Some(route::query_parameter_matcher::QueryParameterMatchSpecifier::StringMatch(exact("b")));
        })
        .probe("present_match", |of: &mut route::QueryParameterMatcher| {
            of.query_parameter_match_specifier = Some(route::query_parameter_matcher::QueryParameterMatchSpecifier::PresentMatch(false));
        }),
        Place::new("StringMatcher", "envoy.type.matcher.v3.StringMatcher", exact("b"), in_text)
            .probe("exact", |of: &mut matcher::StringMatcher| *of = exact("c")),
        Place::new("RegexMatcher", "envoy.type.matcher.v3.RegexMatcher", regex(), |of| {
            in_text(matcher::StringMatcher { match_pattern: Some(matcher::string_matcher::MatchPattern::SafeRegex(of)), ignore_case: false })
        })
        .harmless(RE2, &["google_re2"]),
        Place::new("RuntimeFractionalPercent", "envoy.config.core.v3.RuntimeFractionalPercent", part(), |of| {
            in_match(route::RouteMatch { runtime_fraction: Some(of), ..everything() })
        })
        .harmless(RUNTIME, &["runtime_key"]),
        Place::new("FractionalPercent", "envoy.type.v3.FractionalPercent", tenth(), |of| {
            let fraction = core::RuntimeFractionalPercent { default_value: Some(of), runtime_key: String::new() };
            in_match(route::RouteMatch { runtime_fraction: Some(fraction), ..everything() })
        }),
        Place::new("RouteAction", "envoy.config.route.v3.RouteAction", action(), in_action)
            .probe("cluster", |of: &mut route::RouteAction| of.cluster_specifier = Some(ClusterSpecifier::Cluster("x".into())))
            .probe("weighted_clusters", |of: &mut route::RouteAction| of.cluster_specifier = Some(ClusterSpecifier::WeightedClusters(shares())))
            .probe("hash_policy", |of: &mut route::RouteAction| of.hash_policy = vec![super::hashing::hash_policy()])
            .probe("prefix_rewrite", |of: &mut route::RouteAction| of.prefix_rewrite = "/x".into())
            .probe("path_rewrite", |of: &mut route::RouteAction| of.path_rewrite = "/x".into())
            .probe("regex_rewrite", move |of: &mut route::RouteAction| of.regex_rewrite = Some(substitute()))
            .probe("auto_host_rewrite", |of: &mut route::RouteAction| {
                of.host_rewrite_specifier = Some(HostRewriteSpecifier::AutoHostRewrite(BoolValue { value: true }));
            })
            .probe("request_mirror_policies", move |of: &mut route::RouteAction| of.request_mirror_policies = vec![mirror()])
            .probe("upgrade_configs", move |of: &mut route::RouteAction| of.upgrade_configs = vec![upgrade()])
            .probe("max_stream_duration", move |of: &mut route::RouteAction| of.max_stream_duration = Some(stream()))
            .probe("hedge_policy", |of: &mut route::RouteAction| {
            of.hedge_policy = Some(route::HedgePolicy { hedge_on_per_try_timeout: true, ..Default::default() });
        })
        .probe("metadata_match", |of: &mut route::RouteAction| {
            let filter_metadata = [("envoy.lb".to_owned(), Default::default())].into();
            of.metadata_match = Some(core::Metadata { filter_metadata, ..Default::default() });
        })
        .harmless("there is no early data", &["early_data_policy"])
            .probe("rate_limits", |of: &mut route::RouteAction| of.rate_limits = vec![rule()])
            .harmless("is read with `internal_redirect_policy` only", &["max_internal_redirects"])
    ,
        Place::new("HedgePolicy", "envoy.config.route.v3.HedgePolicy", route::HedgePolicy::default(), |of| {
            in_action(route::RouteAction { hedge_policy: Some(of), ..action() })
        })
        .harmless("not implemented in Envoy either, which ignores them", &["initial_requests", "additional_request_chance"]),
        Place::new("RouteAction.MaxStreamDuration", "envoy.config.route.v3.RouteAction.MaxStreamDuration", stream(), |of| {
            in_action(route::RouteAction { max_stream_duration: Some(of), ..action() })
        }),
        Place::new("RouteAction.UpgradeConfig", "envoy.config.route.v3.RouteAction.UpgradeConfig", upgrade(), |of| {
            in_action(route::RouteAction { upgrade_configs: vec![of], ..action() })
        })
        .probe("enabled", |of: &mut route::route_action::UpgradeConfig| of.enabled = Some(BoolValue { value: false })),
        Place::new("RegexMatchAndSubstitute", "envoy.type.matcher.v3.RegexMatchAndSubstitute", substitute(), |of| {
            in_action(route::RouteAction { regex_rewrite: Some(of), ..action() })
        }),
        Place::new("RequestMirrorPolicy", "envoy.config.route.v3.RouteAction.RequestMirrorPolicy", mirror(), in_mirror)
            .probe("runtime_fraction", |of: &mut RequestMirrorPolicy| of.runtime_fraction = Some(part()))
            .harmless("copies have no span", &["trace_sampled"]),
        Place::new("WeightedCluster", "envoy.config.route.v3.WeightedCluster", shares(), in_shares)
            .probe("header_name", |of: &mut route::WeightedCluster| {
                of.random_value_specifier = Some(route::weighted_cluster::RandomValueSpecifier::HeaderName("a".into()));
            })
            .refuses(&["header_name"])
            .harmless("the sum of the weights counts, as in Envoy", &["total_weight"])
            .harmless(RUNTIME, &["runtime_key_prefix"]),
        Place::new("WeightedCluster.ClusterWeight", "envoy.config.route.v3.WeightedCluster.ClusterWeight", shares().clusters.remove(0), |of| {
            in_shares(route::WeightedCluster { clusters: vec![of], ..Default::default() })
        })
        .probe("weight", |of: &mut route::weighted_cluster::ClusterWeight| of.weight = number(9))
        .probe("request_headers_to_add", |of: &mut route::weighted_cluster::ClusterWeight| of.request_headers_to_add = vec![added()])
        .probe("response_headers_to_add", |of: &mut route::weighted_cluster::ClusterWeight| of.response_headers_to_add = vec![added()])
        .probe("typed_per_filter_config", |of: &mut route::weighted_cluster::ClusterWeight| {
            of.typed_per_filter_config = [("envoy.filters.http.cors".to_owned(), cors_any())].into();
        }),
        Place::new("RetryPolicy", "envoy.config.route.v3.RetryPolicy", route::RetryPolicy { retry_on: "5xx".into(), ..Default::default() }, in_retry)
            .probe("retry_on", |of: &mut route::RetryPolicy| of.retry_on = "reset".into())
            .probe("retriable_status_codes", |of: &mut route::RetryPolicy| of.retriable_status_codes = vec![418])
            .probe("retry_back_off", move |of: &mut route::RetryPolicy| of.retry_back_off = Some(back_off()))
            .probe("retriable_headers", |of: &mut route::RetryPolicy| of.retriable_headers = vec![route::HeaderMatcher { name: "a".into(), ..Default::default() }])
            .probe("retriable_request_headers", |of: &mut route::RetryPolicy| of.retriable_request_headers = vec![route::HeaderMatcher { name: "a".into(), ..Default::default() }])
            .harmless("a retry never goes to the host that failed while there is another", &["retry_host_predicate", "host_selection_retry_max_attempts"]),
        Place::new("RetryPolicy.RetryBackOff", "envoy.config.route.v3.RetryPolicy.RetryBackOff", back_off(), |of| {
            in_retry(route::RetryPolicy { retry_back_off: Some(of), ..Default::default() })
        }),
        Place::new("RedirectAction", "envoy.config.route.v3.RedirectAction", route::RedirectAction::default(), |of| does(Action::Redirect(of)))
            .probe("scheme_redirect", |of: &mut route::RedirectAction| {
                of.scheme_rewrite_specifier = Some(route::redirect_action::SchemeRewriteSpecifier::SchemeRedirect("https".into()));
            })
            .probe("path_redirect", |of: &mut route::RedirectAction| {
                of.path_rewrite_specifier = Some(route::redirect_action::PathRewriteSpecifier::PathRedirect("/x".into()));
            })
            .probe("prefix_rewrite", |of: &mut route::RedirectAction| {
                of.path_rewrite_specifier = Some(route::redirect_action::PathRewriteSpecifier::PrefixRewrite("/x".into()));
            })
            .probe("path_rewrite", |of: &mut route::RedirectAction| {
                of.path_rewrite_specifier = Some(route::redirect_action::PathRewriteSpecifier::PathRewrite("/x".into()));
            })
            .probe("regex_rewrite", move |of: &mut route::RedirectAction| {
                of.path_rewrite_specifier = Some(route::redirect_action::PathRewriteSpecifier::RegexRewrite(substitute()));
            }),
        Place::new("DirectResponseAction", "envoy.config.route.v3.DirectResponseAction", direct(), |of| does(Action::DirectResponse(of)))
            .probe("status", |of: &mut route::DirectResponseAction| of.status = 404),
        Place::new("DataSource", "envoy.config.core.v3.DataSource", body("x"), |of| {
            does(Action::DirectResponse(route::DirectResponseAction { status: 200, body: Some(of), ..Default::default() }))
        }),
        Place::new("HeaderValueOption", "envoy.config.core.v3.HeaderValueOption", added(), in_header_option)
            .probe("append", |of: &mut core::HeaderValueOption| of.append = Some(BoolValue { value: false }))
            .probe("keep_empty_value", |of: &mut core::HeaderValueOption| {
                of.keep_empty_value = true;
                of.header.as_mut().unwrap().value.clear();
            }),
        Place::new("HeaderValue", "envoy.config.core.v3.HeaderValue", added().header.unwrap(), |of| {
            in_header_option(core::HeaderValueOption { header: Some(of), ..Default::default() })
        })
        .probe("raw_value", |of: &mut core::HeaderValue| {
            of.value.clear();
            of.raw_value = b"c".to_vec();
        }),
        Place::new("CorsPolicy", "envoy.extensions.filters.http.cors.v3.CorsPolicy", cors_policy(), |of| in_filters(packed(type_url::CORS_POLICY, &of)))
            .probe("max_age", |of: &mut cors::CorsPolicy| of.max_age = "7".into())
            .probe("filter_enabled", |of: &mut cors::CorsPolicy| of.filter_enabled = Some(part()))
            .probe("shadow_enabled", |of: &mut cors::CorsPolicy| of.shadow_enabled = Some(part()))
            .probe("forward_not_matching_preflights", |of: &mut cors::CorsPolicy| of.forward_not_matching_preflights = Some(BoolValue { value: false })),
        Place::new("FilterConfig", "envoy.config.route.v3.FilterConfig", route::FilterConfig { config: Some(cors_any()), ..Default::default() }, |of| in_filters(packed(FILTER_CONFIG, &of)))
            .harmless(gone, &["is_optional"]),
        Place::new("Cors", "envoy.extensions.filters.http.cors.v3.Cors", cors::Cors {}, |of| {
            let mut listener = destination("cart:80");
            let mut wire = manager(rds(CART));
            wire.http_filters.insert(0, http_filter("cors", packed(type_url::CORS, &of)));
            let api_listener = Some(packed(type_url::HTTP_CONNECTION_MANAGER, &wire));
            listener.api_listener = Some(outrigger_proto::xds::listener::ApiListener { api_listener });
            (listener.name.clone(), listener_body(listener))
        }),
    ]
}
