//! BackendTrafficPolicies in the clusters that callers get, and in those of the application.

use outrigger_proto::xds::cluster::OutlierDetection;
use outrigger_proto::xds::cluster::circuit_breakers::Thresholds;
use outrigger_proto::xds::maglev::Maglev;
use outrigger_proto::xds::protobuf::{self, UInt32Value};
use outrigger_proto::xds::ring_hash::RingHash;
use outrigger_proto::xds::route::route_action::hash_policy::{
    ConnectionProperties, Cookie, Header, PolicySpecifier, QueryParameter,
};
use outrigger_proto::xds::type_url;

use super::inbound::serving_from;
use super::*;
use crate::model::mesh_builder::MeshBuilder;
use crate::model::mesh_builder::testing::service;

mod checks;

fn policy(spec: &str) -> String {
    format!(
        "{{apiVersion: outrigger.dev/v1alpha1, kind: BackendTrafficPolicy, metadata: {{name: p, namespace: shop}},
           spec: {{targetRefs: [{{group: '', kind: Service, name: cart}}], {spec}}}}}"
    )
}

fn retry_constraint(spec: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.x-k8s.io/v1alpha1, kind: XBackendTrafficPolicy, metadata: {{name: x, namespace: shop}},
           spec: {{targetRefs: [{{group: '', kind: Service, name: cart}}], retryConstraint: {{{spec}}}}}}}"
    )
}

fn cluster(resources: &[&str]) -> Cluster {
    let mut builder = MeshBuilder::default();
    builder.with(&[&service("cart", 80, "http")]).with(resources);
    let catalog = Catalog::new(settings());
    catalog.publish(Arc::new(builder.mesh()));
    read(&catalog, Kind::Cluster, CART)
}

fn thresholds(cluster: &Cluster) -> &Thresholds {
    &cluster.circuit_breakers.as_ref().unwrap().thresholds[0]
}

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn seconds(seconds: i64) -> Option<protobuf::Duration> {
    Some(protobuf::Duration { seconds, nanos: 0 })
}

/// The balancers of a cluster: `outrigger.lb.v1.PeakEwma LeastRequest`.
fn balancers(cluster: &Cluster) -> Vec<String> {
    let policies = &cluster.load_balancing_policy.as_ref().unwrap().policies;
    let name = |policy: &outrigger_proto::xds::cluster::load_balancing_policy::Policy| {
        let config = policy.typed_extension_config.as_ref().unwrap().typed_config.as_ref().unwrap();
        config.type_url.rsplit('.').next().unwrap().to_owned()
    };
    policies.iter().map(name).collect()
}

#[test]
fn what_a_policy_does_not_set_keeps_the_default() {
    let (default, limited) = (cluster(&[]), cluster(&[&policy("limits: {maxRequests: 7}")]));
    let mut expected = default.clone();
    expected.circuit_breakers.as_mut().unwrap().thresholds[0].max_requests = number(7);
    assert_eq!(limited, expected);
    let observed = cluster(&[&policy("overload: Observe")]);
    assert_eq!(observed, default, "what concerns the Service's own sidecars is not in the callers' cluster");
}

#[test]
fn every_limit_and_timeout_is_that_of_the_policy() {
    let spec = "limits: {maxConnections: 1, maxPendingRequests: 2, maxRequests: 3, maxRetries: 4}, connectTimeout: 250ms";
    let cluster = cluster(&[&policy(spec)]);
    let expected = Thresholds {
        max_connections: number(1),
        max_pending_requests: number(2),
        max_requests: number(3),
        max_retries: number(4),
        ..Thresholds::default()
    };
    assert_eq!(*thresholds(&cluster), expected);
    assert_eq!(cluster.connect_timeout, Some(protobuf::Duration { seconds: 0, nanos: 250_000_000 }));
}

#[test]
fn each_balancer_is_that_of_envoy_and_the_default_is_our_own() {
    for (name, expected) in [
        ("PeakEWMA", &["PeakEwma", "LeastRequest"][..]),
        ("LeastRequest", &["LeastRequest"][..]),
        ("RoundRobin", &["RoundRobin"][..]),
        ("Random", &["Random"][..]),
    ] {
        let policy = policy(&format!("loadBalancer: {{type: {name}}}"));
        assert_eq!(balancers(&cluster(&[&policy])), expected, "{name}");
    }
    assert_eq!(balancers(&cluster(&[])), ["PeakEwma", "LeastRequest"]);
}

