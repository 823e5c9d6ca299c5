//! Active health checks of the endpoints of a service port (`envoy.config.core.v3.HealthCheck`).

use outrigger_proto::xds::cluster::Cluster;
use outrigger_proto::xds::core::health_check::payload::Payload as Bytes;
use outrigger_proto::xds::core::health_check::{
    GrpcHealthCheck, HealthChecker, HttpHealthCheck, Payload, TcpHealthCheck,
};
use outrigger_proto::xds::core::{HealthCheck as Wire, RequestMethod};
use outrigger_proto::xds::types::{CodecClientType, Int64Range, Percent};

use super::defaults;
use super::scope::Dialect;
use super::wire::{duration, uint};
use crate::model::health_check::{Checker, HealthCheck};
use crate::model::service::AppProtocol;

/// Adds the checks to a cluster of endpoints of `host` that speak `protocol`. Without effect if they cannot be checked so.
pub(super) fn apply(
    cluster: &mut Cluster,
    check: &HealthCheck,
    protocol: AppProtocol,
    host: &str,
    dialect: Dialect,
) {
    let HealthCheck {
        checker,
        interval,
        jitter_percent,
        timeout,
        healthy_threshold,
        unhealthy_threshold,
        port,
        panic_threshold,
    } = check;
    // Envoy refuses a cluster of another protocol than HTTP/2 with a check by gRPC.
    let refused = dialect == Dialect::Envoy
        && matches!(checker, Checker::Grpc { .. })
        && matches!(protocol, AppProtocol::Http | AppProtocol::Tcp);
    // Another port of the endpoint has a protocol of its own.
    if refused || port.is_none() && !checker.suits(protocol) {
        return;
    }
    let http2 = port.is_none() && matches!(protocol, AppProtocol::H2c | AppProtocol::Grpc);
    let interval = duration(interval.unwrap_or(defaults::CHECK_INTERVAL));
    cluster.health_checks = vec![Wire {
        timeout: duration(timeout.unwrap_or(defaults::CHECK_TIMEOUT)),
        interval,
        // Whether there were requests already does not change what the policy says.
        no_traffic_interval: interval,
        interval_jitter_percent: jitter_percent.unwrap_or(defaults::CHECK_JITTER_PERCENT),
        unhealthy_threshold: uint(unhealthy_threshold.unwrap_or(defaults::UNHEALTHY_THRESHOLD)),
        healthy_threshold: uint(healthy_threshold.unwrap_or(defaults::HEALTHY_THRESHOLD)),
        alt_port: port.and_then(|port| uint(port.into())),
        health_checker: Some(checker_of(checker, http2, host)),
        ..Wire::default()
    }];
    let common = cluster.common_lb_config.get_or_insert_default();
    let threshold = panic_threshold.unwrap_or(defaults::PANIC_THRESHOLD);
    common.healthy_panic_threshold = Some(Percent { value: f64::from(threshold) });
    // Endpoints that come together are no reason for a panic.
    common.ignore_new_hosts_until_first_hc = true;
}

fn checker_of(checker: &Checker, http2: bool, host_of_service: &str) -> HealthChecker {
    match checker {
        Checker::Http { method, path, host, statuses } => {
            let codec = if http2 { CodecClientType::Http2 } else { CodecClientType::Http1 };
            let range = |(first, last): &(u16, u16)| Int64Range {
                start: i64::from(*first),
                end: i64::from(*last) + 1,
            };
            HealthChecker::HttpHealthCheck(HttpHealthCheck {
                host: host.as_deref().unwrap_or(host_of_service).into(),
                path: path.to_string(),
                method: RequestMethod::from_str_name(method.as_str()).unwrap_or_default() as i32,
                expected_statuses: statuses.iter().map(range).collect(),
                codec_client_type: codec as i32,
                ..HttpHealthCheck::default()
            })
        }
        Checker::Tcp { send, receive } => {
            // Envoy's text is hexadecimal.
            let hex = |bytes: &Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let payload = |bytes| Payload { payload: Some(Bytes::Text(hex(bytes))) };
            HealthChecker::TcpHealthCheck(TcpHealthCheck {
                send: send.as_ref().map(payload),
                receive: receive.iter().map(payload).collect(),
                ..TcpHealthCheck::default()
            })
        }
        Checker::Grpc { service } => HealthChecker::GrpcHealthCheck(GrpcHealthCheck {
            service_name: service.as_deref().unwrap_or_default().into(),
            authority: host_of_service.into(),
            ..GrpcHealthCheck::default()
        }),
    }
}
