use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, UNIX_EPOCH};

use outrigger_core::identity::SpiffeId;
use outrigger_core::metrics::Points;
use outrigger_core::metrics::text::{Format, encode};
use outrigger_core::reason::Reason;
use outrigger_core::record::{Authorization, Direction, Protocol, RequestRecord, TlsSession, Upstream};
use outrigger_dataplane::ApplicationLoad;
use outrigger_dataplane::metrics::ResponseLabels;

use super::*;
use crate::telemetry::access_log::entry::tests::record;
use crate::telemetry::signal::Signal;

fn workload(namespace: &str, account: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")).unwrap()
}

/// The sources of a sidecar of `web` with `workers` workers, each of which served `records`.
pub(super) fn sources(workers: usize, records: &[RequestRecord]) -> Sources {
    let registry = Registry::new();
    for _ in 0..workers {
        let worker = registry.worker();
        for record in records {
            let RequestRecord { duration, bytes_received, bytes_sent, .. } = *record;
            worker.responses(&ResponseLabels::of(record)).finished(
                duration,
                bytes_received,
                bytes_sent,
                None,
            );
            worker.denied(record);
            if let Some(upstream) = &record.upstream {
                worker.cluster(&upstream.cluster).attempts.increment();
            }
        }
        worker.process.span_records_dropped.increment();
        worker.ejected(&"cart.shop.svc.cluster.local:80".into(), "silence");
        worker.without_mtls([10, 0, 0, 7].into(), 8080, true);
    }
    let losses = Arc::new(Losses::default());
    losses.exported(Signal::Traces, 0, 7);
    losses.exported(Signal::Metrics, 5, 1);
    let mesh = Mesh {
        ready: true,
        connected: false,
        xds: vec![XdsType { kind: "cds", resources: 5, acknowledged: 2, refused: 1 }],
        last_update: Some(UNIX_EPOCH + Duration::from_secs(30)),
        certificate: Some(UNIX_EPOCH..UNIX_EPOCH + Duration::from_secs(60)),
    };
    Sources {
        workers: registry,
        clusters: SharedClusters::new(),
        losses,
        identity: LocalIdentity::new(|| Some(workload("shop", "web"))),
        mesh: MeshGauges(Arc::new(move || mesh.clone())),
        queries: Some(Default::default()),
    }
}

const MUTUAL: TlsSession = TlsSession { version: 0x0304, cipher: 0x1302, mutual: true };

fn plaintext(cluster: &str) -> Option<Upstream> {
    Some(Upstream { cluster: cluster.into(), connected: true, peer: None, tls: None })
}

fn upstream(cluster: &str, account: &str) -> Option<Upstream> {
    let peer = Some(workload("shop", account));
    Some(Upstream { cluster: cluster.into(), connected: true, peer, tls: Some(MUTUAL) })
}

/// A request from `web` to `cart`, a third of which goes to `cart-v2`.
fn to_cart() -> RequestRecord {
    RequestRecord {
        direction: Direction::Outbound,
        protocol: Protocol::Http11,
        duration: Duration::from_millis(3),
        status: 200,
        grpc_status: None,
        reason: None,
        source: None,
        destination: Some("cart.shop.svc.cluster.local:80".into()),
        route: Some("httproute/shop/cart/0/0".into()),
        bytes_received: 10,
        bytes_sent: 20,
        upstream: upstream("cart-v2.shop.svc.cluster.local:80", "cart"),
        ..record()
    }
}

/// A call that `web`'s application answered with UNAVAILABLE.
fn failed_call() -> RequestRecord {
    RequestRecord {
        direction: Direction::Inbound,
        protocol: Protocol::Grpc,
        grpc_status: Some(14),
        source: Some(workload("edge", "gateway")),
        destination: Some("web.shop.svc.cluster.local:80".into()),
        route: None,
        tls: Some(MUTUAL),
        upstream: plaintext("inbound|127.0.0.1:8080"),
        ..to_cart()
    }
}

/// A call that the policy `owner` would refuse.
fn audited() -> RequestRecord {
    let authorization = Authorization { denied_by: None, audit_denied_by: Some("owner".into()) };
    let route = Some("default".into());
    RequestRecord { authorization: Some(Box::new(authorization)), route, ..failed_call() }
}

fn scrape(sources: &Sources) -> String {
    encode(&sources.families(), Format::Prometheus)
}

fn assert_lines(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|found| found == *line), "no `{line}` in:\n{text}");
    }
}

