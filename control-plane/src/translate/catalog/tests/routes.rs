//! Translation of the model's routes to xDS.

use super::*;

/// Translates one route of the model.
fn routed(matches: RouteMatch, action: RouteAction) -> outrigger_proto::xds::route::Route {
    routed_for(&shop(), matches, action)
}

fn routed_for(
    viewer: &Viewer,
    matches: RouteMatch,
    action: RouteAction,
) -> outrigger_proto::xds::route::Route {
    let route = Route { id: "httproute/shop/r/0/0".into(), matches, action: Arc::new(action) };
    let catalog = catalog(cart(AppProtocol::Http, producer(RouteTable::Http(vec![route]))));
    let mut made: RouteConfiguration = catalog.resource(viewer, Kind::Route, CART).unwrap().decode();
    made.virtual_hosts.remove(0).routes.remove(0)
}

fn routed_to(action: RouteAction, path: &str) -> outrigger_proto::xds::route::RouteAction {
    match routed(at(PathMatch::Prefix(path.into())), action).action {
        Some(Action::Route(action)) => action,
        other => panic!("{other:?}"),
    }
}

#[test]
fn matches_become_envoys() {
    let value = |name: &str, value| ValueMatch { name: name.into(), value };
    let matches = RouteMatch {
        path: PathMatch::Prefix("/a".into()),
        method: Some(http::Method::POST),
        headers: vec![
            value("x", ValuePattern::Exact("1".into())),
            value("y", ValuePattern::Regex("a+".into())),
        ],
        query: vec![value("q", ValuePattern::Exact("2".into()))],
        grpc: true,
    };
    let made = routed(matches, forward(vec![backend(1)])).r#match.unwrap();
    assert_eq!(made.path_specifier, Some(PathSpecifier::PathSeparatedPrefix("/a".into())));
    let headers: Vec<_> = made.headers.iter().map(|header| header.name.as_str()).collect();
    assert_eq!(headers, [":method", "x", "y"]);
    assert_eq!((made.query_parameters[0].name.as_str(), made.grpc.is_some()), ("q", true));
    let path = |path| routed(at(path), forward(vec![backend(1)])).r#match.unwrap().path_specifier.unwrap();
    assert_eq!(path(PathMatch::Prefix("/".into())), PathSpecifier::Prefix("/".into()));
    assert_eq!(path(PathMatch::Exact("/svc/method".into())), PathSpecifier::Path("/svc/method".into()));
    assert!(matches!(path(PathMatch::Regex("/a.*".into())), PathSpecifier::SafeRegex(_)));
}

#[test]
fn the_share_of_an_invalid_backend_is_answered_500() {
    let action = routed_to(forward(vec![backend(9), invalid(1), backend(0)]), "/");
    assert_eq!(action.cluster_not_found_response_code, 2);
    let Some(ClusterSpecifier::WeightedClusters(all)) = action.cluster_specifier else { panic!("no shares") };
    let shares: Vec<_> = all.clusters.iter().map(|c| (c.name.as_str(), c.weight.unwrap().value)).collect();
    assert_eq!(shares, [(CART, 9), ("outrigger.invalid-backend", 1)]);
    for none in [vec![], vec![invalid(1)], vec![backend(0)], vec![backend(0), invalid(1)]] {
        let action = routed_to(forward(none.clone()), "/");
        assert_eq!(
            action.cluster_specifier,
            Some(ClusterSpecifier::Cluster("outrigger.invalid-backend".into()))
        );
        assert_eq!(action.cluster_not_found_response_code, 2);
        let envoy = Viewer { dialect: Dialect::Envoy, ..shop() };
        let Some(Action::DirectResponse(answer)) =
            routed_for(&envoy, at(PathMatch::Prefix("/".into())), forward(none)).action
        else {
            panic!("a gRPC client would wait for the cluster")
        };
        assert_eq!(answer.status, 500);
    }
}

