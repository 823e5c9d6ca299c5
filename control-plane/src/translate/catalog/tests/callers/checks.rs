//! Active health checks and slow start of BackendTrafficPolicies in the clusters that callers get.

use outrigger_proto::xds::core::health_check::payload::Payload as Bytes;
use outrigger_proto::xds::core::health_check::{HealthChecker, HttpHealthCheck, Payload, TcpHealthCheck};
use outrigger_proto::xds::core::{HealthCheck, RequestMethod};
use outrigger_proto::xds::least_request::LeastRequest;
use outrigger_proto::xds::peak_ewma::PeakEwma;
use outrigger_proto::xds::round_robin::RoundRobin;
use outrigger_proto::xds::types::{CodecClientType, Int64Range, Percent};

use super::*;

/// The cluster of `cart`, whose port has this protocol, with this check.
fn cluster(protocol: &str, check: &str) -> Cluster {
    let policy = policy(&format!("healthCheck: {{{check}}}"));
    let mut builder = MeshBuilder::default();
    builder.with(&[&service("cart", 80, protocol), &policy]);
    let catalog = Catalog::new(settings());
    catalog.publish(Arc::new(builder.mesh()));
    read(&catalog, Kind::Cluster, CART)
}

fn millis(millis: i64) -> Option<protobuf::Duration> {
    Some(protobuf::Duration { seconds: millis / 1000, nanos: (millis % 1000) as i32 * 1_000_000 })
}

#[test]
fn every_setting_is_in_the_check_and_what_is_absent_is_the_default() {
    let set = cluster(
        "http",
        "type: HTTP, http: {path: /healthz, method: HEAD, host: a.b, expectedStatuses: [{from: 200, to: 299}, {from: 404}]},
         interval: 2s, jitterPercent: 0, timeout: 300ms, healthyThreshold: 4, unhealthyThreshold: 5, port: 8081, panicThreshold: 0",
    );
    let http = HttpHealthCheck {
        host: "a.b".into(),
        path: "/healthz".into(),
        method: RequestMethod::Head as i32,
        expected_statuses: vec![Int64Range { start: 200, end: 300 }, Int64Range { start: 404, end: 405 }],
        ..HttpHealthCheck::default()
    };
    let expected = HealthCheck {
        timeout: millis(300),
        interval: millis(2000),
        no_traffic_interval: millis(2000),
        healthy_threshold: number(4),
        unhealthy_threshold: number(5),
        alt_port: number(8081),
        health_checker: Some(HealthChecker::HttpHealthCheck(http)),
        ..HealthCheck::default()
    };
    assert_eq!(set.health_checks, [expected]);
    let common = set.common_lb_config.unwrap();
    assert_eq!(common.healthy_panic_threshold, Some(Percent { value: 0.0 }));
    assert!(common.ignore_new_hosts_until_first_hc);
    let default = cluster("http", "type: HTTP, http: {path: /}");
    let http = HttpHealthCheck {
        host: "cart.shop.svc.cluster.local".into(),
        path: "/".into(),
        method: RequestMethod::Get as i32,
        ..HttpHealthCheck::default()
    };
    let expected = HealthCheck {
        timeout: millis(1000),
        interval: millis(5000),
        no_traffic_interval: millis(5000),
        interval_jitter_percent: 10,
        healthy_threshold: number(2),
        unhealthy_threshold: number(3),
        health_checker: Some(HealthChecker::HttpHealthCheck(http)),
        ..HealthCheck::default()
    };
    assert_eq!(default.health_checks, [expected]);
    let threshold = default.common_lb_config.unwrap().healthy_panic_threshold;
    assert_eq!(threshold, Some(Percent { value: 50.0 }));
}

