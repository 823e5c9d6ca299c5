use http::{HeaderMap, HeaderValue, Method};
use outrigger_core::reason::Reason;
use outrigger_proto::xds::core;
use outrigger_proto::xds::ext_authz as wire;

use super::{World, changed, headers, http_service, names, refused, reply};
use crate::verdict::{Heard, Verdict};

#[test]
fn an_http_service_sees_the_request_it_is_asked_about() {
    let request = wire::AuthorizationRequest {
        headers_to_add: vec![core::HeaderValue {
            key: "x-from".into(),
            value: "mesh".into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let service = wire::HttpService {
        path_prefix: "/check".into(),
        authorization_request: Some(request),
        ..Default::default()
    };
    let mut world =
        World::new(wire::ExtAuthz { allowed_headers: names(&["cookie"]), ..http_service(service) });
    world.fields.insert("authorization", HeaderValue::from_static("Bearer x"));
    let question = world.asks();
    assert_eq!((question.path.as_str(), question.authority.as_str()), ("/check/pay?x=1", "cart:80"));
    assert!(question.method == Method::POST && !question.is_grpc);
    let expected = [("authorization", "Bearer x"), ("cookie", "a=1; b=2"), ("x-from", "mesh")];
    assert_eq!(question.fields, headers(&expected));
}

#[test]
fn the_status_of_an_http_service_decides() {
    let response = wire::AuthorizationResponse {
        allowed_upstream_headers: names(&["x-user"]),
        allowed_upstream_headers_to_append: names(&["accept"]),
        allowed_client_headers: names(&["x-why"]),
        allowed_client_headers_on_success: names(&["x-trace"]),
        ..Default::default()
    };
    let world = World::new(http_service(wire::HttpService {
        authorization_response: Some(response),
        ..Default::default()
    }));
    let fields = headers(&[
        ("x-user", "alice"),
        ("accept", "y"),
        ("x-trace", "authz"),
        ("x-why", "no"),
        ("x-secret", "1"),
        ("www-authenticate", "Basic"),
        ("x-envoy-auth-headers-to-remove", "cookie, host"),
    ]);
    let told = |status| world.hears(Heard::Reply(Ok(reply(status, fields.clone(), HeaderMap::new()))));
    let (verdict, response) = told(200);
    let request = changed(&verdict, &world.fields);
    assert_eq!((request["x-user"].as_bytes(), request.get_all("accept").iter().count()), (&b"alice"[..], 2));
    assert!(!request.contains_key("cookie") && !request.contains_key("x-secret"));
    assert_eq!(response.get_all("x-trace").iter().count(), 2);
    let Verdict::Respond(denied) = told(401).0 else { panic!() };
    assert_eq!((denied.status.as_u16(), &*denied.body), (401, &b"because"[..]));
    assert_eq!(denied.fields, headers(&[("x-why", "no"), ("www-authenticate", "Basic")]));
    assert_eq!(refused(&told(503).0), (Reason::ExternalAuthorizationFailed, 403));
}