#[test]
fn headers_change_on_the_route_and_for_one_backend() {
    let changes = HeaderChanges {
        set: vec![("s".into(), "100%".into())],
        add: vec![("a".into(), "2".into())],
        remove: vec!["r".into()],
    };
    let filters =
        Filters { request_headers: changes.clone(), response_headers: changes, ..Filters::default() };
    let special = WeightedBackend { filters: filters.clone(), ..backend(1) };
    let action = RouteAction { filters, ..forward(vec![special]) };
    let route = routed(at(PathMatch::Prefix("/".into())), action);
    let actions = |options: &[outrigger_proto::xds::core::HeaderValueOption]| -> Vec<_> {
        let header = |option: &outrigger_proto::xds::core::HeaderValueOption| option.header.clone().unwrap();
        options.iter().map(|o| (header(o).key, header(o).value, o.append_action)).collect()
    };
    // A percent sign is doubled, because a single one begins a command operator.
    let expected = [("s".to_owned(), "100%%".to_owned(), 2), ("a".to_owned(), "2".to_owned(), 0)];
    assert_eq!(actions(&route.request_headers_to_add), expected);
    assert_eq!(
        (actions(&route.response_headers_to_add), &route.response_headers_to_remove[..]),
        (expected.to_vec(), &["r".to_owned()][..])
    );
    let Some(Action::Route(action)) = route.action else { panic!("not forwarded") };
    let Some(ClusterSpecifier::WeightedClusters(all)) = action.cluster_specifier else { panic!("no share") };
    assert_eq!(actions(&all.clusters[0].request_headers_to_add), expected);
}

#[test]
fn a_prefix_is_rewritten_by_path_elements() {
    let rewrite = |prefix: &str, path: &str| {
        let rewrite = Rewrite { hostname: Some("h".into()), path: Some(PathRewrite::Prefix(prefix.into())) };
        let filters = Filters { rewrite: Some(rewrite), ..Filters::default() };
        routed_to(RouteAction { filters, ..forward(vec![backend(1)]) }, path)
    };
    assert_eq!(rewrite("/new", "/old").prefix_rewrite, "/new");
    assert_eq!(rewrite("/new/", "/old").prefix_rewrite, "/new");
    assert_eq!(rewrite("/new", "/").prefix_rewrite, "/new/");
    let gone = rewrite("/", "/old.x").regex_rewrite.unwrap();
    assert_eq!((gone.pattern.unwrap().regex.as_str(), gone.substitution.as_str()), (r"^/old\.x/*", "/"));
}

#[test]
fn a_whole_path_is_replaced_literally() {
    let rewrite = Rewrite { hostname: None, path: Some(PathRewrite::Full(r"/a\1".into())) };
    let filters = Filters { rewrite: Some(rewrite), ..Filters::default() };
    let made = routed_to(RouteAction { filters, ..forward(vec![backend(1)]) }, "/").regex_rewrite.unwrap();
    assert_eq!((made.pattern.unwrap().regex.as_str(), made.substitution.as_str()), ("^.*$", r"/a\\1"));
}

#[test]
fn a_redirect_has_what_changes() {
    let redirect = Redirect {
        scheme: Some(RedirectScheme::Https),
        hostname: Some("example.org".into()),
        path: Some(PathRewrite::Full("/there".into())),
        port: None,
        status: 308,
    };
    let action = RouteAction { target: RouteTarget::Redirect(redirect), ..forward(Vec::new()) };
    let Some(Action::Redirect(made)) = routed(at(PathMatch::Prefix("/".into())), action).action else {
        panic!("no redirect")
    };
    assert_eq!((made.host_redirect.as_str(), made.port_redirect, made.response_code), ("example.org", 0, 4));
    let path = redirect_action::PathRewriteSpecifier::PathRedirect("/there".into());
    assert_eq!(made.path_rewrite_specifier, Some(path));
}