#[test]
fn hedging_is_metadata_for_our_own_proxy_with_a_default_delay() {
    for (spec, expected) in [
        ("{percentile: 95}", &[("min_delay_ms", 5.0), ("percentile", 95.0)][..]),
        (
            "{percentile: 50, maxDelay: 2ms}",
            &[("max_delay_ms", 2.0), ("min_delay_ms", 2.0), ("percentile", 50.0)],
        ),
        (
            "{percentile: 99.9, minDelay: 0s, maxDelay: 1s}",
            &[("max_delay_ms", 1000.0), ("min_delay_ms", 0.0), ("percentile", 99.9)],
        ),
    ] {
        let cluster = cluster(&[&policy(&format!("hedging: {spec}"))]);
        let fields = &cluster.metadata.unwrap().filter_metadata["outrigger.hedging"].fields;
        let number = |value: &protobuf::Value| match value.kind {
            Some(protobuf::value::Kind::NumberValue(number)) => number,
            _ => panic!("{value:?}"),
        };
        let mut fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), number(value))).collect();
        fields.sort_by(|one, two| one.0.cmp(two.0));
        assert_eq!(fields, expected, "{spec}");
    }
    assert!(cluster(&[]).metadata.is_none());
}

#[test]
fn hashes_are_those_of_the_cluster() {
    let key = |balancer: &str, hash: &str| {
        let spec = format!("loadBalancer: {{type: {balancer}, consistentHash: {{{hash}}}}}");
        let cluster = cluster(&[&policy(&spec)]);
        let policies = &cluster.load_balancing_policy.unwrap().policies;
        let config = policies[0].typed_extension_config.as_ref().unwrap().typed_config.as_ref().unwrap();
        let common = match config.type_url.as_str() {
            type_url::RING_HASH => RingHash::decode(&config.value[..]).unwrap().consistent_hashing_lb_config,
            type_url::MAGLEV => Maglev::decode(&config.value[..]).unwrap().consistent_hashing_lb_config,
            other => panic!("{other}"),
        };
        let [policy] = <[_; 1]>::try_from(common.unwrap().hash_policy).unwrap();
        policy.policy_specifier.unwrap()
    };
    let header = Header { header_name: "x-user".into(), ..Header::default() };
    assert_eq!(key("RingHash", "type: Header, header: X-User"), PolicySpecifier::Header(header));
    let cookie = Cookie { name: "s".into(), ttl: seconds(60), path: "/".into(), ..Cookie::default() };
    assert_eq!(key("Maglev", "type: Cookie, cookie: {name: s, ttl: 1m}"), PolicySpecifier::Cookie(cookie));
    let parameter = QueryParameter { name: "user".into() };
    assert_eq!(
        key("Maglev", "type: QueryParam, queryParam: user"),
        PolicySpecifier::QueryParameter(parameter)
    );
    let source = ConnectionProperties { source_ip: true };
    assert_eq!(key("RingHash", "type: Source"), PolicySpecifier::ConnectionProperties(source));
}

#[test]
fn a_retry_budget_is_that_of_the_policy_or_else_of_gateway_api() {
    let budget = |resources: &[&str]| {
        let budget = thresholds(&cluster(resources)).retry_budget.unwrap();
        let percent = budget.budget_percent.unwrap().value;
        (percent, budget.budget_interval, budget.min_retry_concurrency.unwrap().value)
    };
    assert_eq!(budget(&[]), (20.0, None, 3));
    let own = policy("retryBudget: {percent: 5, interval: 30s, minRetryRate: {count: 5, interval: 2s}}");
    assert_eq!(budget(&[&own]), (5.0, seconds(30), 3));
    assert_eq!(budget(&[&policy("retryBudget: {percent: 5}")]), (5.0, None, 3));
    let of_gateway_api = retry_constraint("budget: {percent: 50}");
    assert_eq!(budget(&[&of_gateway_api]), (50.0, seconds(10), 10));
    assert_eq!(budget(&[&of_gateway_api, &own]), (5.0, seconds(30), 3));
}

