//! The filter ExternalAuth of HTTPRoutes, in the listener of a destination.

use outrigger_proto::xds::core::grpc_service::TargetSpecifier;
use outrigger_proto::xds::ext_authz::ExtAuthz;
use outrigger_proto::xds::ext_authz::ext_authz::Services;
use outrigger_proto::xds::hcm::{HttpFilter, http_filter};
use outrigger_proto::xds::matcher::ListStringMatcher;
use outrigger_proto::xds::matcher::string_matcher::MatchPattern;

use super::*;
use crate::model::mesh_builder::MeshBuilder;
use crate::model::mesh_builder::testing::{route, service};

const GRPC: &str = "protocol: GRPC, backendRef: {name: auth, port: 9000}, grpc: {allowedHeaders: [Cookie]}";
const AUTH: &str = "auth.shop.svc.cluster.local:9000";

fn asking(auth: &str) -> String {
    format!(
        "filters: [{{type: ExternalAuth, externalAuth: {{{auth}}}}}], backendRefs: [{{name: cart, port: 80}}]"
    )
}

fn catalog_of(rules: &str, more: &[&str]) -> Catalog {
    let mut builder = MeshBuilder::default();
    builder.with(&[&service("cart", 80, "http"), &route("HTTPRoute", "r", "name: cart", rules)]).with(more);
    let catalog = catalog(plain(AppProtocol::Detect));
    catalog.publish(Arc::new(builder.mesh()));
    catalog
}

fn manager_of(catalog: &Catalog) -> HttpConnectionManager {
    manager(&read(catalog, Kind::Listener, "cart:80"))
}

/// The names of the filters that each route enables.
fn enabled(table: &RouteConfiguration) -> Vec<String> {
    let routes = &table.virtual_hosts[0].routes;
    let names = routes.iter().map(|route| route.typed_per_filter_config.keys().cloned().collect::<Vec<_>>());
    names.map(|names| names.join(" ")).collect()
}

fn inline(manager: &HttpConnectionManager) -> &RouteConfiguration {
    let Some(RouteSpecifier::RouteConfig(table)) = &manager.route_specifier else { panic!("{manager:?}") };
    table
}

fn config(filter: &HttpFilter) -> ExtAuthz {
    assert!(filter.disabled, "{filter:?}");
    let Some(http_filter::ConfigType::TypedConfig(any)) = &filter.config_type else { panic!("{filter:?}") };
    ExtAuthz::decode(any.value.as_slice()).unwrap()
}

fn patterns(list: Option<&ListStringMatcher>) -> Vec<MatchPattern> {
    list.iter().flat_map(|list| &list.patterns).filter_map(|one| one.match_pattern.clone()).collect()
}

#[test]
fn only_the_routes_with_the_filter_enable_it_and_come_with_their_listener() {
    let other = GRPC.replace("Cookie", "x");
    let rules = format!(
        "{{matches: [{{path: {{value: /aaa}}}}], {}}}, {{matches: [{{path: {{value: /bb}}}}], {}}},
         {{matches: [{{path: {{value: /c}}}}], {}}}, {{backendRefs: [{{name: cart, port: 80}}]}}",
        asking(GRPC),
        asking(&other),
        asking(GRPC)
    );
    let manager = manager_of(&catalog_of(&rules, &[&service("auth", 9000, "grpc")]));
    let names: Vec<_> = manager.http_filters.iter().map(|filter| filter.name.as_str()).collect();
    let [first, second] = ["outrigger.external-authorization.0", "outrigger.external-authorization.1"];
    assert_eq!(names, [first, second, "envoy.filters.http.router"]);
    let table = inline(&manager);
    assert_eq!(enabled(table), [first, second, first, ""]);
    assert_eq!(table.validate_clusters.map(|validate| validate.value), Some(false));
}

#[test]
fn a_grpc_service_is_called_and_sees_what_it_may() {
    let auth = format!("{GRPC}, forwardBody: {{maxSize: 100}}");
    let catalog = catalog_of(&format!("{{{}}}", asking(&auth)), &[&service("auth", 9000, "grpc")]);
    let filter = config(&manager_of(&catalog).http_filters[0]);
    let Some(Services::GrpcService(service)) = &filter.services else { panic!("{filter:?}") };
    let Some(TargetSpecifier::EnvoyGrpc(target)) = &service.target_specifier else { panic!("{service:?}") };
    assert_eq!((target.cluster_name.as_str(), filter.failure_mode_allow), (AUTH, false));
    assert_eq!(patterns(filter.allowed_headers.as_ref()), [MatchPattern::Exact("cookie".into())]);
    let body = filter.with_request_body.unwrap();
    assert_eq!((body.max_request_bytes, body.allow_partial_message), (100, false));
}

#[test]
fn an_http_service_is_asked_and_its_fields_are_copied() {
    let filter = |fields: &str| {
        let auth = format!("protocol: HTTP, backendRef: {{name: auth, port: 9000}}, http: {{{fields}}}");
        let catalog = catalog_of(&format!("{{{}}}", asking(&auth)), &[&service("auth", 9000, "http")]);
        config(&manager_of(&catalog).http_filters[0])
    };
    let full = filter("path: /check/, allowedHeaders: [a], allowedResponseHeaders: [X-User]");
    let Some(Services::HttpService(service)) = &full.services else { panic!("{full:?}") };
    assert_eq!(service.path_prefix, "/check");
    assert_eq!(patterns(full.allowed_headers.as_ref()), [MatchPattern::Exact("a".into())]);
    assert_eq!(full.with_request_body, None);
    let copied = |service: &outrigger_proto::xds::ext_authz::HttpService| {
        let response = service.authorization_response.clone().unwrap();
        patterns(response.allowed_upstream_headers.as_ref())
    };
    assert_eq!(copied(service), [MatchPattern::Exact("x-user".into())]);
    let bare = filter("");
    let Some(Services::HttpService(service)) = &bare.services else { panic!("{bare:?}") };
    let [MatchPattern::SafeRegex(all)] = &copied(service)[..] else { panic!("{service:?}") };
    let all = outrigger_core::matcher::full_match(&all.regex).unwrap();
    assert!(all.is_match("x-user") && !all.is_match("content-type") && bare.allowed_headers.is_none());
}

#[test]
fn a_route_whose_service_cannot_be_used_answers_all_requests_itself() {
    let rules = format!(
        "{{matches: [{{path: {{value: /a}}}}], {}}}, {{backendRefs: [{{name: cart, port: 80}}]}}",
        asking(GRPC)
    );
    for more in [
        &[][..],
        &[&*service("auth", 80, "grpc")],
        &[&*service("auth", 9000, "http")],
        &[&*service("auth", 9000, "tcp")],
    ] {
        let catalog = catalog_of(&rules, more);
        let manager = manager_of(&catalog);
        assert_eq!(manager.http_filters.len(), 1, "{more:?}");
        assert!(matches!(manager.route_specifier, Some(RouteSpecifier::Rds(_))));
        let table: RouteConfiguration = read(&catalog, Kind::Route, CART);
        let to = |route: &outrigger_proto::xds::route::Route| match &route.action {
            Some(Action::Route(route)) => route.cluster_specifier.clone(),
            other => panic!("{other:?}"),
        };
        let to: Vec<_> = table.virtual_hosts[0].routes.iter().map(to).collect();
        let cluster = |name: &str| Some(ClusterSpecifier::Cluster(name.into()));
        assert_eq!(to, [cluster("outrigger.invalid-backend"), cluster(CART)], "{more:?}");
        assert_eq!(enabled(&table), ["", ""]);
    }
}