#[test]
fn a_scrape_merges_the_workers() {
    let text = scrape(&sources(2, &[to_cart()]));
    assert_lines(
        &text,
        &[
            r#"outrigger_requests_total{direction="outbound",source="spiffe://cluster.local/ns/shop/sa/web",source_namespace="shop",source_account="web",destination="cart.shop.svc.cluster.local:80",destination_namespace="shop",destination_account="cart",backend="cart-v2.shop.svc.cluster.local:80",route="httproute/shop/cart/0/0",protocol="http/1.1",status="200",status_class="2xx",mtls="true"} 2"#,
            r#"outrigger_request_duration_seconds_bucket{direction="outbound",source_namespace="shop",source_account="web",destination="cart.shop.svc.cluster.local:80",backend="cart-v2.shop.svc.cluster.local:80",route="httproute/shop/cart/0/0",protocol="http/1.1",status_class="2xx",le="0.005"} 2"#,
            r#"outrigger_response_bytes_total{direction="outbound",source_namespace="shop",source_account="web",destination="cart.shop.svc.cluster.local:80",backend="cart-v2.shop.svc.cluster.local:80"} 40"#,
            r#"outrigger_upstream_attempts_total{cluster="cart-v2.shop.svc.cluster.local:80"} 2"#,
            r#"outrigger_spans_dropped_total{cause="queue_full"} 2"#,
            r#"outrigger_spans_dropped_total{cause="export_failed"} 7"#,
            r#"outrigger_xds_nacks_total{type="cds"} 1"#,
            "outrigger_xds_last_update_timestamp_seconds 30",
            "outrigger_certificate_expiration_timestamp_seconds 60",
            "outrigger_ready 1",
        ],
    );
}

#[test]
fn refusals_are_counted_by_policy_caller_and_route() {
    let text = scrape(&sources(2, &[audited(), to_cart()]));
    let line = r#"outrigger_authorization_denials_total{direction="inbound",mode="audit",policy="owner",source="spiffe://cluster.local/ns/edge/sa/gateway",destination="web.shop.svc.cluster.local:80",route="default"} 2"#;
    assert_lines(&text, &[line]);
}

#[test]
fn a_failed_call_is_one_although_its_http_status_is_200() {
    let text = scrape(&sources(1, &[failed_call()]));
    assert_lines(
        &text,
        &[
            r#"outrigger_requests_total{direction="inbound",source="spiffe://cluster.local/ns/edge/sa/gateway",source_namespace="edge",source_account="gateway",destination="web.shop.svc.cluster.local:80",destination_namespace="shop",destination_account="web",protocol="grpc",status="200",status_class="5xx",grpc_status="14",mtls="true"} 1"#,
            r#"outrigger_request_duration_seconds_count{direction="inbound",source_namespace="edge",source_account="gateway",destination="web.shop.svc.cluster.local:80",protocol="grpc",status_class="5xx"} 1"#,
        ],
    );
}

#[test]
fn a_request_that_reached_no_endpoint_has_no_mtls_label_and_a_plaintext_one_has() {
    let unconnected = plaintext("cart").map(|upstream| Upstream { connected: false, ..upstream });
    let reason = Some(Reason::UpstreamConnectionFailure);
    let text = scrape(&sources(
        1,
        &[
            RequestRecord { status: 503, reason, upstream: unconnected, ..to_cart() },
            RequestRecord { status: 404, upstream: plaintext("cart"), ..to_cart() },
        ],
    ));
    let counts: Vec<_> = text.lines().filter(|line| line.starts_with("outrigger_requests_total")).collect();
    assert!(counts[0].contains("status=\"404\"") && counts[0].contains("mtls=\"false\""), "{counts:?}");
    assert!(counts[1].contains("flag=\"UF\"") && !counts[1].contains("mtls"), "{counts:?}");
}

