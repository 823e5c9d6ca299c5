use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method};
use outrigger_core::identity::SpiffeId;
use outrigger_core::reason::Reason;
use outrigger_proto::xds::common_ratelimit::{LocalRateLimitDescriptor, rate_limit_descriptor::Entry};
use outrigger_proto::xds::local_ratelimit as wire;
use outrigger_proto::xds::route::rate_limit::{self, action, action::ActionSpecifier};
use outrigger_proto::xds::{core, protobuf, route, types};

use super::LocalRateLimit;
use crate::descriptor::RouteDescriptors;
use crate::header_match::Head;
use crate::verdict::{FilterRequest, ResponseChanges, Verdict};

fn bucket(max_tokens: u32) -> Option<types::TokenBucket> {
    let fill_interval = Some(protobuf::Duration { seconds: 60, nanos: 0 });
    Some(types::TokenBucket { max_tokens, tokens_per_fill: None, fill_interval })
}

fn all() -> Option<core::RuntimeFractionalPercent> {
    let default_value = Some(types::FractionalPercent { numerator: 100, denominator: 0 });
    Some(core::RuntimeFractionalPercent { default_value, ..Default::default() })
}

fn limit(max_tokens: u32) -> wire::LocalRateLimit {
    wire::LocalRateLimit {
        stat_prefix: "limit".into(),
        token_bucket: bucket(max_tokens),
        filter_enabled: all(),
        filter_enforced: all(),
        ..Default::default()
    }
}

fn header(key: &str, value: &str) -> core::HeaderValueOption {
    core::HeaderValueOption {
        header: Some(core::HeaderValue { key: key.into(), value: value.into(), ..Default::default() }),
        ..Default::default()
    }
}

fn rule(actions: Vec<ActionSpecifier>) -> route::RateLimit {
    let action = |of| rate_limit::Action { action_specifier: Some(of) };
    route::RateLimit { actions: actions.into_iter().map(action).collect(), ..Default::default() }
}

fn generic_key(value: &str) -> ActionSpecifier {
    ActionSpecifier::GenericKey(action::GenericKey { descriptor_value: value.into(), ..Default::default() })
}

fn described(entries: &[(&str, &str)], max_tokens: u32) -> LocalRateLimitDescriptor {
    let entry = |(key, value): &(&str, &str)| Entry { key: (*key).into(), value: (*value).into() };
    let entries = entries.iter().map(entry).collect();
    LocalRateLimitDescriptor { entries, token_bucket: bucket(max_tokens), shadow_mode: false }
}

/// A filter, and the rules of a route.
struct World {
    filter: LocalRateLimit,
    route: Option<RouteDescriptors>,
}

impl World {
    fn new(wire: wire::LocalRateLimit) -> Self {
        Self { filter: LocalRateLimit::decode(wire, true).unwrap(), route: None }
    }

    /// Decides about a request of `caller` with a field `x-tenant`. Returns the fields of its response, too.
    fn decide(&self, caller: &str, tenant: &'static str) -> (Verdict, HeaderMap) {
        let mut headers = HeaderMap::new();
        if !tenant.is_empty() {
            headers.insert("x-tenant", HeaderValue::from_static(tenant));
        }
        let (method, authority) = (&Method::GET, "cart:80");
        let head = Head { method, scheme: "http", authority, path: "/pay?user=a%20b&x", headers: &headers };
        let caller = SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/{caller}")).unwrap();
        let mut request = FilterRequest {
            cluster: Some("cart"),
            descriptors: self.route.as_ref(),
            now: || Duration::from_secs(1000),
            ..FilterRequest::of(head)
        };
        request.source.identity = Some(&caller);
        let (mut changes, mut response) = (ResponseChanges::default(), HeaderMap::new());
        let verdict = self.filter.decide(&request, &mut changes);
        changes.apply(&mut response);
        (verdict, response)
    }

    fn admitted(&self, caller: &str, tenant: &'static str) -> usize {
        (0..20).take_while(|_| self.decide(caller, tenant).0 == Verdict::Admit).count()
    }
}

#[test]
fn a_request_beyond_the_limit_is_refused_and_told_when_to_come_back() {
    let world = World::new(wire::LocalRateLimit {
        enable_retry_after_header: true,
        enable_x_ratelimit_headers: 1,
        response_headers_to_add: vec![header("x-limit", "cart")],
        ..limit(2)
    });
    let (verdict, response) = world.decide("front", "");
    assert_eq!((verdict, response["x-ratelimit-remaining"].as_bytes()), (Verdict::Admit, &b"1"[..]));
    assert!(!response.contains_key("x-limit"));
    assert_eq!(world.admitted("front", ""), 1);
    let (verdict, response) = world.decide("front", "");
    let Verdict::Refuse(refusal) = verdict else { panic!("{verdict:?}") };
    assert_eq!((refusal.reason, refusal.status.as_u16()), (Reason::RateLimited, 429));
    assert_eq!(refusal.grpc_status, Some(14));
    let expected = [("retry-after", "60"), ("x-limit", "cart"), ("x-ratelimit-limit", "2")];
    for (name, value) in expected.into_iter().chain([("x-ratelimit-remaining", "0")]) {
        assert_eq!(response[name], value, "{name}");
    }
}

