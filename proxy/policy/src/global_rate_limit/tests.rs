use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use outrigger_proto::xds::core::{self, grpc_service};
use outrigger_proto::xds::ratelimit_service::rate_limit_response::{
    Code, DescriptorStatus, RateLimit, rate_limit::Unit,
};
use outrigger_proto::xds::ratelimit_service::{RateLimitRequest, RateLimitResponse};
use outrigger_proto::xds::route::rate_limit::{self, action, action::ActionSpecifier};
use outrigger_proto::xds::{protobuf, ratelimit as wire, ratelimit_config, route, types};
use prost::Message;

use super::GlobalRateLimit;
use crate::header_match::Head;
use crate::question::{Question, ServiceReply};
use crate::verdict::{FilterRequest, Heard, ResponseChanges, Verdict};

fn service() -> ratelimit_config::RateLimitServiceConfig {
    let target = grpc_service::EnvoyGrpc { cluster_name: "limits".into(), ..Default::default() };
    let service = core::GrpcService {
        target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(target)),
        ..Default::default()
    };
    ratelimit_config::RateLimitServiceConfig { grpc_service: Some(service), transport_api_version: 2 }
}

fn rule(value: &str) -> route::RateLimit {
    let key = action::GenericKey { descriptor_value: value.into(), ..Default::default() };
    let action = rate_limit::Action { action_specifier: Some(ActionSpecifier::GenericKey(key)) };
    route::RateLimit { actions: vec![action], ..Default::default() }
}

fn filter() -> wire::RateLimit {
    wire::RateLimit {
        domain: "shop".into(),
        rate_limit_service: Some(service()),
        rate_limits: vec![rule("a")],
        ..Default::default()
    }
}

fn value(key: &str, value: &str) -> core::HeaderValue {
    core::HeaderValue { key: key.into(), value: value.into(), ..Default::default() }
}

fn status(code: Code, remaining: u32, per_unit: u32, seconds: i64) -> DescriptorStatus {
    DescriptorStatus {
        code: code.into(),
        current_limit: Some(RateLimit {
            name: String::new(),
            requests_per_unit: per_unit,
            unit: Unit::Minute.into(),
        }),
        limit_remaining: remaining,
        duration_until_reset: Some(protobuf::Duration { seconds, nanos: 0 }),
        quota: None,
    }
}

/// A filter, and what a route changes of it.
struct World {
    filter: GlobalRateLimit,
    route: Option<GlobalRateLimit>,
}

impl World {
    fn new(wire: wire::RateLimit) -> Self {
        Self { filter: GlobalRateLimit::decode(wire).unwrap(), route: None }
    }