/// Every fourth destination answers some requests with 404, every fifth fails some and has a second backend; ten have an
/// HTTPRoute. Two clients call this workload by gRPC.
#[test]
fn a_scrape_of_a_sidecar_with_20_destinations_takes_at_most_200_kib() {
    let mut records = Vec::new();
    for number in 0..20 {
        let name = format!("checkout-{number:02}.shop.svc.cluster.local:8080");
        let to = |backend: &str, status| RequestRecord {
            destination: Some(name.as_str().into()),
            route: Some(
                if number < 10 {
                    format!("httproute/shop/checkout-{number:02}/0/0")
                } else {
                    "default".into()
                }
                .into(),
            ),
            upstream: upstream(backend, "checkout"),
            status,
            ..to_cart()
        };
        records.push(to(&name, 200));
        records.extend((number % 4 == 0).then(|| to(&name, 404)));
        if number % 5 == 0 {
            records.push(to(&name.replacen('.', "-v2.", 1), 200));
            records.push(to(&name, 500));
            let reason = Some(Reason::UpstreamRequestTimeout);
            records.push(RequestRecord { reason, ..to(&name, 504) });
        }
    }
    records.extend([failed_call(), RequestRecord { grpc_status: Some(0), ..failed_call() }, {
        RequestRecord { source: Some(workload("shop", "checkout")), grpc_status: Some(0), ..failed_call() }
    }]);
    let families = sources(2, &records).families();
    for format in [Format::Prometheus, Format::OpenMetrics] {
        let text = encode(&families, format);
        println!("{format:?}: {} bytes, {} lines", text.len(), text.lines().count());
        assert!(text.len() <= 200 * 1024, "{format:?}: {} bytes", text.len());
    }
}

#[test]
fn every_metric_is_documented_with_its_kind_and_labels_and_every_documented_metric_exists() {
    let page = include_str!("../../../../../docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let documented: BTreeSet<_> = rows
        // Tests of the control plane and of the rate limit service compare their own metrics with the page.
        .filter(|row| row.starts_with("process_") || row.starts_with("outrigger_"))
        .filter(|row| {
            !row.starts_with("outrigger_control_plane_") && !row.starts_with("outrigger_rate_limit_")
        })
        .map(|row| row.split('|').take(3).map(|cell| cell.trim().replace('`', "")).collect::<Vec<_>>())
        .collect();
    let timed_out = RequestRecord { reason: Some(Reason::UpstreamRequestTimeout), ..failed_call() };
    let sources = sources(1, &[to_cart(), timed_out, audited()]);
    sources.workers.worker().cluster(&"checked".into()).checks_passed.increment();
    sources.workers.worker().cluster(&"sessions".into()).sessions_kept.increment();
    let application = ApplicationLoad { cluster: "a".into(), limit: Some(8), in_flight: 8, waiting: 2 };
    let all = sources.families().into_iter().chain(overload::families(&[application]));
    // The last one of a name, which has series.
    let all: BTreeMap<_, _> = all.map(|family| (family.name, family)).collect();
    let existing = all.into_values().map(|family| {
        let (kind, labels) = match &family.points {
            Points::Counter(points) => ("counter", names(points.iter().map(|point| &point.labels))),
            Points::Gauge(points) => ("gauge", names(points.iter().map(|point| &point.labels))),
            Points::Histogram(points) => ("histogram", names(points.iter().map(|point| &point.labels))),
        };
        vec![family.name.to_owned(), kind.to_owned(), labels]
    });
    let existing: BTreeSet<_> = existing.collect();
    assert_eq!(documented, existing);
}

/// The names of all labels of a family, in the order of the series with most of them.
fn names<'a>(series: impl Iterator<Item = &'a outrigger_core::metrics::Labels>) -> String {
    let mut names: Vec<&str> = Vec::new();
    for labels in series {
        let mut place = 0;
        for (name, _) in labels {
            match names.iter().position(|known| known == name) {
                Some(known) => place = known + 1,
                None => {
                    names.insert(place, name);
                    place += 1;
                }
            }
        }
    }
    names.join(", ")
}

/// What no label shows must not make a series: a cluster that is the destination, against no attempt at all.
#[test]
fn no_two_series_have_the_same_labels() {
    let refused =
        RequestRecord { status: 503, reason: Some(Reason::NoHealthyUpstream), upstream: None, ..to_cart() };
    let failed =
        RequestRecord { status: 500, upstream: plaintext("cart.shop.svc.cluster.local:80"), ..to_cart() };
    let inbound = |upstream| RequestRecord { direction: Direction::Inbound, upstream, ..to_cart() };
    let records = [refused, failed, inbound(None), inbound(plaintext("inbound|127.0.0.1:80"))];
    let text = encode(&sources(1, &records).families(), Format::Prometheus);
    let series: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(line.rsplit_once(' ')?.0))
        .collect();
    let distinct: BTreeSet<_> = series.iter().collect();
    assert_eq!(series.len(), distinct.len(), "{text}");
    let class = "route=\"httproute/shop/cart/0/0\",protocol=\"http/1.1\",status_class=\"5xx\"} 2";
    let counts = text.lines().filter(|line| line.starts_with("outrigger_request_duration_seconds_count"));
    assert!(counts.clone().any(|line| line.ends_with(class)), "{text}");
}
