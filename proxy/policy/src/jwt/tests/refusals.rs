//! What clients read of refused requests, and configurations that are refused.

use outrigger_test_support::token::encoded;

use super::*;

#[test]
fn a_client_reads_why_its_token_is_refused() {
    let world = World::new().requires(idp()).change(|provider| {
        provider.audiences = vec!["cart".into()];
        provider.require_expiration = true;
    });
    let filter = world.filter();
    let realm = "Bearer realm=\"cart:80\"";
    let missing = run(&filter, "/", &HeaderMap::new()).unwrap_err();
    assert_eq!(missing, (401, realm.to_owned()));
    let claims = |text: &str| world.idp.token(text);
    let valid = world.token(r#","aud":"cart""#);
    let forged = TokenSigner::new("ES256", "a").token(r#"{"iss":"https://idp","exp":1,"aud":"cart"}"#);
    let unknown = TokenSigner::new("ES256", "z").token(r#"{"iss":"https://idp"}"#);
    let unsecured = |signature: &str| {
        let part = valid.split('.').nth(1).unwrap();
        format!("{}.{part}.{signature}", encoded(br#"{"alg":"none"}"#))
    };
    for (token, why) in [
        (claims(r#"{"iss":"https://idp","exp":1}"#), "The token has expired"),
        (claims(r#"{"iss":"https://idp"}"#), "The token has no expiration time"),
        (claims(r#"{"iss":"https://idp","exp":9e9,"nbf":8e9}"#), "The token is not valid yet"),
        (claims(r#"{"iss":"https://evil","exp":9e9}"#), "The token has another issuer"),
        (claims(r#"{"iss":"https://idp","iss":"x"}"#), "The token is malformed"),
        (claims("foo"), "The token is malformed"),
        (forged, "The signature of the token is invalid"),
        (unknown, "The token is signed with an unknown key"),
        (unsecured(""), "The algorithm of the token is not accepted"),
        (unsecured("AAAA"), "The algorithm of the token is not accepted"),
        ("x".into(), "The token is malformed"),
        (claims(&format!(r#"{{"x":"{}"}}"#, "x".repeat(20_000))), "The token is too long"),
        (world.idp.sign(r#"{"alg":"ES256","cty":"JWT"}"#, &valid), "The token contains a token"),
        (
            world.idp.sign(r#"{"alg":"ES256","crit":["b64"],"b64":false}"#, "{}"),
            "The token has critical extensions",
        ),
    ] {
        let (status, challenge) = run(&filter, "/", &bearer(&token)).unwrap_err();
        let expected = format!("{realm}, error=\"invalid_token\", error_description=\"{why}\"");
        assert_eq!((status, challenge), (401, expected));
    }
    let (status, challenge) = run(&filter, "/", &bearer(&world.token(""))).unwrap_err();
    assert_eq!((status, challenge.as_str()), (403, ""), "another audience");
    let mut fields = bearer(&valid);
    for _ in 0..8 {
        fields.append(AUTHORIZATION, fields[AUTHORIZATION].clone());
    }
    assert!(run(&filter, "/", &fields).unwrap_err().1.contains("too many tokens"));
}

#[test]
fn a_silent_filter_says_nothing_of_the_token() {
    let mut world = World::new().requires(idp());
    world.wire.strip_failure_response = true;
    let refused = run(&world.filter(), "/", &bearer("x")).unwrap_err();
    assert_eq!(refused, (401, "Bearer realm=\"cart:80\"".to_owned()));
}

#[test]
fn what_cannot_be_enforced_is_refused_by_field() {
    type Change = fn(&mut jwt_authn::JwtProvider);
    let keys = |text: &str| {
        let text = core::data_source::Specifier::InlineString(text.into());
        core::DataSource { specifier: Some(text), ..Default::default() }
    };
    let local = |source| Some(jwt_authn::jwt_provider::JwksSourceSpecifier::LocalJwks(source));
    let of_provider: [(Change, &str); 7] = [
        (|of| of.clear_route_cache = true, "clear_route_cache"),
        (|of| of.failed_status_in_metadata = "x".into(), "failed_status_in_metadata"),
        (|of| of.jwks_source_specifier = None, "jwks_source_specifier"),
        (|of| of.forward_payload_header = ":path".into(), "forward_payload_header"),
        (|of| of.claim_to_headers = vec![Default::default()], "claim_to_headers[0].header_name"),
        (|of| of.from_headers = vec![Default::default()], "from_headers[0].name"),
        (
            |of| {
                let header_name = "x-user".into();
                of.claim_to_headers = vec![jwt_authn::JwtClaimToHeader { header_name, ..Default::default() }];
            },
            "claim_to_headers[0].claim_name",
        ),
    ];
    for (change, field) in of_provider {
        let refused = Jwt::decode(World::new().change(change).wire).unwrap_err();
        assert_eq!(refused.field, format!("providers[\"idp\"].{field}"));
    }
    for (text, why) in
        [("<html>", "is not a JSON Web Key Set: expected value"), (r#"{"keys":[]}"#, "has no keys")]
    {
        let world = World::new().change(|of| of.jwks_source_specifier = local(keys(text)));
        let refused = Jwt::decode(world.wire).unwrap_err();
        assert_eq!(refused.field, "providers[\"idp\"].local_jwks");
        assert!(refused.problem.starts_with(why), "{refused}");
    }
    let unknown = World::new().requires(Wire::ProviderName("x".into())).wire;
    assert_eq!(Jwt::decode(unknown).unwrap_err().field, "rules[0].requires.provider_name");
    let one = World::new().requires(any(vec![idp()])).wire;
    assert_eq!(Jwt::decode(one).unwrap_err().field, "rules[0].requires.requires_any.requirements");
    let extract = World::new().requires(Wire::ExtractOnlyWithoutValidation(Default::default())).wire;
    assert_eq!(Jwt::decode(extract).unwrap_err().field, "rules[0].requires.extract_only_without_validation");
    let named = jwt_authn::requirement_rule::RequirementType::RequirementName("x".into());
    let named = World::new().rule("/", Some(named)).wire;
    assert_eq!(Jwt::decode(named).unwrap_err().field, "rules[0].requirement_name");
    let nothing = jwt_authn::PerRouteConfig::default();
    assert_eq!(Jwt::decode_for_route(nothing).unwrap_err().field, "requirement_specifier");
}
