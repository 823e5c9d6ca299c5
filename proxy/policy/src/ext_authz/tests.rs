mod http_service;

use std::collections::HashMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use outrigger_core::error::Failure;
use outrigger_core::identity::SpiffeId;
use outrigger_core::reason::Reason;
use outrigger_proto::xds::auth_service::check_response::HttpResponse;
use outrigger_proto::xds::auth_service::{
    AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use outrigger_proto::xds::core::{self, grpc_service, http_uri::HttpUpstreamType};
use outrigger_proto::xds::ext_authz as wire;
use outrigger_proto::xds::ext_authz::ext_authz_per_route::Override;
use outrigger_proto::xds::{matcher, protobuf, rpc, types};
use prost::Message;

use super::ExtAuthz;
use crate::header_match::Head;
use crate::question::{Question, ServiceReply};
use crate::verdict::{Beginning, FilterRequest, Heard, ResponseChanges, Verdict};

fn grpc() -> wire::ExtAuthz {
    let target = grpc_service::EnvoyGrpc { cluster_name: "opa".into(), ..Default::default() };
    let service = core::GrpcService {
        target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(target)),
        ..Default::default()
    };
    wire::ExtAuthz {
        transport_api_version: core::ApiVersion::V3.into(),
        services: Some(wire::ext_authz::Services::GrpcService(service)),
        ..Default::default()
    }
}

fn http_service(service: wire::HttpService) -> wire::ExtAuthz {
    let uri = core::HttpUri {
        uri: "http://authz".into(),
        timeout: None,
        http_upstream_type: Some(HttpUpstreamType::Cluster("authz".into())),
    };
    let service = wire::HttpService { server_uri: Some(uri), ..service };
    wire::ExtAuthz { services: Some(wire::ext_authz::Services::HttpService(service)), ..grpc() }
}

fn names(list: &[&str]) -> Option<matcher::ListStringMatcher> {
    let exact = |name: &&str| matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Exact((*name).into())),
        ignore_case: false,
    };
    Some(matcher::ListStringMatcher { patterns: list.iter().map(exact).collect() })
}

fn option(key: &str, value: &str, append: Option<bool>) -> core::HeaderValueOption {
    #[allow(deprecated)]
    core::HeaderValueOption {
        header: Some(core::HeaderValue { key: key.into(), value: value.into(), ..Default::default() }),
        append: append.map(|value| protobuf::BoolValue { value }),
        ..Default::default()
    }
}

