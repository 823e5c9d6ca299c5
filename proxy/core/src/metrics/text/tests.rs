use super::super::{labels, single};
use super::*;
use crate::trace::{SpanId, TraceId};

const PROMETHEUS_3: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
     application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
     text/plain;version=0.0.4;q=0.3,*/*;q=0.2";

#[test]
fn the_format_with_the_highest_weight_is_chosen_and_0_0_4_without_openmetrics() {
    for (accept, format) in [
        (vec![], Format::Prometheus),
        (vec!["*/*"], Format::Prometheus),
        (vec!["text/html, application/xml;q=0.9"], Format::Prometheus),
        (vec!["text/plain; version=0.0.4"], Format::Prometheus),
        (vec![PROMETHEUS_3], Format::OpenMetrics),
        (vec!["application/openmetrics-text"], Format::OpenMetrics),
        (vec!["Application/OpenMetrics-Text; Version=\"1.0.0\"; Q=0.8"], Format::OpenMetrics),
        (vec!["application/openmetrics-text;version=2.0.0"], Format::Prometheus),
        (vec!["application/openmetrics-text;q=0"], Format::Prometheus),
        (vec!["application/openmetrics-text;q=0.2, text/plain;q=0.9"], Format::Prometheus),
        (vec!["text/plain;q=0.5", "application/openmetrics-text;q=0.5"], Format::Prometheus),
        (vec!["text/plain;q=0.1", "application/openmetrics-text;q=0.5"], Format::OpenMetrics),
    ] {
        assert_eq!(Format::negotiated(accept.clone()), format, "{accept:?}");
    }
}

fn families() -> Vec<Family> {
    let exemplar = Exemplar {
        trace: TraceId::new(0xab).unwrap(),
        span: SpanId::new(0xcd).unwrap(),
        value: 0.75,
        time: UNIX_EPOCH + std::time::Duration::from_millis(1_700_000_000_250),
    };
    let bucket = |upper_bound, count, exemplar| Bucket { upper_bound, count, exemplar };
    let histogram = Histogram {
        buckets: vec![bucket(0.001, 2, None), bucket(1.0, 3, Some(exemplar)), bucket(f64::INFINITY, 1, None)],
        sum: 7.5,
    };
    vec![
        Family::counter(
            "requests_total",
            "Requests",
            [(labels([("path", "a\"b\\c\nd"), ("flag", "")]), 3.0)],
        ),
        Family::counter("none_total", "A family without series", []),
        Family::gauge("expiry_timestamp_seconds", "An end", single(1_700_000_000.5)),
        Family::histogram("duration_seconds", "Durations", [(labels([("to", "cart")]), histogram)]),
    ]
}

#[test]
fn prometheus_text_has_total_in_types_and_neither_units_nor_exemplars() {
    let expected = r#"# HELP requests_total Requests
# TYPE requests_total counter
requests_total{path="a\"b\\c\nd"} 3
# HELP expiry_timestamp_seconds An end
# TYPE expiry_timestamp_seconds gauge
expiry_timestamp_seconds 1700000000.5
# HELP duration_seconds Durations
# TYPE duration_seconds histogram
duration_seconds_bucket{to="cart",le="0.001"} 2
duration_seconds_bucket{to="cart",le="1"} 5
duration_seconds_bucket{to="cart",le="+Inf"} 6
duration_seconds_sum{to="cart"} 7.5
duration_seconds_count{to="cart"} 6
"#;
    assert_eq!(encode(&families(), Format::Prometheus), expected);
}

#[test]
fn openmetrics_has_units_exemplars_canonical_bounds_and_an_end() {
    let expected = r#"# HELP requests Requests
# TYPE requests counter
requests_total{path="a\"b\\c\nd"} 3
# HELP expiry_timestamp_seconds An end
# TYPE expiry_timestamp_seconds gauge
# UNIT expiry_timestamp_seconds seconds
expiry_timestamp_seconds 1700000000.5
# HELP duration_seconds Durations
# TYPE duration_seconds histogram
# UNIT duration_seconds seconds
duration_seconds_bucket{to="cart",le="0.001"} 2
duration_seconds_bucket{to="cart",le="1.0"} 5 # {trace_id="000000000000000000000000000000ab",span_id="00000000000000cd"} 0.75 1700000000.250
duration_seconds_bucket{to="cart",le="+Inf"} 6
duration_seconds_sum{to="cart"} 7.5
duration_seconds_count{to="cart"} 6
# EOF
"#;
    assert_eq!(encode(&families(), Format::OpenMetrics), expected);
}
