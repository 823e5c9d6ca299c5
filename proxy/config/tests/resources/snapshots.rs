//! What a snapshot shares with the previous one, and what stays if a new resource cannot be used.

use std::sync::Arc;
use std::time::Duration;

use outrigger_config::compiled::{Compiled, INVALID_BACKEND};
use outrigger_proto::kind::Kind;
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::{cluster, listener, type_url};

use crate::fixture::*;

#[test]
fn a_resource_with_a_missing_reference_is_published() {
    let mut builder = Mesh::default();
    accept(&mut builder, "cart:80", "1", listener_body(destination("cart:80")));
    accept(&mut builder, CART, "1", table_body(table(CART, "nowhere")));
    let snapshot = build(&mut builder);
    assert!(snapshot.destination("cart:80").is_some() && snapshot.cluster("nowhere").is_none());
}

#[test]
fn unchanged_parts_are_shared_with_the_previous_snapshot() {
    let mut builder = cart();
    let before = build(&mut builder);
    accept(&mut builder, "other:80", "1", listener_body(destination("other:80")));
    let after = build(&mut builder);
    assert_eq!(after.generation, before.generation + 1);
    assert!(Arc::ptr_eq(&after.clusters[CART], &before.clusters[CART]));
    assert!(Arc::ptr_eq(&after.destinations["cart:80"], &before.destinations["cart:80"]));
    assert!(builder.build().is_none(), "nothing has changed");
}

#[test]
fn new_content_under_an_old_version_counts() {
    let mut builder = cart();
    build(&mut builder);
    accept(
        &mut builder,
        CART,
        "1",
        cluster_body(cluster::Cluster { connect_timeout: seconds(7), ..cart_cluster() }),
    );
    assert_eq!(build(&mut builder).cluster(CART).unwrap().connect_timeout, Duration::from_secs(7));
}

#[test]
fn new_endpoints_need_no_new_snapshot_and_old_ones_are_kept() {
    let mut builder = cart();
    let before = build(&mut builder);
    let handle = &before.cluster(CART).unwrap().endpoints;
    let first = handle.load().list[0].clone();
    accept(&mut builder, CART, "2", endpoints(CART, &["10.0.0.7:8080", "10.0.0.8:8080"]));
    assert!(builder.build().is_none());
    let now = handle.load();
    assert_eq!(now.list.len(), 2);
    assert!(Arc::ptr_eq(&now.list[0], &first));
    let version = now.version;
    drop(now);
    accept(&mut builder, CART, "3", endpoints(CART, &["10.0.0.7:8080", "10.0.0.8:8080"]));
    assert!(builder.build().is_none());
    assert_eq!(handle.load().version, version, "the same endpoints are no change");
}

#[test]
fn of_an_address_that_occurs_twice_the_first_counts() {
    let mut builder = cart();
    let mut wire = assignment(CART, &["10.0.0.7:8080", "10.0.0.8:8080", "10.0.0.7:8080"]);
    wire.endpoints[0].lb_endpoints[0].load_balancing_weight = number(3);
    let mut second = wire.endpoints[0].clone();
    second.priority = 1;
    wire.endpoints.push(second);
    accept(&mut builder, CART, "2", packed(type_url::CLUSTER_LOAD_ASSIGNMENT, &wire));
    let snapshot = build(&mut builder);
    let endpoints = snapshot.cluster(CART).unwrap().endpoints.load();
    let seen: Vec<_> =
        endpoints.list.iter().map(|of| (of.address.to_string(), of.weight, of.priority)).collect();
    assert_eq!(seen, [("10.0.0.7:8080".into(), 3, 0), ("10.0.0.8:8080".into(), 1, 0)]);
}

#[test]
fn endpoints_outlive_an_update_of_their_cluster() {
    let mut builder = cart();
    let before = build(&mut builder);
    let mut cluster = cart_cluster();
    cluster.connect_timeout = seconds(2);
    accept(&mut builder, CART, "2", cluster_body(cluster));
    let built = build(&mut builder);
    let after = built.cluster(CART).unwrap();
    assert!(after.endpoints.same(&before.cluster(CART).unwrap().endpoints));
    assert_eq!(after.endpoints.load().list.len(), 1);
}

#[test]
fn a_refused_resource_keeps_its_last_good_version_and_disturbs_no_other() {
    let mut builder = cart();
    let before = build(&mut builder);
    let mut bad = cart_cluster();
    bad.close_connections_on_host_health_failure = true;
    let mut good = app_cluster();
    good.name = "good".into();
    let refused = apply(&mut builder, CART, "2", cluster_body(bad)).unwrap();
    assert_eq!(refused.to_string(), "close_connections_on_host_health_failure: is not supported");
    accept(&mut builder, "good", "1", cluster_body(good));
    let after = build(&mut builder);
    assert!(Arc::ptr_eq(after.cluster(CART).unwrap(), before.cluster(CART).unwrap()));
    assert!(after.cluster("good").is_some());
}

