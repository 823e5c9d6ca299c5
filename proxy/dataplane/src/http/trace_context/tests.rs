use outrigger_core::percentage::Percentage;
use outrigger_core::trace::Sampling;

use super::*;

const ALL: Tracing = Tracing::DEFAULT;
const NONE: Tracing =
    Tracing { sampling: Sampling { ratio: Percentage::ZERO, parent_based: true }, ..Tracing::DEFAULT };

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
}

#[test]
fn a_traceparent_is_continued_with_the_parents_decision() {
    let mut headers = headers(&[("traceparent", &format!("00-{TRACE}-{SPAN}-01")), ("tracestate", "a=b")]);
    let trace = Trace::begin(&mut headers, NONE, Spans::Client);
    assert_eq!(trace.context.trace.to_string(), TRACE);
    assert_eq!(trace.context.parent.unwrap().to_string(), SPAN);
    assert!(trace.context.sampled);
    let span = trace.attempt_span(0);
    trace.write(&mut headers, span);
    assert_eq!(headers[TRACEPARENT], format!("00-{TRACE}-{span}-01"));
    assert_eq!(headers[TRACESTATE], "a=b");
    assert!(!headers.contains_key(B3_SINGLE), "b3 is written only to those who spoke it");
}

#[test]
fn a_malformed_traceparent_begins_a_new_trace_without_its_tracestate() {
    for bad in [
        format!("00-{}-{SPAN}-01", "0".repeat(32)),
        format!("00-{TRACE}-{}-01", "0".repeat(16)),
        format!("ff-{TRACE}-{SPAN}-01"),
        format!("00-{TRACE}-{SPAN}-01-x"),
        format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
        format!("00-{TRACE}-{SPAN}"),
        String::new(),
    ] {
        let mut headers = headers(&[("traceparent", &bad), ("tracestate", "a=b")]);
        let trace = Trace::begin(&mut headers, ALL, Spans::Client);
        assert_ne!(trace.context.trace.to_string(), TRACE, "{bad}");
        assert_eq!(trace.context.parent, None);
        assert!(trace.context.sampled && !headers.contains_key(TRACESTATE));
    }
}

#[test]
fn two_parents_are_none_and_several_tracestates_are_one_list() {
    let (one, other) = (format!("00-{TRACE}-{SPAN}-01"), format!("00-{TRACE}-{}-00", "1".repeat(16)));
    for (name, first, second) in [
        ("traceparent", one.as_str(), other.as_str()),
        ("traceparent", one.as_str(), one.as_str()),
        ("b3", "0", "1"),
    ] {
        let mut twice = headers(&[("tracestate", "a=b")]);
        twice.append(name, first.parse().unwrap());
        twice.append(name, second.parse().unwrap());
        let trace = Trace::begin(&mut twice, ALL, Spans::Client);
        assert!(trace.context.trace.to_string() != TRACE && trace.context.parent.is_none());
        assert!(trace.context.sampled && !twice.contains_key(TRACESTATE), "{name}");
        trace.write(&mut twice, trace.attempt_span(0));
        assert_eq!(twice.get_all(TRACEPARENT).iter().count(), 1);
    }
    let mut lists = headers(&[("traceparent", &one), ("tracestate", "a=b")]);
    lists.append(TRACESTATE, HeaderValue::from_static("c=d"));
    let trace = Trace::begin(&mut lists, NONE, Spans::Client);
    assert_eq!(lists.get_all(TRACESTATE).iter().collect::<Vec<_>>(), ["a=b,c=d"]);
    assert_eq!(trace.state(&lists), "a=b,c=d");
}

#[test]
fn a_later_version_is_read_by_its_first_fields() {
    let mut headers = headers(&[("traceparent", &format!("01-{TRACE}-{SPAN}-01-more"))]);
    assert_eq!(Trace::begin(&mut headers, NONE, Spans::Client).context.trace.to_string(), TRACE);
}

