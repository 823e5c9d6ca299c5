//! The families of finished requests, and their labels.
//!
//! A label without a value is left out, so series of the data path that differ in what no label shows are one here. Inbound, the source is the verified client and the destination this workload;
//! outbound, the source is this workload and the destination the endpoint of the last attempt. A gateway is neither.

use std::collections::BTreeMap;

use outrigger_core::identity::SpiffeId;
use outrigger_core::inbound_name::INBOUND_PREFIX;
use outrigger_core::metrics::{Family, Labels, labels};
use outrigger_core::record::Direction;
use outrigger_dataplane::metrics::{RequestLabels, RequestTotals, ResponseLabels};

/// Returns the families. `local` is this workload.
pub(super) fn families(
    local: Option<&SpiffeId>,
    responses: &BTreeMap<ResponseLabels, u64>,
    requests: &BTreeMap<RequestLabels, RequestTotals>,
) -> [Family; 4] {
    let mut counts: BTreeMap<Labels, f64> = BTreeMap::new();
    for (labels, count) in responses {
        *counts.entry(of_response(labels, local)).or_default() += *count as f64;
    }
    let mut durations: BTreeMap<Labels, RequestTotals> = BTreeMap::new();
    let mut bytes: BTreeMap<Labels, (u64, u64)> = BTreeMap::new();
    for (labels, totals) in requests {
        durations.entry(of_request(labels, local)).or_default().merge(totals);
        let (received, sent) = bytes.entry(of_bytes(labels, local)).or_default();
        *received += totals.bytes_received;
        *sent += totals.bytes_sent;
    }
    let durations = durations.into_iter().map(|(labels, totals)| (labels, totals.durations()));
    let received = bytes.iter().map(|(labels, (received, _))| (labels.clone(), *received as f64));
    let sent = bytes.iter().map(|(labels, (_, sent))| (labels.clone(), *sent as f64));
    [
        Family::counter("outrigger_requests_total", "Finished requests and TCP connections", counts),
        Family::histogram(
            "outrigger_request_duration_seconds",
            "From the first byte of a request to the last byte in either direction",
            durations,
        ),
        Family::counter("outrigger_request_bytes_total", "Body bytes read from clients", received),
        Family::counter("outrigger_response_bytes_total", "Body bytes sent to clients", sent),
    ]
}

fn of_response(of: &ResponseLabels, local: Option<&SpiffeId>) -> Labels {
    let ResponseLabels { request, client_mutual_tls, upstream_mutual_tls, peer, status, grpc_status, reason } =
        of;
    let source = source(request, local);
    let (destination, mtls) = match request.direction {
        Direction::Inbound => (local, Some(*client_mutual_tls)),
        Direction::Outbound => (peer.as_ref(), *upstream_mutual_tls),
        Direction::Unspecified => (peer.as_ref(), Some(*client_mutual_tls)),
    };
    let named = request.destination.as_deref().unwrap_or_default();
    let status = if *status == 0 { String::new() } else { status.to_string() };
    labels([
        ("direction", request.direction.as_str()),
        ("source", source.map_or("", SpiffeId::as_str)),
        ("source_namespace", source.map_or("", SpiffeId::namespace)),
        ("source_account", source.map_or("", SpiffeId::service_account)),
        ("destination", named),
        ("destination_namespace", namespace(named)),
        ("destination_account", destination.map_or("", SpiffeId::service_account)),
        ("backend", backend(request)),
        ("route", request.route.as_deref().unwrap_or_default()),
        ("protocol", request.protocol.as_str()),
        ("status", &status),
        ("status_class", class(request)),
        ("grpc_status", &grpc_status.map(|code| code.to_string()).unwrap_or_default()),
        ("flag", reason.map_or("", |reason| reason.flag())),
        ("mtls", mtls.map_or("", |mtls| if mtls { "true" } else { "false" })),
    ])
}

fn of_request(of: &RequestLabels, local: Option<&SpiffeId>) -> Labels {
    let mut labels = of_bytes(of, local);
    labels.extend(self::labels([
        ("route", of.route.as_deref().unwrap_or_default()),
        ("protocol", of.protocol.as_str()),
        ("status_class", class(of)),
    ]));
    labels
}

fn of_bytes(of: &RequestLabels, local: Option<&SpiffeId>) -> Labels {
    let source = source(of, local);
    labels([
        ("direction", of.direction.as_str()),
        ("source_namespace", source.map_or("", SpiffeId::namespace)),
        ("source_account", source.map_or("", SpiffeId::service_account)),
        ("destination", of.destination.as_deref().unwrap_or_default()),
        ("backend", backend(of)),
    ])
}

fn source<'a>(of: &'a RequestLabels, local: Option<&'a SpiffeId>) -> Option<&'a SpiffeId> {
    match of.direction {
        Direction::Inbound | Direction::Unspecified => of.source.as_ref(),
        Direction::Outbound => of.source.as_ref().or(local),
    }
}

/// Returns the Service that the route chose, if it is another one than the destination. An inbound cluster is the application
/// itself.
fn backend(of: &RequestLabels) -> &str {
    let other = of.backend.as_ref().filter(|name| of.destination.as_ref() != Some(*name));
    other.filter(|name| !name.starts_with(INBOUND_PREFIX)).map_or("", |name| name)
}

/// Returns the namespace in `NAME.NAMESPACE.svc.DOMAIN:PORT`, and an empty text for other names.
fn namespace(canonical: &str) -> &str {
    let mut labels = canonical.splitn(4, '.').skip(1);
    match (labels.next(), labels.next()) {
        (Some(namespace), Some("svc")) => namespace,
        _ => "",
    }
}

fn class(of: &RequestLabels) -> &'static str {
    match of.class {
        Some(1) => "1xx",
        Some(2) => "2xx",
        Some(3) => "3xx",
        Some(4) => "4xx",
        Some(5) => "5xx",
        _ => "",
    }
}