#[test]
fn a_redirects_port_is_written_where_the_scheme_does_not_imply_it() {
    use RedirectScheme::{Http, Https};
    let (mesh, viewer, settings) = (Mesh::default(), shop(), settings());
    let scope = Scope { mesh: &mesh, viewer: &viewer, settings: &settings };
    let made = |scheme, hostname: Option<&str>, port, service_port| {
        let redirect = Redirect { scheme, hostname: hostname.map(Name::from), path: None, port, status: 302 };
        let action = RouteAction { target: RouteTarget::Redirect(redirect), ..forward(Vec::new()) };
        let matches = at(PathMatch::Prefix("/".into()));
        let route = Route { id: "r".into(), matches, action: Arc::new(action) };
        let target = Target::service(ServiceKey::new("shop", "cart"), service_port);
        match crate::translate::action::route(scope, &route, &target, &Default::default()).action {
            Some(Action::Redirect(made)) => made.port_redirect,
            other => panic!("{other:?}"),
        }
    };
    for (scheme, hostname, port, service_port, written) in [
        (Some(Https), None, None, 80, 0),
        (Some(Https), Some("example.org"), None, 8080, 0),
        // `Host` names 8080, which Envoy would keep.
        (Some(Https), None, None, 8080, 443),
        (Some(Http), None, None, 8080, 80),
        (Some(Https), None, Some(443), 80, 0),
        (Some(Https), None, Some(8443), 80, 8443),
        (Some(Http), Some("example.org"), Some(443), 80, 443),
        (None, None, Some(80), 80, 0),
        (None, None, Some(8080), 80, 8080),
        (None, Some("example.org"), None, 80, 0),
        (None, None, None, 8080, 0),
    ] {
        let got = made(scheme, hostname, port, service_port);
        assert_eq!(got, written, "{scheme:?} {hostname:?} {port:?} on {service_port}");
    }
}

#[test]
fn mirrors_timeouts_and_retries_stand_on_the_action() {
    let target = BackendTarget { service: ServiceKey::new("shop", "cart"), port: 80 };
    let mirror = |target| Mirror { target, share: Percentage::from_millionths(250_000).unwrap() };
    let mirrors = vec![mirror(Ok(target)), mirror(Err(InvalidBackend::BackendNotFound))];
    let action = RouteAction {
        filters: Filters { mirrors, ..Filters::default() },
        timeouts: Timeouts {
            request: Some(Duration::from_secs(3)),
            backend_request: Some(Duration::from_millis(500)),
        },
        retry: Some(Retry { codes: vec![503], attempts: Some(4), backoff: Some(Duration::from_millis(10)) }),
        ..forward(vec![backend(1)])
    };
    let made = routed_to(action, "/");
    assert_eq!(made.request_mirror_policies.len(), 1);
    let share = made.request_mirror_policies[0].runtime_fraction.as_ref().unwrap().default_value.unwrap();
    assert_eq!((share.numerator, made.timeout.unwrap().seconds), (250_000, 3));
    let retry = made.retry_policy.unwrap();
    assert!(retry.retry_on.ends_with(",retriable-status-codes"));
    assert_eq!((retry.num_retries.unwrap().value, &retry.retriable_status_codes[..]), (4, &[503][..]));
    assert_eq!(retry.per_try_timeout.unwrap().nanos, 500_000_000);
    assert_eq!(retry.retry_back_off.unwrap().max_interval.unwrap().nanos, 100_000_000);
}

#[test]
fn cors_is_the_routes_own_config_and_puts_the_filter_into_the_listener() {
    let cors = Cors {
        allow_origins: vec!["https://*.example.org".into(), "https://a.org".into(), "*".into()],
        allow_credentials: true,
        allow_methods: vec!["GET".into(), "PUT".into()],
        allow_headers: vec!["x".into()],
        expose_headers: Vec::new(),
        max_age: Duration::from_secs(5),
    };
    let filters = Filters { cors: Some(cors), ..Filters::default() };
    let action = Arc::new(RouteAction { filters, ..forward(vec![backend(1)]) });
    let route = Route { id: "r".into(), matches: at(PathMatch::Prefix("/".into())), action };
    let catalog = catalog(cart(AppProtocol::Http, producer(RouteTable::Http(vec![route]))));
    let listener: Listener = read(&catalog, Kind::Listener, "cart:80");
    let filters: Vec<_> = manager(&listener).http_filters.into_iter().map(|filter| filter.name).collect();
    assert_eq!(filters, ["envoy.filters.http.cors", "envoy.filters.http.router"]);
    let made: RouteConfiguration = read(&catalog, Kind::Route, CART);
    let any = &made.virtual_hosts[0].routes[0].typed_per_filter_config["envoy.filters.http.cors"];
    let policy = outrigger_proto::xds::cors::CorsPolicy::decode(any.value.as_slice()).unwrap();
    assert_eq!((policy.allow_methods.as_str(), policy.max_age.as_str()), ("GET,PUT", "5"));
    assert_eq!(policy.allow_origin_string_match.len(), 3);
}
