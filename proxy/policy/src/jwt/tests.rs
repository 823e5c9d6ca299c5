use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use http::header::{AUTHORIZATION, COOKIE};
use outrigger_proto::xds::{core, protobuf, route};
use outrigger_test_support::token::{TokenSigner, key_set};
use serde_json::json;

use super::*;

mod refusals;

/// The time of the tests, in seconds since the epoch.
const NOW: u64 = 1_800_000_000;

/// A configuration with the providers `idp` and `other`, each with a key.
struct World {
    idp: TokenSigner,
    other: TokenSigner,
    wire: jwt_authn::JwtAuthentication,
}

impl World {
    fn new() -> Self {
        let (idp, other) = (TokenSigner::new("ES256", "a"), TokenSigner::new("EdDSA", "b"));
        let providers = [
            ("idp".to_owned(), provider("https://idp", &idp)),
            ("other".to_owned(), provider("https://other", &other)),
        ];
        let wire = jwt_authn::JwtAuthentication { providers: providers.into(), ..Default::default() };
        Self { idp, other, wire }
    }

    /// Every request needs this.
    fn requires(self, of: Wire) -> Self {
        let requirement = jwt_authn::JwtRequirement { requires_type: Some(of) };
        self.rule("/", Some(jwt_authn::requirement_rule::RequirementType::Requires(requirement)))
    }

