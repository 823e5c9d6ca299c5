//! Active health checks of clusters.

use outrigger_proto::xds::protobuf::{Any, BoolValue};
use outrigger_proto::xds::{cluster, core, types};

use super::clusters::in_cluster;
use super::place::Place;
use crate::fixture::*;

use core::health_check::payload::Payload as Bytes;
use core::health_check::{GrpcHealthCheck, HealthChecker, HttpHealthCheck, Payload, TcpHealthCheck};

const LOGGED: &str = "every change is in the log of the proxy";

pub fn check() -> core::HealthCheck {
    of(HealthChecker::HttpHealthCheck(http()))
}

fn of(checker: HealthChecker) -> core::HealthCheck {
    core::HealthCheck {
        timeout: seconds(1),
        interval: seconds(9),
        unhealthy_threshold: number(3),
        healthy_threshold: number(2),
        health_checker: Some(checker),
        ..Default::default()
    }
}

fn http() -> HttpHealthCheck {
    HttpHealthCheck { path: "/healthz".into(), ..Default::default() }
}

fn tcp() -> TcpHealthCheck {
    TcpHealthCheck { send: Some(payload("50")), ..Default::default() }
}

fn payload(text: &str) -> Payload {
    Payload { payload: Some(Bytes::Text(text.into())) }
}

fn statuses() -> types::Int64Range {
    types::Int64Range { start: 200, end: 300 }
}

fn added() -> core::HeaderValueOption {
    let header = Some(core::HeaderValue { key: "a".into(), value: "b".into(), ..Default::default() });
    core::HeaderValueOption { header, ..Default::default() }
}

fn in_checks(of: core::HealthCheck) -> (String, Any) {
    in_cluster(cluster::Cluster { health_checks: vec![of], ..cart_cluster() })
}

pub fn places() -> Vec<Place> {
    let checker = |checker| in_checks(of(checker));
    vec![
        Place::new("HealthCheck", "envoy.config.core.v3.HealthCheck", check(), in_checks)
            .probe("reuse_connection", |of: &mut core::HealthCheck| {
                of.reuse_connection = Some(BoolValue { value: false });
            })
            .probe("tcp_health_check", |of: &mut core::HealthCheck| {
                of.health_checker = Some(HealthChecker::TcpHealthCheck(TcpHealthCheck::default()));
            })
            .probe("grpc_health_check", |of: &mut core::HealthCheck| {
                of.health_checker = Some(HealthChecker::GrpcHealthCheck(GrpcHealthCheck::default()));
            })
            .harmless(LOGGED, &["event_log_path", "event_logger", "event_service"])
            .harmless(LOGGED, &["always_log_health_check_failures", "always_log_health_check_success"]),
        Place::new(
            "HealthCheck.HttpHealthCheck",
            "envoy.config.core.v3.HealthCheck.HttpHealthCheck",
            http(),
            move |of| checker(HealthChecker::HttpHealthCheck(of)),
        )
        .probe("path", |of: &mut HttpHealthCheck| of.path = "/other".into())
        .probe("request_headers_to_add", |of: &mut HttpHealthCheck| of.request_headers_to_add = vec![added()])
        .probe("expected_statuses", |of: &mut HttpHealthCheck| of.expected_statuses = vec![statuses()])
        .probe("retriable_statuses", |of: &mut HttpHealthCheck| of.retriable_statuses = vec![statuses()])
        .probe("codec_client_type", |of: &mut HttpHealthCheck| {
            of.codec_client_type = types::CodecClientType::Http2.into();
        })
        .probe("method", |of: &mut HttpHealthCheck| of.method = core::RequestMethod::Head.into())
        .harmless("goes with `receive`", &["response_buffer_size"]),
        Place::new(
            "HealthCheck.TcpHealthCheck",
            "envoy.config.core.v3.HealthCheck.TcpHealthCheck",
            tcp(),
            move |of| checker(HealthChecker::TcpHealthCheck(of)),
        )
        .probe("receive", |of: &mut TcpHealthCheck| of.receive = vec![payload("51")]),
        Place::new(
            "HealthCheck.Payload",
            "envoy.config.core.v3.HealthCheck.Payload",
            payload("50"),
            move |of| checker(HealthChecker::TcpHealthCheck(TcpHealthCheck { send: Some(of), ..tcp() })),
        )
        .probe("text", |of: &mut Payload| *of = payload("51")),
        Place::new(
            "HealthCheck.GrpcHealthCheck",
            "envoy.config.core.v3.HealthCheck.GrpcHealthCheck",
            GrpcHealthCheck::default(),
            move |of| checker(HealthChecker::GrpcHealthCheck(of)),
        )
        .probe("initial_metadata", |of: &mut GrpcHealthCheck| of.initial_metadata = vec![added()]),
    ]
}
