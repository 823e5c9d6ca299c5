//! The families without requests: name, help and values.
//!
//! Counters are destructured, so that a new one does not compile until it is exported or skipped.

use std::collections::BTreeMap;

use outrigger_core::Name;
use outrigger_core::identity::SpiffeId;
use outrigger_core::metrics::text::unix_seconds;
use outrigger_core::metrics::{Family, Labels, labels, single};
use outrigger_dataplane::metrics::{ClusterTotals, DenialLabels, OTHER, ProcessTotals, WithoutMtls};

use super::{Mesh, XdsType};
use crate::telemetry::losses::Counts;

/// Connections and requests of clients.
pub(super) fn downstream(totals: &ProcessTotals) -> [Family; 10] {
    let ProcessTotals {
        in_flight,
        // In flight are the requests that have begun and not ended; finished ones are in `outrigger_requests_total`.
        begun: _,
        downstream_connections,
        downstream_connections_total,
        downstream_tls_ok,
        downstream_tls_failed,
        downstream_connections_refused,
        accept_errors,
        bodies_beyond_limit,
        bodies_beyond_worker,
        log_records_dropped: _,
        otlp_log_records_dropped: _,
        span_records_dropped: _,
        mirrored,
        mirrors_failed,
        mirrors_dropped,
        filters_failed_open,
        key_sets_fetched,
        key_set_fetches_failed,
    } = *totals;
    [
        gauge("outrigger_requests_in_flight", "Requests and TCP connections being served", in_flight),
        gauge(
            "outrigger_downstream_connections",
            "Accepted connections that are open",
            downstream_connections,
        ),
        counter(
            "outrigger_downstream_connections_accepted_total",
            "Accepted connections",
            downstream_connections_total,
        ),
        counter(
            "outrigger_downstream_connections_refused_total",
            "Connections refused because a limit was reached",
            downstream_connections_refused,
        ),
        counters(
            "outrigger_request_bodies_not_kept_total",
            "Request bodies that were too long to be kept for another attempt",
            "bound",
            [("request", bodies_beyond_limit), ("worker", bodies_beyond_worker)],
        ),
        counter("outrigger_accept_errors_total", "Calls of accept that failed", accept_errors),
        counters(
            "outrigger_downstream_tls_handshakes_total",
            "TLS handshakes with clients",
            "outcome",
            [("ok", downstream_tls_ok), ("failed", downstream_tls_failed)],
        ),
        counters(
            "outrigger_mirrored_requests_total",
            "Mirrored requests",
            "outcome",
            [("sent", mirrored), ("failed", mirrors_failed), ("dropped", mirrors_dropped)],
        ),
        counter(
            "outrigger_filters_failed_open_total",
            "Requests that passed a filter unchecked because the service that it asks failed",
            filters_failed_open,
        ),
        counters(
            "outrigger_key_set_fetches_total",
            "Fetches of the keys of tokens",
            "outcome",
            [("ok", key_sets_fetched), ("failed", key_set_fetches_failed)],
        ),
    ]
}

/// Connections of clients without mTLS, by client and port.
pub(super) fn without_mtls(counts: &BTreeMap<WithoutMtls, u64>) -> Family {
    let series = counts.iter().map(|(WithoutMtls { client, permitted }, count)| {
        let outcome = if *permitted { "permitted" } else { "refused" };
        let labels = match client {
            Some((address, port)) => labels([
                ("client_address", &*address.to_string()),
                ("port", &*port.to_string()),
                ("outcome", outcome),
            ]),
            None => labels([("client_address", OTHER), ("outcome", outcome)]),
        };
        (labels, *count as f64)
    });
    Family::counter(
        "outrigger_downstream_connections_without_mtls_total",
        "Connections without mTLS to ports of the workload",
        series,
    )
}

/// Refusals of authorization policies, by policy, caller and route.
pub(super) fn denials(counts: &BTreeMap<DenialLabels, u64>) -> Family {
    let series = counts.iter().map(|(of, count)| {
        let labels = labels([
            ("direction", of.direction.as_str()),
            ("mode", if of.enforced { "enforced" } else { "audit" }),
            ("policy", &of.policy),
            ("source", of.source.as_ref().map_or("", SpiffeId::as_str)),
            ("destination", of.destination.as_deref().unwrap_or_default()),
            ("route", of.route.as_deref().unwrap_or_default()),
        ]);
        (labels, *count as f64)
    });
    Family::counter(
        "outrigger_authorization_denials_total",
        "Requests and connections that an authorization policy refused, or would have refused",
        series,
    )
}