    fn with_request<T>(&self, then: impl FnOnce(&GlobalRateLimit, &FilterRequest<'_>) -> T) -> T {
        let headers = HeaderMap::new();
        let (method, authority) = (&Method::GET, "cart:80");
        let head = Head { method, scheme: "http", authority, path: "/", headers: &headers };
        then(self.route.as_ref().unwrap_or(&self.filter), &FilterRequest::of(head))
    }

    fn decide(&self) -> Verdict {
        self.with_request(|config, request| config.decide(&self.filter, request))
    }

    fn asks(&self) -> (Question, RateLimitRequest) {
        let Verdict::Ask(question) = self.decide() else { panic!("{:?}", self.decide()) };
        let message = RateLimitRequest::decode(&question.body[5..]).unwrap();
        (*question, message)
    }

    fn hears(&self, reply: Result<ServiceReply, Failure>) -> (Verdict, HeaderMap) {
        let mut changes = ResponseChanges::default();
        let verdict = self.with_request(|config, request| {
            config.decide_again(&self.filter, request, Heard::Reply(reply), &mut changes)
        });
        let mut response = HeaderMap::new();
        changes.apply(&mut response);
        (verdict, response)
    }

    fn is_told(&self, message: &RateLimitResponse) -> (Verdict, HeaderMap) {
        let message = message.encode_to_vec();
        let mut body = vec![0];
        body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        body.extend(message);
        self.hears(Ok(reply("0", body)))
    }
}

fn reply(status: &'static str, body: Vec<u8>) -> ServiceReply {
    let status = (HeaderName::from_static("grpc-status"), HeaderValue::from_static(status));
    ServiceReply {
        status: StatusCode::OK,
        fields: HeaderMap::new(),
        body: Bytes::from(body),
        trailers: HeaderMap::from_iter([status]),
    }
}

fn over_limit() -> RateLimitResponse {
    RateLimitResponse {
        overall_code: Code::OverLimit.into(),
        statuses: vec![status(Code::Ok, 5, 10, 3), status(Code::OverLimit, 0, 20, 7)],
        response_headers_to_add: vec![value("x-limit", "shop"), value(":status", "200"), value("x", "a\nb")],
        ..Default::default()
    }
}

#[test]
fn a_service_is_asked_about_the_descriptors_of_a_request() {
    let (question, message) = World::new(filter()).asks();
    assert_eq!((&*question.cluster, question.timeout), ("limits", super::TIMEOUT));
    assert_eq!(question.path, "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit");
    let entry = &message.descriptors[0].entries[0];
    assert_eq!(
        (message.domain.as_str(), entry.key.as_str(), entry.value.as_str()),
        ("shop", "generic_key", "a")
    );
    let none = World::new(wire::RateLimit { rate_limits: vec![], ..filter() });
    assert_eq!(none.decide(), Verdict::Admit, "a request without descriptors has no limit");
}

#[test]
fn a_route_has_its_own_rules_and_domain() {
    let mut world = World::new(filter());
    let of_route = wire::RateLimitPerRoute {
        rate_limits: vec![rule("b")],
        domain: "route".into(),
        ..Default::default()
    };
    world.route = Some(GlobalRateLimit::decode_for_route(of_route).unwrap());
    let (_, message) = world.asks();
    let entry = &message.descriptors[0].entries[0];
    assert_eq!((message.domain.as_str(), entry.value.as_str()), ("route", "b"));
}

#[test]
fn a_request_passes_unless_a_limit_is_reached() {
    let world = World::new(filter());
    let ok = RateLimitResponse {
        overall_code: Code::Ok.into(),
        request_headers_to_add: vec![value("x-left", "3")],
        response_headers_to_add: vec![value("x-limit", "shop")],
        ..Default::default()
    };
    let (verdict, response) = world.is_told(&ok);
    let Verdict::AdmitWith(changes) = verdict else { panic!("{verdict:?}") };
    let mut request = HeaderMap::new();
    changes.apply(&mut request);
    assert!(request["x-left"] == "3" && response["x-limit"] == "shop" && response.len() == 1);
    let (verdict, response) = world.is_told(&over_limit());
    let Verdict::Refuse(refusal) = verdict else { panic!("{verdict:?}") };
    assert_eq!((refusal.reason, refusal.status.as_u16()), (Reason::RateLimited, 429));
    assert_eq!(refusal.grpc_status, Some(14));
    assert!(
        response["x-envoy-ratelimited"] == "true" && response["x-limit"] == "shop" && response.len() == 2
    );
}

#[test]
fn limits_and_times_are_told_where_they_are_wanted() {
    let world = World::new(wire::RateLimit {
        enable_x_ratelimit_headers: 1,
        enable_retry_after_header: true,
        disable_x_envoy_ratelimited_header: true,
        rate_limited_as_resource_exhausted: true,
        ..filter()
    });
    let (verdict, response) = world.is_told(&over_limit());
    assert!(matches!(verdict, Verdict::Refuse(refusal) if refusal.grpc_status == Some(8)));
    for (name, value) in [
        ("x-ratelimit-limit", "20, 10;w=60, 20;w=60"),
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", "7"),
        ("retry-after", "7"),
    ] {
        assert_eq!(response[name], value, "{name}");
    }
    assert!(!response.contains_key("x-envoy-ratelimited"));
}

#[test]
fn a_refusal_may_have_the_services_body_and_another_status() {
    let status = Some(types::HttpStatus { code: 503 });
    let world = World::new(wire::RateLimit { rate_limited_status: status, ..filter() });
    let (verdict, _) = world.is_told(&RateLimitResponse { raw_body: b"slow down".into(), ..over_limit() });
    let Verdict::Respond(response) = verdict else { panic!("{verdict:?}") };
    assert_eq!((response.status.as_u16(), &*response.body), (503, &b"slow down"[..]));
}

#[test]
fn a_service_that_fails_limits_nothing_unless_it_must() {
    let failure = || Err(Failure::local(Reason::NoHealthyUpstream, "no endpoint"));
    let open = World::new(filter());
    assert!(matches!(open.hears(failure()).0, Verdict::AdmitUnchecked(_)));
    assert!(matches!(open.hears(Ok(reply("14", vec![]))).0, Verdict::AdmitUnchecked(_)));
    let closed = World::new(wire::RateLimit { failure_mode_deny: true, ..filter() });
    let Verdict::Refuse(refusal) = closed.hears(failure()).0 else { panic!() };
    assert_eq!((refusal.reason, refusal.status.as_u16()), (Reason::RateLimitServiceFailed, 500));
}

#[test]
fn a_limit_that_is_not_enabled_or_not_enforced_refuses_nothing() {
    let none = || {
        let default_value = Some(types::FractionalPercent { numerator: 0, denominator: 0 });
        Some(core::RuntimeFractionalPercent { default_value, ..Default::default() })
    };
    let off = World::new(wire::RateLimit { filter_enabled: none(), ..filter() });
    assert_eq!(off.decide(), Verdict::Admit);
    let observed = World::new(wire::RateLimit { filter_enforced: none(), ..filter() });
    assert!(matches!(observed.is_told(&over_limit()).0, Verdict::AdmitWith(_)));
}

#[test]
fn what_cannot_be_honoured_is_refused_by_field() {
    let refused = |wire| GlobalRateLimit::decode(wire).unwrap_err().field;
    let old = ratelimit_config::RateLimitServiceConfig { transport_api_version: 1, ..service() };
    for (wire, field) in [
        (wire::RateLimit { domain: String::new(), ..filter() }, "domain"),
        (wire::RateLimit { stage: 11, ..filter() }, "stage"),
        (wire::RateLimit { request_type: "internal".into(), ..filter() }, "request_type"),
        (wire::RateLimit { rate_limit_service: None, ..filter() }, "rate_limit_service"),
        (
            wire::RateLimit { rate_limit_service: Some(old), ..filter() },
            "rate_limit_service.transport_api_version",
        ),
        (wire::RateLimit { status_on_error: Some(Default::default()), ..filter() }, "status_on_error"),
    ] {
        assert_eq!(refused(wire), field);
    }
}