#[test]
fn status_and_grpc_status_are_configurable() {
    let refused = |status, exhausted| {
        let world = World::new(wire::LocalRateLimit {
            status: Some(types::HttpStatus { code: status }),
            rate_limited_as_resource_exhausted: exhausted,
            ..limit(1)
        });
        assert_eq!(world.admitted("front", ""), 1);
        match world.decide("front", "").0 {
            Verdict::Refuse(refusal) => (refusal.status.as_u16(), refusal.grpc_status),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!([refused(503, true), refused(200, false)], [(503, Some(8)), (429, Some(14))]);
}

#[test]
fn a_limit_that_is_not_enabled_or_not_enforced_refuses_nothing() {
    let off = World::new(wire::LocalRateLimit { filter_enabled: None, ..limit(1) });
    assert_eq!(off.admitted("front", ""), 20);
    let added = vec![header("x-limited", "true")];
    let observed = World::new(wire::LocalRateLimit {
        filter_enforced: None,
        request_headers_to_add_when_not_enforced: added,
        ..limit(1)
    });
    assert_eq!(observed.admitted("front", ""), 1);
    let Verdict::AdmitWith(changes) = observed.decide("front", "").0 else { panic!() };
    let mut fields = HeaderMap::new();
    changes.apply(&mut fields);
    assert_eq!(fields["x-limited"], "true");
}

#[test]
fn each_caller_has_its_own_share_of_a_limit_by_identity() {
    let identity = "%DOWNSTREAM_PEER_URI_SAN%";
    let world = World::new(wire::LocalRateLimit {
        rate_limits: vec![rule(vec![generic_key(identity)])],
        descriptors: vec![described(&[("generic_key", "")], 3)],
        ..limit(5)
    });
    // Each has 3, and all together have 5.
    assert_eq!([world.admitted("a", ""), world.admitted("a", ""), world.admitted("b", "")], [3, 0, 2]);
}

#[test]
fn a_described_request_may_count_for_its_own_limit_alone() {
    let field = |may_miss| {
        ActionSpecifier::RequestHeaders(action::RequestHeaders {
            header_name: "X-Tenant".into(),
            descriptor_key: "tenant".into(),
            skip_if_absent: may_miss,
        })
    };
    let world = World::new(wire::LocalRateLimit {
        rate_limits: vec![rule(vec![field(false)])],
        descriptors: vec![described(&[("tenant", "gold")], 10)],
        always_consume_default_token_bucket: Some(protobuf::BoolValue { value: false }),
        ..limit(2)
    });
    assert_eq!(
        [world.admitted("a", "gold"), world.admitted("a", "tin"), world.admitted("a", "")],
        [10, 2, 0]
    );
}

#[test]
fn a_limit_in_shadow_mode_refuses_nothing() {
    let described = LocalRateLimitDescriptor { shadow_mode: true, ..described(&[("generic_key", "a")], 1) };
    let world = World::new(wire::LocalRateLimit {
        rate_limits: vec![rule(vec![generic_key("a")])],
        descriptors: vec![described],
        ..limit(7)
    });
    assert_eq!(world.admitted("a", ""), 7);
}

#[test]
fn a_route_describes_its_requests_to_the_filter_of_the_same_stage() {
    let of_stage = |stage, value| {
        let stage = Some(protobuf::UInt32Value { value: stage });
        route::RateLimit { stage, ..rule(vec![generic_key(value)]) }
    };
    let host = vec![of_stage(0, "host")];
    let host = host.into_iter().map(crate::descriptor::DescriptorRule::decode).map(Result::unwrap).collect();
    for (rules, includes_host, option, admitted) in [
        (vec![of_stage(0, "route"), of_stage(1, "host")], false, 0, 2),
        (vec![], false, 0, 3),
        (vec![of_stage(0, "other")], true, 0, 3),
        (vec![of_stage(0, "other")], false, 1, 3),
        (vec![], false, 2, 9),
    ] {
        let mut world = World::new(wire::LocalRateLimit {
            descriptors: vec![
                described(&[("generic_key", "route")], 2),
                described(&[("generic_key", "host")], 3),
            ],
            vh_rate_limits: option,
            ..limit(9)
        });
        world.route = Some(RouteDescriptors::decode(rules, &host, includes_host).unwrap());
        assert_eq!(world.admitted("a", ""), admitted);
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_by_field() {
    let refused = |wire| LocalRateLimit::decode(wire, true).unwrap_err().field;
    let values = |value| Some(protobuf::UInt32Value { value });
    for (wire, field) in [
        (wire::LocalRateLimit { token_bucket: None, ..limit(1) }, "token_bucket"),
        (limit(0), "token_bucket.max_tokens"),
        (wire::LocalRateLimit { stat_prefix: String::new(), ..limit(1) }, "stat_prefix"),
        (wire::LocalRateLimit { stage: 11, ..limit(1) }, "stage"),
        (wire::LocalRateLimit { max_dynamic_descriptors: values(0), ..limit(1) }, "max_dynamic_descriptors"),
        (wire::LocalRateLimit { descriptors: vec![described(&[], 1)], ..limit(1) }, "descriptors[0].entries"),
        (
            wire::LocalRateLimit { descriptors: vec![described(&[("a", "b")], 0)], ..limit(1) },
            "descriptors[0].token_bucket.max_tokens",
        ),
        (
            wire::LocalRateLimit { rate_limits: vec![rule(vec![generic_key("%REQ(x)%")])], ..limit(1) },
            "rate_limits[0].actions[0].generic_key.descriptor_value",
        ),
        (wire::LocalRateLimit { rate_limits: vec![rule(vec![])], ..limit(1) }, "rate_limits[0].actions"),
    ] {
        assert_eq!(refused(wire), field);
    }
    let listener = wire::LocalRateLimit { token_bucket: None, ..limit(1) };
    assert!(LocalRateLimit::decode(listener, false).is_ok(), "routes have the buckets");
}