    fn rule(mut self, prefix: &str, of: Option<jwt_authn::requirement_rule::RequirementType>) -> Self {
        self.wire
            .rules
            .push(jwt_authn::RequirementRule { r#match: Some(prefixed(prefix)), requirement_type: of });
        self
    }

    fn change(mut self, change: impl Fn(&mut jwt_authn::JwtProvider)) -> Self {
        change(self.wire.providers.get_mut("idp").unwrap());
        self
    }

    fn filter(&self) -> Jwt {
        Jwt::decode(self.wire.clone()).unwrap()
    }

    /// A valid token of `idp`, with more claims.
    fn token(&self, more: &str) -> String {
        self.idp.token(&format!(r#"{{"iss":"https://idp","exp":{}{more}}}"#, NOW + 100))
    }

    fn token_of_other(&self) -> String {
        self.other.token(&format!(r#"{{"iss":"https://other","exp":{}}}"#, NOW + 100))
    }
}

use jwt_authn::jwt_requirement::RequiresType as Wire;

fn provider(issuer: &str, signer: &TokenSigner) -> jwt_authn::JwtProvider {
    let keys = core::data_source::Specifier::InlineString(key_set([signer]));
    let keys = core::DataSource { specifier: Some(keys), ..Default::default() };
    jwt_authn::JwtProvider {
        issuer: issuer.into(),
        jwks_source_specifier: Some(jwt_authn::jwt_provider::JwksSourceSpecifier::LocalJwks(keys)),
        ..Default::default()
    }
}

fn prefixed(prefix: &str) -> route::RouteMatch {
    let path = route::route_match::PathSpecifier::Prefix(prefix.into());
    route::RouteMatch { path_specifier: Some(path), ..Default::default() }
}

fn idp() -> Wire {
    Wire::ProviderName("idp".into())
}

fn other() -> Wire {
    Wire::ProviderName("other".into())
}

fn any(of: Vec<Wire>) -> Wire {
    let requirements =
        of.into_iter().map(|of| jwt_authn::JwtRequirement { requires_type: Some(of) }).collect();
    Wire::RequiresAny(jwt_authn::JwtRequirementOrList { requirements })
}

fn all(of: Vec<Wire>) -> Wire {
    let requirements =
        of.into_iter().map(|of| jwt_authn::JwtRequirement { requires_type: Some(of) }).collect();
    Wire::RequiresAll(jwt_authn::JwtRequirementAndList { requirements })
}

fn missing() -> Wire {
    Wire::AllowMissing(protobuf::Empty {})
}

fn missing_or_failed() -> Wire {
    Wire::AllowMissingOrFailed(protobuf::Empty {})
}

fn bearer(token: &str) -> HeaderMap {
    let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
    HeaderMap::from_iter([(AUTHORIZATION, value)])
}

/// What an admitted request looks like afterwards, or the status and the challenge of a refused one.
fn run(filter: &Jwt, path: &str, headers: &HeaderMap) -> Result<Passed, (u16, String)> {
    run_for_route(filter, filter, path, headers)
}

#[derive(Debug)]
struct Passed {
    headers: HeaderMap,
    path: String,
    claims: HashMap<String, serde_json::Value>,
}

fn run_for_route(of: &Jwt, listener: &Jwt, path: &str, headers: &HeaderMap) -> Result<Passed, (u16, String)> {
    let head = Head { method: &Method::GET, scheme: "http", authority: "cart:80", path, headers };
    let time_of_day = || SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    let request = FilterRequest { time_of_day, ..FilterRequest::of(head) };
    let mut response = ResponseChanges::default();
    let changes = match of.decide(listener, &request, &mut response) {
        Verdict::Admit => RequestChanges::default(),
        Verdict::AdmitChanged(changes) => *changes,
        Verdict::Refuse(refusal) => {
            assert_eq!((refusal.reason, refusal.grpc_status), (Reason::Unauthenticated, None));
            let mut fields = HeaderMap::new();
            response.apply(&mut fields);
            let challenge = fields.get(WWW_AUTHENTICATE).map(|value| value.to_str().unwrap().to_owned());
            return Err((refusal.status.as_u16(), challenge.unwrap_or_default()));
        }
        other => panic!("{other:?}"),
    };
    let mut headers = headers.clone();
    changes.fields.apply(&mut headers);
    let path = changes.path.map_or(path.to_owned(), |path| path.to_string());
    let claims = changes.claims.into_iter();
    let claims =
        claims.map(|(name, claims)| (name.to_string(), Arc::unwrap_or_clone(claims).into())).collect();
    Ok(Passed { headers, path, claims })
}

fn status(filter: &Jwt, headers: &HeaderMap) -> u16 {
    run(filter, "/", headers).map_or_else(|(status, _)| status, |_| 200)
}

#[test]
fn a_requirement_holds_for_the_tokens_that_it_says() {
    let both = |a: &str, b: &str| {
        let mut fields = bearer(a);
        fields.insert("x-other", b.parse().unwrap());
        fields
    };
    let from = |name: &str| vec![jwt_authn::JwtHeader { name: name.into(), value_prefix: String::new() }];
    // No token, a valid one of idp, an invalid one of it, a valid one of other, one of both.
    for (requirement, expected) in [
        (idp(), [401, 200, 401, 401, 200]),
        (other(), [401, 401, 401, 200, 200]),
        (any(vec![idp(), other()]), [401, 200, 401, 200, 200]),
        (all(vec![idp(), other()]), [401, 401, 401, 401, 200]),
        (missing(), [200, 200, 401, 200, 200]),
        (missing_or_failed(), [200, 200, 200, 200, 200]),
        (any(vec![idp(), missing()]), [200, 200, 401, 200, 200]),
        (any(vec![idp(), missing_or_failed()]), [200, 200, 200, 200, 200]),
        (any(vec![missing(), missing_or_failed()]), [200, 200, 200, 200, 200]),
        (all(vec![any(vec![idp(), missing()]), other()]), [401, 401, 401, 200, 200]),
    ] {
        let mut world = World::new().requires(requirement.clone());
        world.wire.providers.get_mut("other").unwrap().from_headers = from("x-other");
        let filter = world.filter();
        let (token, of_other) = (world.token(""), world.token_of_other());
        let mut only_other = HeaderMap::new();
        only_other.insert("x-other", of_other.parse().unwrap());
        let forged = world.idp.token(r#"{"iss":"https://idp","exp":1}"#);
        let requests =
            [HeaderMap::new(), bearer(&token), bearer(&forged), only_other, both(&token, &of_other)];
        assert_eq!(requests.map(|fields| status(&filter, &fields)), expected, "{requirement:?}");
    }
}

#[test]
fn a_token_of_another_provider_at_the_same_place_is_refused() {
    let world = World::new().requires(any(vec![idp(), missing()]));
    assert_eq!(status(&world.filter(), &bearer(&world.token_of_other())), 401);
    let world = World::new().requires(missing());
    assert_eq!(status(&world.filter(), &bearer(&world.token_of_other())), 200);
    let stranger = TokenSigner::new("ES256", "a").token(r#"{"iss":"https://evil"}"#);
    assert_eq!(status(&world.filter(), &bearer(&stranger)), 401);
}

#[test]
fn the_audiences_of_a_requirement_replace_those_of_the_provider() {
    let world = World::new().change(|provider| provider.audiences = vec!["cart".into()]);
    let token = world.token(r#","aud":"cart""#);
    let instead =
        jwt_authn::ProviderWithAudiences { provider_name: "idp".into(), audiences: vec!["x".into()] };
    for (requirement, expected) in [(idp(), 200), (Wire::ProviderAndAudiences(instead), 403)] {
        let wire = World { wire: world.wire.clone(), ..World::new() }.requires(requirement);
        assert_eq!(status(&wire.filter(), &bearer(&token)), expected);
    }
}

#[test]
fn the_first_rule_that_matches_or_the_route_decides() {
    use jwt_authn::requirement_rule::RequirementType::RequirementName;
    let mut world = World::new();
    let requirement = jwt_authn::JwtRequirement { requires_type: Some(idp()) };
    world.wire.requirement_map.insert("strict".into(), requirement);
    let world = world.rule("/health", None).rule("/api", Some(RequirementName("strict".into())));
    let filter = world.filter();
    let none = HeaderMap::new();
    let of = |path: &str| run(&filter, path, &none).map_or_else(|(status, _)| status, |_| 200);
    assert_eq!([of("/health"), of("/api/x"), of("/elsewhere")], [200, 401, 200]);
    let by_route = |of: &Jwt, path: &str| {
        run_for_route(of, &filter, path, &none).map_or_else(|(status, _)| status, |_| 200)
    };
    let named = |name: &str| {
        let name = jwt_authn::per_route_config::RequirementSpecifier::RequirementName(name.into());
        Jwt::decode_for_route(jwt_authn::PerRouteConfig { requirement_specifier: Some(name) }).unwrap()
    };
    assert_eq!(by_route(&Jwt::Disabled, "/api/x"), 200);
    assert_eq!(by_route(&named("strict"), "/health"), 401);
    assert_eq!(by_route(&named("unknown"), "/health"), 403);
}

#[test]
fn claims_are_copied_and_their_fields_are_never_the_clients() {
    let claim = |header_name: &str, claim_name: &str| jwt_authn::JwtClaimToHeader {
        header_name: header_name.into(),
        claim_name: claim_name.into(),
        claim_path: vec![],
    };
    let key = |key: &str| jwt_authn::jwt_claim_to_header::PathSegment { key: key.into() };
    let world = World::new().requires(any(vec![idp(), missing()])).change(|provider| {
        provider.claim_to_headers = vec![
            claim("x-user", "sub"),
            claim("x-age", "age"),
            claim("x-city", "address.city"),
            claim("x-roles", "roles"),
            claim("x-bad", "bad"),
            claim("x-none", "none"),
            jwt_authn::JwtClaimToHeader {
                header_name: "x-tenant".into(),
                claim_path: vec![key("https://shop/tenant")],
                ..Default::default()
            },
        ];
        provider.forward_payload_header = "x-payload".into();
        provider.payload_in_metadata = "claims".into();
        provider.header_in_metadata = "header".into();
        let space_delimited_claims = vec!["scope".into()];
        provider.normalize_payload_in_metadata =
            Some(jwt_authn::jwt_provider::NormalizePayload { space_delimited_claims });
    });
    let filter = world.filter();
    let names = ["x-user", "x-age", "x-city", "x-roles", "x-bad", "x-none", "x-tenant", "x-payload"];
    let spoofed = |mut fields: HeaderMap| {
        for name in names {
            fields.append(name, HeaderValue::from_static("forged"));
            fields.append(name, HeaderValue::from_static("forged twice"));
        }
        fields
    };
    let more = r#","sub":"ann","age":7,"address":{"city":"Ulm"},"roles":["a"],"bad":"a\nb","scope":"r w","https://shop/tenant":true"#;
    let token = world.token(more);
    let passed = run(&filter, "/", &spoofed(bearer(&token))).unwrap();
    let of = |name: &str| {
        let all: Vec<_> = passed.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        all.join(",")
    };
    assert_eq!([of("x-user"), of("x-age"), of("x-city"), of("x-tenant")], ["ann", "7", "Ulm", "true"]);
    assert_eq!([of("x-roles"), of("x-bad"), of("x-none")], ["WyJhIl0=", "", ""]);
    assert_eq!(of("x-payload"), token.split('.').nth(1).unwrap());
    assert!(!passed.headers.contains_key(AUTHORIZATION));
    assert_eq!(passed.claims["claims"]["scope"], json!(["r", "w"]));
    assert_eq!(passed.claims["header"]["kid"], "a");
    // Without a token, and where none is required.
    for of_route in [&filter, &Jwt::Disabled] {
        let passed = run_for_route(of_route, &filter, "/", &spoofed(HeaderMap::new())).unwrap();
        assert!(passed.headers.is_empty() && passed.claims.is_empty(), "{passed:?}");
    }
}

#[test]
fn tokens_are_found_where_the_provider_says_and_removed_unless_they_are_forwarded() {
    let places = |provider: &mut jwt_authn::JwtProvider| {
        let name = "x-token".into();
        provider.from_headers = vec![jwt_authn::JwtHeader { name, value_prefix: "T:".into() }];
        provider.from_params = vec!["t".into()];
        provider.from_cookies = vec!["session".into()];
    };
    let world = World::new().requires(idp()).change(places);
    let token = world.token("");
    let field = |name: &str, value: String| {
        HeaderMap::from_iter([(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap())])
    };
    let requests = [
        ("/?a=1".to_owned(), field("x-token", format!("T:{token}"))),
        (format!("/?a=1&t={token}"), HeaderMap::new()),
        ("/?a=1".to_owned(), field("cookie", format!("b=2; session={token}"))),
    ];
    let (filter, forwards) = (world.filter(), world.change(|provider| provider.forward = true).filter());
    for (path, fields) in &requests {
        let stripped = run(&filter, path, fields).unwrap();
        assert_eq!(stripped.path, "/?a=1");
        // Cookies stay.
        assert_eq!(stripped.headers.is_empty(), !fields.contains_key(COOKIE));
        let forwarded = run(&forwards, path, fields).unwrap();
        assert_eq!((&forwarded.path, &forwarded.headers), (path, fields));
    }
    // Not at the default places.
    assert_eq!(status(&filter, &bearer(&token)), 401);
}

#[test]
fn the_default_places_are_the_bearer_field_and_the_access_token() {
    let world = World::new().requires(idp());
    let (filter, token) = (world.filter(), world.token(""));
    assert_eq!(run(&filter, &format!("/x?access_token={token}"), &HeaderMap::new()).unwrap().path, "/x");
    assert_eq!(status(&filter, &bearer(&token)), 200);
    // Every token must be valid: the application could read the other one.
    let both = run(&filter, "/x?access_token=forged", &bearer(&token)).unwrap_err();
    assert_eq!(both.0, 401);
}

#[test]
fn a_verified_token_is_checked_for_each_request() {
    let world = World::new().requires(idp());
    let filter = world.filter();
    let token = world.idp.token(&format!(r#"{{"iss":"https://idp","exp":{}}}"#, NOW - 30));
    assert_eq!(status(&filter, &bearer(&token)), 200, "within the skew");
    let strict = World { wire: world.wire.clone(), ..World::new() }
        .change(|provider| provider.clock_skew_seconds = 10)
        .filter();
    assert_eq!(status(&strict, &bearer(&token)), 401, "expired, although its signature is known");
    let renewed = World { wire: world.wire.clone(), ..World::new() };
    let renewed = renewed.change(|of| {
        let signer = TokenSigner::new("ES256", "a");
        of.jwks_source_specifier = provider("", &signer).jwks_source_specifier;
    });
    assert_eq!(status(&renewed.filter(), &bearer(&token)), 401, "the keys were replaced");
}

#[test]
fn a_preflight_request_needs_no_token_where_that_is_allowed() {
    let mut world = World::new().requires(idp());
    let fields = HeaderMap::from_iter([
        (ORIGIN, HeaderValue::from_static("https://shop")),
        (ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("PUT")),
    ]);
    for (allowed, method, admitted) in
        [(true, Method::OPTIONS, true), (false, Method::OPTIONS, false), (true, Method::GET, false)]
    {
        world.wire.bypass_cors_preflight = allowed;
        let head = Head { method: &method, scheme: "http", authority: "a", path: "/", headers: &fields };
        let filter = world.filter();
        let verdict = filter.decide(&filter, &FilterRequest::of(head), &mut ResponseChanges::default());
        assert_eq!(verdict == Verdict::Admit, admitted);
    }
}