#[test]
fn ejection_is_changed_field_by_field_or_off() {
    let detection =
        |spec: &str| cluster(&[&policy(&format!("outlierDetection: {{{spec}}}"))]).outlier_detection;
    let default = cluster(&[]).outlier_detection.unwrap();
    assert_eq!(detection("mode: Disabled"), None);
    let times = detection("interval: 1s, baseEjectionTime: 3s, maxEjectionTime: 4s, maxEjectionPercent: 10");
    let expected = OutlierDetection {
        interval: seconds(1),
        base_ejection_time: seconds(3),
        max_ejection_time: seconds(4),
        max_ejection_percent: number(10),
        ..default.clone()
    };
    assert_eq!(times, Some(expected));
    let in_a_row =
        detection("consecutive5xxErrors: 7, consecutiveGatewayErrors: 3, consecutiveLocalOriginFailures: 0");
    let expected = OutlierDetection {
        consecutive_5xx: number(7),
        enforcing_consecutive_5xx: number(100),
        consecutive_gateway_failure: number(3),
        enforcing_consecutive_gateway_failure: number(100),
        enforcing_consecutive_local_origin_failure: number(0),
        ..default.clone()
    };
    assert_eq!(in_a_row, Some(expected));
    let rates = detection(
        "failurePercentage: {threshold: 30, minimumHosts: 3, requestVolume: 50},
         successRate: {minimumHosts: 4, requestVolume: 60, stdevFactor: 1500}",
    );
    let expected = OutlierDetection {
        failure_percentage_threshold: number(30),
        failure_percentage_minimum_hosts: number(3),
        failure_percentage_request_volume: number(50),
        enforcing_success_rate: number(100),
        enforcing_local_origin_success_rate: number(100),
        success_rate_minimum_hosts: number(4),
        success_rate_request_volume: number(60),
        success_rate_stdev_factor: number(1500),
        ..default
    };
    assert_eq!(rates, Some(expected));
}

#[test]
fn overload_is_that_of_the_policy_before_the_annotation() {
    let mode = |annotation: &str, resources: &[&str]| {
        let annotated = service("cart", 80, "http").replace(
            "namespace: shop}",
            &format!("namespace: shop, annotations: {{outrigger.dev/overload: {annotation}}}}}"),
        );
        let mut builder = MeshBuilder::default();
        builder.with(&[&annotated]).with(resources);
        let cluster: Cluster = read(&serving_from(builder.mesh()), Kind::Cluster, "inbound|127.0.0.1:10000");
        let metadata = cluster.metadata.unwrap().filter_metadata;
        let Some(Field::StringValue(mode)) = &metadata["outrigger.overload"].fields["mode"].kind else {
            panic!()
        };
        mode.clone()
    };
    assert_eq!(mode("observe", &[]), "observe");
    assert_eq!(mode("observe", &[&policy("limits: {maxRequests: 1}")]), "observe");
    assert_eq!(mode("observe", &[&policy("overload: Disabled")]), "off");
    assert_eq!(mode("off", &[&policy("overload: Enforce")]), "enforce");
}

#[test]
fn a_changed_policy_wakes_the_callers_of_its_service() {
    let mut builder = MeshBuilder::default();
    builder.with(&[&service("cart", 80, "http"), &service("other", 80, "http")]);
    let catalog = Catalog::new(settings());
    catalog.publish(Arc::new(builder.mesh()));
    let default: Cluster = read(&catalog, Kind::Cluster, CART);
    builder.with(&[&policy("connectTimeout: 9s")]);
    let affected = catalog.publish(Arc::new(builder.mesh()));
    let services = affected.dependencies.into_iter().filter_map(|(of, kinds)| match of {
        Dependency::Service(service) => Some((service, kinds)),
        _ => None,
    });
    let kinds = BTreeSet::from(Kind::ALL);
    let cart = (ServiceKey::new("shop", "cart"), kinds);
    assert_eq!(services.collect::<Vec<_>>(), [cart]);
    let changed: Cluster = read(&catalog, Kind::Cluster, CART);
    assert_eq!(changed, Cluster { connect_timeout: seconds(9), ..default });
}