#[test]
fn b3_is_read_and_written_in_the_form_it_came_in() {
    let mut single = headers(&[("b3", &format!("{TRACE}-{SPAN}-1-{SPAN}"))]);
    let trace = Trace::begin(&mut single, NONE, Spans::Client);
    let span = trace.attempt_span(0);
    trace.write(&mut single, span);
    assert_eq!(single[B3_SINGLE], format!("{TRACE}-{span}-1"));

    let mut multi = headers(&[
        ("x-b3-traceid", "a3ce929d0e0e4736"),
        ("x-b3-spanid", SPAN),
        ("x-b3-sampled", "0"),
        ("x-b3-parentspanid", SPAN),
    ]);
    let trace = Trace::begin(&mut multi, ALL, Spans::Client);
    assert!(!trace.context.sampled);
    trace.write(&mut multi, trace.attempt_span(0));
    assert_eq!(multi[B3_TRACE_ID], "0000000000000000a3ce929d0e0e4736");
    assert_eq!((multi[B3_SAMPLED].to_str().unwrap(), multi.get(B3_PARENT_SPAN_ID)), ("0", None));
}

#[test]
fn a_denial_without_ids_is_honoured() {
    let mut denied = headers(&[("b3", "0")]);
    assert!(!Trace::begin(&mut denied, ALL, Spans::Client).context.sampled);
}

#[test]
fn traces_without_a_parent_are_sampled_by_ratio() {
    let ratio = Percentage::from_millionths(500_000).unwrap();
    let half = Tracing { sampling: Sampling { ratio, ..Sampling::ALL }, ..ALL };
    let begin = || Trace::begin(&mut HeaderMap::new(), half, Spans::Client);
    let sampled = (0..2000).filter(|_| begin().context.sampled).count();
    assert!((800..1200).contains(&sampled), "{sampled} of 2000");
}
#[test]
fn inbound_every_attempt_has_the_server_span_and_outbound_each_has_its_own() {
    for (spans, first_is_own, second_is_own) in
        [(Spans::Server, false, false), (Spans::Client, false, true), (Spans::ServerAndClient, true, true)]
    {
        let trace = Trace::begin(&mut HeaderMap::new(), ALL, spans);
        let (first, second) = (trace.attempt_span(0), trace.attempt_span(1));
        assert_eq!(first != trace.context.span, first_is_own, "{spans:?}");
        assert_eq!(second != trace.context.span, second_is_own, "{spans:?}");
        assert_eq!(first != second, second_is_own, "{spans:?}");
    }
}

#[test]
fn a_proxy_that_exports_no_spans_forwards_the_clients_context_unchanged() {
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let mut traced = headers(&[("traceparent", &parent), ("x-b3-flags", "1"), ("tracestate", "a=b")]);
    let before = traced.clone();
    let trace = Trace::begin(&mut traced, NONE, Spans::Nothing);
    trace.write(&mut traced, trace.attempt_span(0));
    assert_eq!(traced, before);
    assert_eq!(trace.context.span.to_string(), SPAN);
}

#[test]
fn only_the_configured_formats_are_read_and_written() {
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let single = format!("{}-{SPAN}-1", "1".repeat(32));
    let both = [("traceparent", parent.as_str()), ("b3", single.as_str())];
    let written = |trace_context, b3, fields: &[(&'static str, &str)]| {
        let tracing = Tracing { propagators: Propagators { trace_context, b3 }, ..ALL };
        let mut headers = headers(fields);
        let trace = Trace::begin(&mut headers, tracing, Spans::Client);
        trace.write(&mut headers, trace.attempt_span(0));
        (trace.context, headers)
    };

    let (context, sent) = written(true, B3::Off, &both);
    assert_eq!((context.trace.to_string().as_str(), &sent["b3"]), (TRACE, &single.parse().unwrap()));
    let (context, sent) = written(false, B3::Always { single: true, multi: false }, &both);
    assert_eq!(context.trace.to_string(), "1".repeat(32));
    assert_eq!(sent["traceparent"], parent, "a format that is off passes through");
    assert_eq!(sent["b3"], format!("{}-{}-1", context.trace, context.span));
    let (context, sent) = written(false, B3::Always { single: false, multi: true }, &both);
    assert_eq!((sent.get("b3"), sent["x-b3-traceid"].to_str().unwrap()), (None, &*context.trace.to_string()));
    let (context, sent) = written(false, B3::Off, &both);
    assert_eq!(context.parent, None);
    assert!(sent["traceparent"] == parent && sent["b3"] == single);
    let (_, sent) = written(true, B3::Always { single: true, multi: true }, &[]);
    assert!(["traceparent", "b3", "x-b3-spanid"].iter().all(|name| sent.contains_key(*name)), "{sent:?}");
}