fn headers(of: &[(&'static str, &'static str)]) -> HeaderMap {
    let line = |(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    of.iter().map(line).collect()
}

/// A filter, what a route changes of it, and a request with these fields.
struct World {
    filter: ExtAuthz,
    route: Option<ExtAuthz>,
    fields: HeaderMap,
}

impl World {
    fn new(wire: wire::ExtAuthz) -> Self {
        let fields = headers(&[("x-user", "mallory"), ("cookie", "a=1"), ("cookie", "b=2"), ("accept", "x")]);
        Self { filter: ExtAuthz::decode(wire).unwrap(), route: None, fields }
    }

    fn with_request<T>(&self, has_body: bool, then: impl FnOnce(&ExtAuthz, &FilterRequest<'_>) -> T) -> T {
        let head = Head {
            method: &Method::POST,
            scheme: "http",
            authority: "cart:80",
            path: "/pay?x=1",
            headers: &self.fields,
        };
        let caller = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/front").unwrap();
        let mut request = FilterRequest { has_body, ..FilterRequest::of(head) };
        request.source.identity = Some(&caller);
        then(self.route.as_ref().unwrap_or(&self.filter), &request)
    }

    fn decide(&self, has_body: bool) -> Verdict {
        self.with_request(has_body, |config, request| config.decide(&self.filter, request))
    }

    fn asks(&self) -> Question {
        asked(self.decide(false))
    }

    fn hears(&self, heard: Heard) -> (Verdict, HeaderMap) {
        let mut changes = ResponseChanges::default();
        let verdict = self.with_request(true, |config, request| {
            config.decide_again(&self.filter, request, heard, &mut changes)
        });
        let mut response = headers(&[("x-trace", "upstream")]);
        changes.apply(&mut response);
        (verdict, response)
    }

    fn is_told(&self, code: i32, response: Option<HttpResponse>) -> (Verdict, HeaderMap) {
        let status = Some(rpc::Status { code, ..Default::default() });
        let message = CheckResponse { status, http_response: response, ..Default::default() }.encode_to_vec();
        let mut body = vec![0];
        body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        body.extend(message);
        let trailers = headers(&[("grpc-status", "0")]);
        self.hears(Heard::Reply(Ok(ServiceReply {
            body: body.into(),
            ..reply(200, HeaderMap::new(), trailers)
        })))
    }
}

fn reply(status: u16, fields: HeaderMap, trailers: HeaderMap) -> ServiceReply {
    let status = StatusCode::from_u16(status).unwrap();
    ServiceReply { status, fields, body: Bytes::from_static(b"because"), trailers }
}

fn asked(verdict: Verdict) -> Question {
    match verdict {
        Verdict::Ask(question) => *question,
        other => panic!("{other:?}"),
    }
}

fn attributes(question: &Question) -> AttributeContext {
    CheckRequest::decode(&question.body[5..]).unwrap().attributes.unwrap()
}

fn failed() -> Heard {
    Heard::Reply(Err(Failure::local(Reason::NoHealthyUpstream, "no endpoint")))
}

fn refused(verdict: &Verdict) -> (Reason, u16) {
    match verdict {
        Verdict::Refuse(refusal) => (refusal.reason, refusal.status.as_u16()),
        Verdict::Respond(response) => (response.reason, response.status.as_u16()),
        other => panic!("{other:?}"),
    }
}

fn changed(verdict: &Verdict, fields: &HeaderMap) -> HeaderMap {
    let (Verdict::AdmitWith(changes) | Verdict::AdmitUnchecked(changes)) = verdict else {
        panic!("{verdict:?}")
    };
    let mut fields = fields.clone();
    changes.apply(&mut fields);
    fields
}

#[test]
fn a_service_is_told_who_asks_for_what() {
    let question = World::new(grpc()).asks();
    assert_eq!((&*question.cluster, question.timeout), ("opa", super::TIMEOUT));
    let attributes = attributes(&question);
    let source = attributes.source.unwrap();
    assert_eq!(source.principal, "spiffe://cluster.local/ns/shop/sa/front");
    let Some(core::address::Address::SocketAddress(address)) = source.address.unwrap().address else {
        panic!()
    };
    assert_eq!(address.address, "127.0.0.1");
    assert_eq!(address.port_specifier, Some(core::socket_address::PortSpecifier::PortValue(50_000)));
    let http = attributes.request.unwrap().http.unwrap();
    assert_eq!(
        (http.method.as_str(), http.path.as_str(), http.host.as_str()),
        ("POST", "/pay?x=1", "cart:80")
    );
    assert_eq!((http.protocol.as_str(), http.scheme.as_str(), http.size), ("HTTP/1.1", "http", 0));
    assert_eq!((http.headers["cookie"].as_str(), http.headers[":path"].as_str()), ("a=1; b=2", "/pay?x=1"));
}

#[test]
fn the_lists_say_which_fields_a_service_sees() {
    let seen = |allowed: &[&str], disallowed: &[&str]| {
        let list = |list: &[&str]| if list.is_empty() { None } else { names(list) };
        let wire =
            wire::ExtAuthz { allowed_headers: list(allowed), disallowed_headers: list(disallowed), ..grpc() };
        let headers = attributes(&World::new(wire).asks()).request.unwrap().http.unwrap().headers;
        let mut names: Vec<_> = headers.into_keys().filter(|name| !name.starts_with(':')).collect();
        names.sort();
        names
    };
    assert_eq!(seen(&[], &[]), ["accept", "cookie", "x-user"]);
    assert_eq!(seen(&[], &["cookie"]), ["accept", "x-user"]);
    assert_eq!(seen(&["cookie", "x-user"], &["cookie"]), ["x-user"]);
}

#[test]
fn raw_fields_are_sent_line_by_line() {
    let question = World::new(wire::ExtAuthz { encode_raw_headers: true, ..grpc() }).asks();
    let http = attributes(&question).request.unwrap().http.unwrap();
    let lines = http.header_map.unwrap().headers;
    let cookies: Vec<_> =
        lines.iter().filter(|line| line.key == "cookie").map(|line| &*line.raw_value).collect();
    assert_eq!(cookies, [b"a=1", b"b=2"]);
    assert!(http.headers.is_empty());
}

#[test]
fn a_body_is_read_up_to_the_limit() {
    let body = |allow_partial_message, pack_as_bytes| wire::ExtAuthz {
        with_request_body: Some(wire::BufferSettings {
            max_request_bytes: 4,
            allow_partial_message,
            pack_as_bytes,
        }),
        ..grpc()
    };
    let beginning = |is_cut| Heard::Body(Beginning { bytes: Bytes::from_static(b"\xffabc"), is_cut });
    let whole = World::new(body(false, false));
    assert_eq!(whole.decide(true), Verdict::ReadBody(4));
    assert!(matches!(whole.decide(false), Verdict::Ask(_)), "there is nothing to read");
    let http = attributes(&asked(whole.hears(beginning(false)).0)).request.unwrap().http.unwrap();
    assert_eq!((http.body.as_str(), http.headers["x-envoy-auth-partial-body"].as_str()), ("!abc", "false"));
    assert_eq!(refused(&whole.hears(beginning(true)).0), (Reason::BodyTooLarge, 413));
    let partial = World::new(body(true, true));
    let http = attributes(&asked(partial.hears(beginning(true)).0)).request.unwrap().http.unwrap();
    assert_eq!(
        (http.raw_body.as_slice(), http.headers["x-envoy-auth-partial-body"].as_str()),
        (&b"\xffabc"[..], "true")
    );
}

#[test]
fn an_allowed_request_gets_the_fields_that_the_service_sets() {
    let world = World::new(grpc());
    let ok = OkHttpResponse {
        headers: vec![
            option("x-user", "alice", None),
            option("accept", "y", Some(true)),
            option("x-new", "1", Some(false)),
        ],
        headers_to_remove: vec!["cookie".into(), ":path".into(), "host".into()],
        response_headers_to_add: vec![option("x-trace", "authz", Some(true))],
        ..Default::default()
    };
    let (verdict, response) = world.is_told(0, Some(HttpResponse::OkResponse(ok)));
    let fields = changed(&verdict, &world.fields);
    // A client's own value does not survive beside the one that the service sets.
    let users: Vec<_> = fields.get_all("x-user").iter().collect();
    assert!(users == ["alice"] && fields["x-new"] == "1", "{fields:?}");
    assert_eq!(fields.get_all("accept").iter().count(), 2);
    assert!(!fields.contains_key("cookie"));
    assert_eq!(response.get_all("x-trace").iter().count(), 2);
}

#[test]
fn a_denied_request_is_answered_as_the_service_says() {
    let world = World::new(wire::ExtAuthz { max_denied_response_body_bytes: 4, ..grpc() });
    assert_eq!(refused(&world.is_told(7, None).0), (Reason::ExternalAuthorizationDenied, 403));
    let denied = DeniedHttpResponse {
        status: Some(types::HttpStatus { code: 401 }),
        headers: vec![option("www-authenticate", "Basic", None)],
        body: "who are you".into(),
    };
    let Verdict::Respond(response) = world.is_told(16, Some(HttpResponse::DeniedResponse(denied))).0 else {
        panic!()
    };
    assert_eq!((response.status.as_u16(), &*response.body), (401, &b"who "[..]));
    assert_eq!(response.fields["www-authenticate"], "Basic");
}

#[test]
fn a_service_that_fails_lets_nothing_through_unless_it_may() {
    let closed =
        World::new(wire::ExtAuthz { status_on_error: Some(types::HttpStatus { code: 503 }), ..grpc() });
    let open = World::new(wire::ExtAuthz {
        failure_mode_allow: true,
        failure_mode_allow_header_add: true,
        ..grpc()
    });
    let error = || Some(HttpResponse::ErrorResponse(DeniedHttpResponse::default()));
    let garbage = || Heard::Reply(Ok(reply(200, HeaderMap::new(), HeaderMap::new())));
    for (closed, open) in [
        (closed.hears(failed()), open.hears(failed())),
        (closed.hears(garbage()), open.hears(garbage())),
        (closed.is_told(13, error()), open.is_told(13, error())),
    ] {
        assert_eq!(refused(&closed.0), (Reason::ExternalAuthorizationFailed, 503));
        assert_eq!(changed(&open.0, &HeaderMap::new())["x-envoy-auth-failure-mode-allowed"], "true");
    }
}

#[test]
fn an_answer_that_changes_what_it_may_not_lets_nothing_through() {
    let open = World::new(wire::ExtAuthz { failure_mode_allow: true, ..grpc() });
    let ok = |headers| OkHttpResponse { headers, ..Default::default() };
    let query = vec![core::QueryParameter { key: "a".into(), value: "b".into() }];
    for bad in [
        ok(vec![option(":path", "/admin", None)]),
        ok(vec![option("host", "other", None)]),
        ok(vec![option("transfer-encoding", "chunked", None)]),
        ok(vec![option("x", "a\nb", None)]),
        ok(vec![Default::default()]),
        OkHttpResponse { query_parameters_to_set: query, ..Default::default() },
        OkHttpResponse { response_headers_to_add: vec![option("bad name", "x", None)], ..Default::default() },
    ] {
        let (verdict, _) = open.is_told(0, Some(HttpResponse::OkResponse(bad)));
        assert_eq!(refused(&verdict), (Reason::ExternalAuthorizationFailed, 500));
    }
    let denied = DeniedHttpResponse { status: Some(types::HttpStatus { code: 101 }), ..Default::default() };
    let (verdict, _) = open.is_told(7, Some(HttpResponse::DeniedResponse(denied)));
    assert_eq!(refused(&verdict), (Reason::ExternalAuthorizationFailed, 500));
}

#[test]
fn routes_add_context_change_the_service_and_need_no_authorization() {
    let settings = |context: &[(&str, &str)], cluster: Option<&str>| {
        let context: HashMap<_, _> = context.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let service = cluster.map(|cluster| {
            let target = grpc_service::EnvoyGrpc { cluster_name: cluster.into(), ..Default::default() };
            let target_specifier = Some(grpc_service::TargetSpecifier::EnvoyGrpc(target));
            let service = core::GrpcService { target_specifier, ..Default::default() };
            wire::check_settings::ServiceOverride::GrpcService(service)
        });
        let of = wire::CheckSettings {
            context_extensions: context,
            service_override: service,
            ..Default::default()
        };
        ExtAuthz::decode_for_route(wire::ExtAuthzPerRoute { r#override: Some(Override::CheckSettings(of)) })
            .unwrap()
    };
    let of_host = settings(&[("a", "host"), ("b", "host")], Some("other"));
    let mut world = World::new(grpc());
    world.route = Some(settings(&[("a", "route")], None).over(&of_host));
    let question = world.asks();
    let context = attributes(&question).context_extensions;
    assert_eq!(
        (&*question.cluster, context["a"].as_str(), context["b"].as_str()),
        ("other", "route", "host")
    );
    let off = wire::ExtAuthzPerRoute { r#override: Some(Override::Disabled(true)) };
    world.route = Some(ExtAuthz::decode_for_route(off).unwrap().over(&of_host));
    assert_eq!(world.decide(false), Verdict::Admit);
}

#[test]
fn a_share_of_requests_needs_no_authorization_or_is_refused() {
    let none = core::RuntimeFractionalPercent {
        default_value: Some(types::FractionalPercent { numerator: 0, denominator: 0 }),
        ..Default::default()
    };
    let wire = wire::ExtAuthz { filter_enabled: Some(none), ..grpc() };
    assert_eq!(World::new(wire.clone()).decide(false), Verdict::Admit);
    let deny = core::RuntimeFeatureFlag {
        default_value: Some(protobuf::BoolValue { value: true }),
        ..Default::default()
    };
    let world = World::new(wire::ExtAuthz { deny_at_disable: Some(deny), ..wire });
    assert_eq!(refused(&world.decide(false)), (Reason::ExternalAuthorizationFailed, 403));
}

#[test]
fn what_cannot_be_honoured_is_refused_by_field() {
    let refused = |wire: wire::ExtAuthz| ExtAuthz::decode(wire).unwrap_err().field;
    let size = |max_request_bytes| Some(wire::BufferSettings { max_request_bytes, ..Default::default() });
    for (wire, field) in [
        (wire::ExtAuthz { services: None, ..grpc() }, "services"),
        (wire::ExtAuthz { transport_api_version: 1, ..grpc() }, "transport_api_version"),
        (wire::ExtAuthz { with_request_body: size(0), ..grpc() }, "with_request_body.max_request_bytes"),
        (
            wire::ExtAuthz { with_request_body: size(1 << 30), ..grpc() },
            "with_request_body.max_request_bytes",
        ),
        (wire::ExtAuthz { allowed_headers: names(&[]), ..grpc() }, "allowed_headers.patterns"),
        (wire::ExtAuthz { status_on_error: Some(Default::default()), ..grpc() }, "status_on_error"),
        (
            http_service(wire::HttpService { path_prefix: "check".into(), ..Default::default() }),
            "http_service.path_prefix",
        ),
        (
            http_service(wire::HttpService { path_override: "check".into(), ..Default::default() }),
            "http_service.path_override",
        ),
    ] {
        assert_eq!(refused(wire), field);
    }
    let nothing = wire::ExtAuthzPerRoute { r#override: None };
    assert_eq!(ExtAuthz::decode_for_route(nothing).unwrap_err().field, "override");
}
