//! Session persistence: the filter of listeners, and its configuration by route and by backend.

use outrigger_proto::xds::cookie_session::CookieBasedSessionState;
use outrigger_proto::xds::header_session::HeaderBasedSessionState;
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::route::{self, FilterConfig, WeightedCluster};
use outrigger_proto::xds::stateful_session::StatefulSessionPerRoute;
use outrigger_proto::xds::stateful_session::stateful_session_per_route::Override;
use outrigger_proto::xds::{extension, type_url};

use super::*;
use crate::model::mesh_builder::MeshBuilder;
use crate::model::mesh_builder::testing::{route as http_route, service};

const OTHER: &str = "other.shop.svc.cluster.local:80";

fn policy(service: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: outrigger.dev/v1alpha1, kind: BackendTrafficPolicy, metadata: {{name: {service}, namespace: shop}},
           spec: {{targetRefs: [{{group: '', kind: Service, name: {service}}}], {spec}}}}}"
    )
}

fn of_gateway_api(spec: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.x-k8s.io/v1alpha1, kind: XBackendTrafficPolicy, metadata: {{name: x, namespace: shop}},
           spec: {{targetRefs: [{{group: '', kind: Service, name: cart}}], {spec}}}}}"
    )
}

fn catalog_of(resources: &[&str]) -> (MeshBuilder, Catalog) {
    let mut builder = MeshBuilder::default();
    builder.with(&[&service("cart", 80, "http"), &service("other", 80, "http")]).with(resources);
    let catalog = Catalog::new(settings());
    catalog.publish(Arc::new(builder.mesh()));
    (builder, catalog)
}

fn routes(catalog: &Catalog) -> Vec<route::Route> {
    let mut table: RouteConfiguration = read(catalog, Kind::Route, CART);
    table.virtual_hosts.remove(0).routes
}

/// Returns whether the listener of `cart` has the filter.
fn is_filtered(catalog: &Catalog) -> bool {
    let manager = manager(&read(catalog, Kind::Listener, "cart:80"));
    let at = manager.http_filters.iter().position(|filter| filter.name == extension::STATEFUL_SESSION);
    if let Some(at) = at {
        assert_eq!(at, manager.http_filters.len() - 2, "before the router");
        assert!(manager.http_filters[at].is_optional);
    }
    at.is_some()
}

/// Returns `cookie <name> <lifetime> <path>` or `header <name>`.
fn sessions<'a>(config: impl IntoIterator<Item = (&'a String, &'a Any)>) -> Option<String> {
    let (name, any) = config.into_iter().next()?;
    assert_eq!(
        (name.as_str(), any.type_url.as_str()),
        (extension::STATEFUL_SESSION, type_url::FILTER_CONFIG)
    );
    let config = FilterConfig::decode(&any.value[..]).unwrap();
    assert!(config.is_optional && !config.disabled);
    let per_route = StatefulSessionPerRoute::decode(&config.config.unwrap().value[..]).unwrap();
    let Some(Override::StatefulSession(sessions)) = per_route.r#override else { panic!("{per_route:?}") };
    assert!(!sessions.strict);
    let state = sessions.session_state.unwrap().typed_config.unwrap();
    Some(match state.type_url.as_str() {
        type_url::COOKIE_SESSION => {
            let cookie = CookieBasedSessionState::decode(&state.value[..]).unwrap().cookie.unwrap();
            format!("cookie {} {:?} {}", cookie.name, cookie.ttl.map(|ttl| ttl.seconds), cookie.path)
        }
        type_url::HEADER_SESSION => {
            format!("header {}", HeaderBasedSessionState::decode(&state.value[..]).unwrap().name)
        }
        other => panic!("{other}"),
    })
}

fn of_routes(catalog: &Catalog) -> Vec<Option<String>> {
    routes(catalog).iter().map(|route| sessions(&route.typed_per_filter_config)).collect()
}

fn clusters(route: &route::Route) -> WeightedCluster {
    let Some(Action::Route(action)) = &route.action else { panic!("{route:?}") };
    let Some(ClusterSpecifier::WeightedClusters(clusters)) = &action.cluster_specifier else {
        panic!("{action:?}")
    };
    clusters.clone()
}

#[test]
fn a_service_has_the_sessions_of_its_policy() {
    for (resources, expected) in [
        (vec![], None),
        (vec![policy("other", "sessionPersistence: {}")], None),
        (vec![policy("cart", "sessionPersistence: {sessionName: a}")], Some("cookie a None /")),
        (
            vec![policy(
                "cart",
                "sessionPersistence: {sessionName: a, absoluteTimeout: 2m, cookieConfig: {lifetimeType: Permanent}}",
            )],
            Some("cookie a Some(120) /"),
        ),
        (vec![policy("cart", "sessionPersistence: {type: Header, sessionName: X-A}")], Some("header x-a")),
        (vec![of_gateway_api("sessionPersistence: {sessionName: b}")], Some("cookie b None /")),
        (
            vec![
                policy("cart", "overload: Disabled"),
                of_gateway_api("sessionPersistence: {sessionName: b}"),
            ],
            Some("cookie b None /"),
        ),
        (
            vec![
                policy("cart", "sessionPersistence: {sessionName: a}"),
                of_gateway_api("sessionPersistence: {sessionName: b}"),
            ],
            Some("cookie a None /"),
        ),
    ] {
        let resources: Vec<_> = resources.iter().map(String::as_str).collect();
        let (_, catalog) = catalog_of(&resources);
        assert_eq!(of_routes(&catalog), [expected.map(String::from)], "{resources:?}");
        assert_eq!(is_filtered(&catalog), expected.is_some(), "{resources:?}");
    }
}

