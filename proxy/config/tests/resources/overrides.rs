//! Filters that are disabled and enabled at every level that contains a route (`typed_per_filter_config`).

use outrigger_config::route::RouteAction;
use outrigger_policy::filter::overrides::FilterOverrides;
use outrigger_policy::filter::{FilterConfig, HttpFilter};
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::{route, type_url};

use crate::fixture::*;

/// Disables or enables the filter `cors`.
fn switch(disabled: bool) -> (String, Any) {
    let config = route::FilterConfig { disabled, ..Default::default() };
    ("cors".to_owned(), packed(type_url::FILTER_CONFIG, &config))
}

/// A route to weighted clusters: one without configuration, and one that switches the filter the other way.
fn route(disabled: Option<bool>, of_cluster: bool) -> route::Route {
    let share = |name: &str, config: Option<bool>| route::weighted_cluster::ClusterWeight {
        name: name.into(),
        typed_per_filter_config: config.map(switch).into_iter().collect(),
        ..Default::default()
    };
    let clusters = vec![share("plain", None), share("own", Some(of_cluster))];
    let clusters = route::WeightedCluster { clusters, ..Default::default() };
    let specifier = route::route_action::ClusterSpecifier::WeightedClusters(clusters);
    let action = route::RouteAction { cluster_specifier: Some(specifier), ..Default::default() };
    route::Route {
        action: Some(route::route::Action::Route(action)),
        typed_per_filter_config: disabled.map(switch).into_iter().collect(),
        ..forward(CART)
    }
}

#[test]
fn the_most_specific_level_decides_whether_a_filter_is_disabled() {
    let host = |name: &str, disabled: Option<bool>, of_route: [Option<bool>; 2]| route::VirtualHost {
        name: name.into(),
        domains: vec![name.into()],
        routes: of_route.map(|disabled| route(disabled, false)).into(),
        typed_per_filter_config: disabled.map(switch).into_iter().collect(),
        ..Default::default()
    };
    let mut wire = table(CART, CART);
    wire.typed_per_filter_config = [switch(true)].into();
    wire.virtual_hosts =
        vec![host("a", None, [None, Some(false)]), host("b", Some(false), [None, Some(true)])];
    let mut mesh = Mesh::default();
    accept(&mut mesh, CART, "1", table_body(wire));
    let snapshot = build(&mut mesh);
    let policy = Any { type_url: type_url::CORS.into(), value: Vec::new() };
    let config = FilterConfig::of_listener(&policy).unwrap().unwrap();
    let filter = HttpFilter { name: "cors".into(), config, disabled: false };
    let applies = |of: &FilterOverrides| of.resolve(&filter).is_some();
    let found = snapshot.routes.get(CART).unwrap().hosts.iter().flat_map(|host| &host.routes).map(|route| {
        let RouteAction::Forward(to) = &route.action else { panic!("{route:?}") };
        let of_clusters =
            to.clusters.shares().map(|share| applies(share.filters.as_ref().unwrap_or(&route.filters)));
        (applies(&route.filters), of_clusters.collect::<Vec<_>>())
    });
    // The table disables it: its first host leaves it at that, the second enables it. A route and a cluster replace that again.
    assert_eq!(
        found.collect::<Vec<_>>(),
        [
            (false, vec![false, true]),
            (true, vec![true, true]),
            (true, vec![true, true]),
            (false, vec![false, true]),
        ]
    );
}