/// Attempts and connections, by cluster.
pub(super) fn upstream(
    clusters: &BTreeMap<Name, ClusterTotals>,
    ejections: &BTreeMap<(Name, &'static str), u64>,
) -> Vec<Family> {
    // Destructured, so that a new counter is exported or skipped explicitly.
    let _ = |totals: &ClusterTotals| {
        let ClusterTotals {
            attempts: _,
            retries: _,
            hedges: _,
            hedges_won: _,
            budget_exhausted: _,
            overflow: _,
            overload_waits: _,
            overload_refused: _,
            connections_open: _,
            connections_active: _,
            connections_idle: _,
            pending: _,
            connections_total: _,
            connect_failed: _,
            tls_ok: _,
            tls_failed: _,
            checks_passed: _,
            checks_failed: _,
            failing_checks: _,
            panics: _,
            sessions_new: _,
            sessions_kept: _,
            sessions_moved: _,
        } = totals;
    };
    let by_cluster = |value: fn(&ClusterTotals) -> u64| -> Vec<(Labels, f64)> {
        clusters.iter().map(|(name, totals)| (labels([("cluster", name)]), value(totals) as f64)).collect()
    };
    let counter = |name, help, value| Family::counter(name, help, by_cluster(value));
    let gauge = |name, help, value| Family::gauge(name, help, by_cluster(value));
    let ejections = ejections
        .iter()
        .map(|((cluster, kind), count)| (labels([("cluster", cluster), ("kind", kind)]), *count as f64));
    // Other clusters have no series of checks.
    let checked = || clusters.iter().filter(|(_, of)| of.checks_passed + of.checks_failed > 0);
    let of_checked = |value: fn(&ClusterTotals) -> u64| -> Vec<(Labels, f64)> {
        checked().map(|(name, totals)| (labels([("cluster", name)]), value(totals) as f64)).collect()
    };
    let checks = checked().flat_map(|(name, of)| {
        let outcomes = [("passed", of.checks_passed), ("failed", of.checks_failed)];
        outcomes.map(|(outcome, count)| (labels([("cluster", &**name), ("outcome", outcome)]), count as f64))
    });
    vec![
        sessions(clusters),
        counter("outrigger_upstream_attempts_total", "Attempts begun", |of| of.attempts),
        counter("outrigger_upstream_retries_total", "Attempts after the first", |of| of.retries),
        counter(
            "outrigger_upstream_hedges_total",
            "Attempts begun while another attempt of the request was in flight",
            |of| of.hedges,
        ),
        counter(
            "outrigger_upstream_hedges_won_total",
            "Hedging attempts whose response was the first",
            |of| of.hedges_won,
        ),
        counter(
            "outrigger_upstream_retry_budget_exhausted_total",
            "Safe retries that the retry budget did not permit",
            |of| of.budget_exhausted,
        ),
        counter("outrigger_upstream_overflow_total", "Requests refused because a bound was reached", |of| {
            of.overflow
        }),
        counter(
            "outrigger_upstream_overload_waits_total",
            "Requests that had to wait for an overloaded application",
            |of| of.overload_waits,
        ),
        counter(
            "outrigger_upstream_overload_refused_total",
            "Requests refused because the application is overloaded",
            |of| of.overload_refused,
        ),
        Family::counter("outrigger_upstream_ejections_total", "Endpoints ejected", ejections),
        Family::counter("outrigger_upstream_health_checks_total", "Active health checks", checks),
        Family::gauge(
            "outrigger_upstream_endpoints_failing_checks",
            "Endpoints that fail active health checks",
            of_checked(|of| of.failing_checks),
        ),
        Family::counter(
            "outrigger_upstream_panics_total",
            "Picks among all endpoints because too few passed their health checks",
            of_checked(|of| of.panics),
        ),
        counter("outrigger_upstream_connections_opened_total", "Connections established", |of| {
            of.connections_total
        }),
        counter("outrigger_upstream_connect_failures_total", "Connection attempts that failed", |of| {
            of.connect_failed
        }),
        counter(
            "outrigger_upstream_tls_handshakes_total",
            "TLS handshakes with endpoints that succeeded",
            |of| of.tls_ok,
        ),
        counter("outrigger_upstream_tls_failures_total", "TLS handshakes with endpoints that failed", |of| {
            of.tls_failed
        }),
        gauge(
            "outrigger_upstream_connections_open",
            "Connections that are open or being established",
            |of| of.connections_open,
        ),
        gauge(
            "outrigger_upstream_connections_active",
            "Connections that carry at least one request, or opaque bytes",
            |of| of.connections_active,
        ),
        gauge("outrigger_upstream_connections_idle", "Open connections that carry no request", |of| {
            of.connections_idle
        }),
        gauge(
            "outrigger_upstream_requests_pending",
            "Requests that wait for a connection or for a stream of one",
            |of| of.pending,
        ),
    ]
}

/// Sessions, of clusters that have had any.
fn sessions(clusters: &BTreeMap<Name, ClusterTotals>) -> Family {
    let series = clusters.iter().flat_map(|(name, of)| {
        let outcomes = [("new", of.sessions_new), ("kept", of.sessions_kept), ("moved", of.sessions_moved)];
        let any = outcomes.iter().any(|(_, count)| *count > 0);
        let series = outcomes
            .map(|(outcome, count)| (labels([("cluster", &**name), ("outcome", outcome)]), count as f64));
        any.then_some(series).into_iter().flatten()
    });
    Family::counter(
        "outrigger_upstream_sessions_total",
        "Responses to requests with session persistence",
        series,
    )
}

/// Telemetry that was delivered and lost.
pub(super) fn telemetry(totals: &ProcessTotals, counts: Counts) -> [Family; 8] {
    let Counts {
        own_lines_lost,
        log_lines_written,
        log_lines_lost,
        spans_exported,
        spans_lost,
        log_records_exported,
        log_records_lost,
        metric_exports,
        metric_exports_failed,
    } = counts;
    [
        counter(
            "outrigger_log_dropped_total",
            "Lines of the proxy's own log that were not written",
            own_lines_lost,
        ),
        counter("outrigger_access_log_lines_total", "Access log lines written", log_lines_written),
        counters(
            "outrigger_access_log_dropped_total",
            "Access log lines that were not written",
            "cause",
            [("queue_full", totals.log_records_dropped), ("write_failed", log_lines_lost)],
        ),
        counter(
            "outrigger_log_records_exported_total",
            "Access log records that the collector accepted",
            log_records_exported,
        ),
        counters(
            "outrigger_log_records_dropped_total",
            "Access log records that were not exported",
            "cause",
            [("queue_full", totals.otlp_log_records_dropped), ("export_failed", log_records_lost)],
        ),
        counter("outrigger_spans_exported_total", "Spans that the collector accepted", spans_exported),
        counters(
            "outrigger_spans_dropped_total",
            "Spans that were not exported; queue_full counts requests, each with all its spans",
            "cause",
            [("queue_full", totals.span_records_dropped), ("export_failed", spans_lost)],
        ),
        counters(
            "outrigger_metric_exports_total",
            "Exports of all metrics by OTLP",
            "outcome",
            [("ok", metric_exports), ("failed", metric_exports_failed)],
        ),
    ]
}

/// Queries of the DNS answerer.
pub(super) fn queries<const N: usize>(counts: [(&str, u64); N]) -> Family {
    counters("outrigger_dns_queries_total", "Queries to the DNS answerer", "result", counts)
}

/// Readiness, configuration, certificate, version.
pub(super) fn mesh(mesh: &Mesh) -> Vec<Family> {
    let Mesh { ready, connected, xds, last_update, certificate } = mesh;
    let by_type = |value: fn(&XdsType) -> u64| -> Vec<(Labels, f64)> {
        xds.iter().map(|of| (labels([("type", of.kind)]), value(of) as f64)).collect()
    };
    let time = |time| single(unix_seconds(time));
    let certificate = certificate.iter();
    vec![
        gauge("outrigger_ready", "Whether the proxy is ready", u64::from(*ready)),
        gauge(
            "outrigger_xds_connected",
            "Whether a stream to the control plane is open",
            u64::from(*connected),
        ),
        Family::gauge("outrigger_xds_resources", "Resources held", by_type(|of| of.resources)),
        Family::counter("outrigger_xds_acks_total", "Responses acknowledged", by_type(|of| of.acknowledged)),
        Family::counter(
            "outrigger_xds_nacks_total",
            "Responses with a refused resource",
            by_type(|of| of.refused),
        ),
        Family::gauge(
            "outrigger_xds_last_update_timestamp_seconds",
            "Time at which configuration was last published to the workers, as a Unix timestamp",
            last_update.iter().flat_map(|at| time(*at)),
        ),
        Family::gauge(
            "outrigger_certificate_not_before_timestamp_seconds",
            "Start of the validity of the workload's certificate, as a Unix timestamp",
            certificate.clone().flat_map(|of| time(of.start)),
        ),
        Family::gauge(
            "outrigger_certificate_expiration_timestamp_seconds",
            "End of the validity of the workload's certificate, as a Unix timestamp",
            certificate.flat_map(|of| time(of.end)),
        ),
        Family::gauge(
            "outrigger_build_info",
            "Version of the proxy",
            [(labels([("version", env!("CARGO_PKG_VERSION"))]), 1.0)],
        ),
    ]
}

fn counter(name: &'static str, help: &'static str, value: u64) -> Family {
    Family::counter(name, help, single(value as f64))
}

fn gauge(name: &'static str, help: &'static str, value: u64) -> Family {
    Family::gauge(name, help, single(value as f64))
}

fn counters<const N: usize>(
    name: &'static str,
    help: &'static str,
    label: &'static str,
    values: [(&str, u64); N],
) -> Family {
    Family::counter(name, help, values.map(|(value, count)| (labels([(label, value)]), count as f64)))
}