#[test]
fn a_rule_comes_before_the_policies_of_its_backends() {
    let rules = "{matches: [{path: {value: /a}}], sessionPersistence: {sessionName: rule}, backendRefs: [{name: cart, port: 80}]}, \
                 {matches: [{path: {value: /b}}], backendRefs: [{name: cart, port: 80}, {name: other, port: 80, weight: 0}]}, \
                 {backendRefs: [{name: other, port: 80}]}";
    let route = http_route("HTTPRoute", "r", "name: cart", rules);
    let (_, catalog) =
        catalog_of(&[&route, &policy("cart", "sessionPersistence: {type: Header, sessionName: x-a}")]);
    let expected = [Some("cookie rule None /"), Some("header x-a"), None].map(|of| of.map(String::from));
    assert_eq!(of_routes(&catalog), expected);
    assert!(is_filtered(&catalog));
}

#[test]
fn rules_have_cookies_of_their_own_unless_they_name_one() {
    let rules = "{matches: [{path: {value: /a}}, {path: {value: /b}}], sessionPersistence: {}, backendRefs: [{name: cart, port: 80}]}, \
                 {matches: [{path: {value: /c}}], sessionPersistence: {}, backendRefs: [{name: cart, port: 80}]}, \
                 {backendRefs: [{name: cart, port: 80}]}";
    let route = http_route("HTTPRoute", "r", "name: cart", rules);
    let names = |resources: &[&str]| {
        let all = of_routes(&catalog_of(resources).1);
        all.into_iter().map(|of| of.unwrap().split(' ').nth(1).unwrap().to_owned()).collect::<Vec<_>>()
    };
    let policy = policy("cart", "sessionPersistence: {}");
    let all = names(&[&route, &policy]);
    assert_eq!(all, names(&[&policy, &route]), "names do not change by themselves");
    let [a, b, c, rest] = &all[..] else { panic!("{all:?}") };
    assert!(a == b && a != c && a != rest && c != rest, "{all:?}");
    let direct = names(&[&policy]);
    assert!(!all.contains(&direct[0]) && direct[0].starts_with("outrigger-session-"), "{direct:?}");
}

#[test]
fn a_backend_with_sessions_and_weight_0_stays_for_them() {
    let rule = |sessions: &str| {
        let backends = "{name: cart, port: 80, weight: 0}, {name: other, port: 80, weight: 3}, {name: none, port: 80, weight: 0}";
        http_route("HTTPRoute", "r", "name: cart", &format!("{{{sessions} backendRefs: [{backends}]}}"))
    };
    let shares = |resources: &[&str]| {
        let routes = routes(&catalog_of(resources).1);
        let share = |of: &route::weighted_cluster::ClusterWeight| {
            (of.name.clone(), of.weight.unwrap().value, sessions(&of.typed_per_filter_config))
        };
        clusters(&routes[0]).clusters.iter().map(share).collect::<Vec<_>>()
    };
    let own = rule("sessionPersistence: {sessionName: rule},");
    assert_eq!(shares(&[&own]), [(CART.to_owned(), 0, None), (OTHER.to_owned(), 3, None)]);
    let of_policy = policy("cart", "sessionPersistence: {sessionName: cart}");
    let cart = Some("cookie cart None /".to_owned());
    assert_eq!(shares(&[&rule(""), &of_policy]), [(CART.to_owned(), 0, cart), (OTHER.to_owned(), 3, None)]);
    let (_, catalog) = catalog_of(&[&rule("")]);
    let Some(Action::Route(action)) = routes(&catalog)[0].action.clone() else { panic!("no route") };
    assert_eq!(action.cluster_specifier, Some(ClusterSpecifier::Cluster(OTHER.into())), "without sessions");
}

#[test]
fn the_policy_of_a_backend_changes_the_routes_that_lead_to_it() {
    let route = http_route("HTTPRoute", "r", "name: cart", "{backendRefs: [{name: other, port: 80}]}");
    let (mut builder, catalog) = catalog_of(&[&route]);
    assert_eq!((of_routes(&catalog), is_filtered(&catalog)), (vec![None], false));
    builder.with(&[&policy("other", "sessionPersistence: {sessionName: a}")]);
    let affected = catalog.publish(Arc::new(builder.mesh()));
    let woken = affected
        .dependencies
        .iter()
        .find(|(of, _)| *of == Dependency::Service(ServiceKey::new("shop", "cart")));
    assert!(woken.unwrap().1.is_superset(&BTreeSet::from([Kind::Listener, Kind::Route])));
    assert_eq!((of_routes(&catalog), is_filtered(&catalog)), (vec![Some("cookie a None /".into())], true));
}

#[test]
fn what_both_kinds_set_is_that_of_our_own() {
    let (builder, _) = catalog_of(&[
        &policy("cart", "sessionPersistence: {}"),
        &of_gateway_api("sessionPersistence: {}, retryConstraint: {}"),
    ]);
    assert_eq!(
        builder.conditions("XBackendTrafficPolicy shop/x"),
        ["Accepted=False (Conflicted): BackendTrafficPolicy cart has the same target and keeps its sessions"]
    );
    let (builder, _) =
        catalog_of(&[&policy("cart", "sessionPersistence: {}"), &of_gateway_api("retryConstraint: {}")]);
    assert_eq!(builder.conditions("XBackendTrafficPolicy shop/x"), ["Accepted=True (Accepted)"]);
}