#[test]
fn what_is_removed_is_gone() {
    let mut builder = cart();
    build(&mut builder);
    builder.resources.remove(Kind::Listener, "cart:80");
    assert!(build(&mut builder).destination("cart:80").is_none());
}

#[test]
fn other_names_of_a_destination_lead_to_the_same() {
    let mut builder = cart();
    let mut with_alias = raw(CART, "1", listener_body(destination(CART)));
    with_alias.aliases = vec!["10.96.0.1:80".into()];
    builder.take(with_alias).unwrap();
    let snapshot = build(&mut builder);
    let [one, other] = ["10.96.0.1:80", CART].map(|name| snapshot.destination(name).unwrap());
    assert!(Arc::ptr_eq(one, other));
    // A resource whose own name is the alias takes precedence.
    let own = raw("10.96.0.1:80", "1", listener_body(destination("10.96.0.1:80")));
    builder.take(own).unwrap();
    assert_eq!(&*build(&mut builder).destination("10.96.0.1:80").unwrap().name, "10.96.0.1:80");
}

fn references(kind: Kind, body: Any) -> Vec<(Kind, String)> {
    let name = match kind {
        Kind::Listener => prost::Message::decode(&*body.value).map(|of: listener::Listener| of.name).unwrap(),
        _ => CART.into(),
    };
    let compiled = Compiled::new(kind, raw(&name, "1", body), None).unwrap();
    compiled.references().map(|(kind, name)| (kind, name.to_string())).collect()
}

#[test]
fn a_listener_refers_to_its_routes_and_clusters_and_a_destination_has_no_address() {
    let app = "inbound|127.0.0.1:8080".to_owned();
    assert_eq!(
        references(Kind::Listener, listener_body(destination("cart:80"))),
        [(Kind::Route, CART.into())]
    );
    assert_eq!(references(Kind::Listener, listener_body(inbound())), [(Kind::Cluster, app)]);
    let compiled = |wire: listener::Listener| {
        Compiled::new(Kind::Listener, raw(&wire.name.clone(), "1", listener_body(wire)), None).unwrap()
    };
    let (cart, own) = (compiled(destination("cart:80")), compiled(inbound()));
    assert!(cart.is_destination() && cart.address().is_none());
    assert!(!own.is_destination() && own.address() == Some("10.0.0.7:80".parse().unwrap()));
}

#[test]
fn a_route_refers_to_each_cluster_once_and_never_to_an_invalid_backend() {
    let mut wire = table(CART, "v2");
    let routes = ["v1", INVALID_BACKEND, "v2"].map(forward);
    wire.virtual_hosts[0].routes.extend(routes);
    let cluster = |name: &str| (Kind::Cluster, name.to_owned());
    assert_eq!(references(Kind::Route, table_body(wire)), [cluster("v1"), cluster("v2")]);
}

#[test]
fn listeners_and_routes_refer_to_the_services_that_filters_ask() {
    use outrigger_proto::xds::core::{self, grpc_service};
    use outrigger_proto::xds::ext_authz::{self as authz, ext_authz_per_route::Override};
    let service = |name: &str| {
        let target = grpc_service::EnvoyGrpc { cluster_name: name.into(), ..Default::default() };
        let target_specifier = Some(grpc_service::TargetSpecifier::EnvoyGrpc(target));
        core::GrpcService { target_specifier, ..Default::default() }
    };
    let services = Some(authz::ext_authz::Services::GrpcService(service("authz")));
    let filter = packed(type_url::EXT_AUTHZ, &authz::ExtAuthz { services, ..Default::default() });
    let mut of = manager(rds(CART));
    of.http_filters.insert(0, http_filter("authz", filter));
    let mut wire = destination("cart:80");
    let api_listener = Some(packed(type_url::HTTP_CONNECTION_MANAGER, &of));
    wire.api_listener = Some(listener::ApiListener { api_listener });
    let found = references(Kind::Listener, listener_body(wire));
    assert_eq!(found, [(Kind::Cluster, "authz".into()), (Kind::Route, CART.into())]);
    let settings = authz::CheckSettings {
        service_override: Some(authz::check_settings::ServiceOverride::GrpcService(service("other"))),
        ..Default::default()
    };
    let per_route = authz::ExtAuthzPerRoute { r#override: Some(Override::CheckSettings(settings)) };
    let mut wire = table(CART, "v1");
    let config = ("authz".to_owned(), packed(type_url::EXT_AUTHZ_PER_ROUTE, &per_route));
    wire.virtual_hosts[0].typed_per_filter_config.extend([config]);
    let cluster = |name: &str| (Kind::Cluster, name.to_owned());
    assert_eq!(references(Kind::Route, table_body(wire)), [cluster("other"), cluster("v1")]);
}

#[test]
fn a_cluster_refers_to_its_endpoints_unless_it_holds_them() {
    assert_eq!(references(Kind::Cluster, cluster_body(cart_cluster())), [(Kind::Endpoints, CART.into())]);
    let held = cluster::Cluster { name: CART.into(), ..app_cluster() };
    assert_eq!(references(Kind::Cluster, cluster_body(held)), []);
}