#[test]
fn bytes_and_services_are_those_of_the_policy() {
    let checker = |protocol, check| {
        let [check] = <[_; 1]>::try_from(cluster(protocol, check).health_checks).unwrap();
        check.health_checker.unwrap()
    };
    let text = |hex: &str| Payload { payload: Some(Bytes::Text(hex.into())) };
    let tcp =
        TcpHealthCheck { send: Some(text("50494e47")), receive: vec![text("0a")], ..Default::default() };
    let of_tcp = checker("tcp", "type: TCP, tcp: {send: {text: PING}, receive: [{hex: 0A}]}");
    assert_eq!(of_tcp, HealthChecker::TcpHealthCheck(tcp));
    assert_eq!(checker("", "type: TCP"), HealthChecker::TcpHealthCheck(TcpHealthCheck::default()));
    let HealthChecker::GrpcHealthCheck(grpc) = checker("grpc", "type: GRPC, grpc: {service: a.B}") else {
        panic!()
    };
    assert_eq!((&*grpc.service_name, &*grpc.authority), ("a.B", "cart.shop.svc.cluster.local"));
    let HealthChecker::HttpHealthCheck(http) = checker("kubernetes.io/h2c", "type: HTTP, http: {path: /}")
    else {
        panic!()
    };
    assert_eq!(http.codec_client_type, CodecClientType::Http2 as i32);
}

#[test]
fn a_port_is_not_checked_in_another_protocol_than_its_own() {
    let is_checked = |protocol, check| !cluster(protocol, check).health_checks.is_empty();
    let (http, tcp, grpc) = ("type: HTTP, http: {path: /}", "type: TCP", "type: GRPC");
    for (protocol, expected) in [
        ("http", [true, false, false]),
        ("kubernetes.io/h2c", [true, false, true]),
        ("grpc", [true, false, true]),
        ("tcp", [false, true, false]),
        ("", [true, true, true]),
    ] {
        assert_eq!([http, tcp, grpc].map(|check| is_checked(protocol, check)), expected, "{protocol}");
    }
    assert!(is_checked("http", "type: TCP, port: 81"), "another port");
    let [check] = <[_; 1]>::try_from(cluster("grpc", &format!("{http}, port: 81")).health_checks).unwrap();
    let Some(HealthChecker::HttpHealthCheck(http1)) = check.health_checker else { panic!() };
    assert_eq!(http1.codec_client_type, CodecClientType::Http1 as i32, "another port may have HTTP/1.1");
    assert_eq!(cluster("http", tcp), cluster("http", grpc), "nothing of it");
}

#[test]
fn slow_start_is_a_setting_of_the_balancer() {
    let configs = |balancer: &str| {
        let spec =
            format!("{balancer} slowStart: {{window: 30s, minWeightPercent: 5, aggressionPercent: 150}}");
        let list = super::cluster(&[&policy(&spec)]).load_balancing_policy.unwrap().policies;
        let config = |of: outrigger_proto::xds::cluster::load_balancing_policy::Policy| {
            of.typed_extension_config.unwrap().typed_config.unwrap().value
        };
        list.into_iter().map(config).collect::<Vec<_>>()
    };
    let config = |kind: &str| configs(&format!("loadBalancer: {{type: {kind}}},")).remove(0);
    let round_robin = RoundRobin::decode(&config("RoundRobin")[..]).unwrap().slow_start_config.unwrap();
    assert_eq!(round_robin.slow_start_window, millis(30_000));
    assert_eq!(round_robin.min_weight_percent, Some(Percent { value: 5.0 }));
    assert_eq!(round_robin.aggression.as_ref().unwrap().default_value, 1.5);
    let least_request = LeastRequest::decode(&config("LeastRequest")[..]).unwrap().slow_start_config.unwrap();
    assert_eq!(least_request, round_robin);
    for balancer in ["", "loadBalancer: {type: PeakEWMA},"] {
        let [own, others] = <[_; 2]>::try_from(configs(balancer)).unwrap();
        let own = PeakEwma::decode(&own[..]).unwrap().slow_start_config.unwrap();
        let others = LeastRequest::decode(&others[..]).unwrap().slow_start_config.unwrap();
        assert_eq!((&own, &others), (&round_robin, &round_robin), "{balancer:?}");
    }
}
