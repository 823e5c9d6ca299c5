//! The filters that authenticate requests, and their configuration by route.

use outrigger_proto::xds::api_key_auth::{ApiKeyAuth, ApiKeyAuthPerRoute, Credential, Forwarding, KeySource};
use outrigger_proto::xds::jwt_authn::jwt_claim_to_header::PathSegment;
use outrigger_proto::xds::jwt_authn::jwt_provider::{JwksSourceSpecifier, NormalizePayload};
use outrigger_proto::xds::jwt_authn::jwt_requirement::RequiresType;
use outrigger_proto::xds::jwt_authn::per_route_config::RequirementSpecifier;
use outrigger_proto::xds::jwt_authn::requirement_rule::RequirementType;
use outrigger_proto::xds::jwt_authn::{
    JwksAsyncFetch, JwtAuthentication, JwtClaimToHeader, JwtHeader, JwtProvider, JwtRequirement,
    JwtRequirementAndList, JwtRequirementOrList, PerRouteConfig, ProviderWithAudiences, RemoteJwks,
    RequirementRule,
};
use outrigger_proto::xds::matcher::string_matcher::MatchPattern;
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::{core, matcher, protobuf, route, type_url};

use super::managers::in_http_filter;
use super::place::Place;
use super::routes::in_route;
use crate::fixture::*;

pub fn places() -> Vec<Place> {
    [jwt_places(), api_key_places()].into_iter().flatten().collect()
}

const KEYS: &str = r#"{"keys":[{"kty":"oct","k":"hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg"}]}"#;

fn in_jwt(of: JwtAuthentication) -> (String, Any) {
    in_http_filter(http_filter("jwt", packed(type_url::JWT_AUTHENTICATION, &of)))
}

fn in_provider(of: JwtProvider) -> (String, Any) {
    in_jwt(JwtAuthentication { providers: [("p".to_owned(), of)].into(), ..Default::default() })
}

fn in_requirement(of: JwtRequirement) -> (String, Any) {
    let requirement_map = [("r".to_owned(), of)].into();
    in_jwt(JwtAuthentication { requirement_map, ..jwt() })
}

fn jwt() -> JwtAuthentication {
    let providers = ["p", "q"].map(|name| (name.to_owned(), provider()));
    JwtAuthentication { providers: providers.into(), ..Default::default() }
}

fn provider() -> JwtProvider {
    JwtProvider { jwks_source_specifier: Some(local(inline(KEYS))), ..Default::default() }
}

fn inline(text: &str) -> core::DataSource {
    let specifier = Some(core::data_source::Specifier::InlineString(text.into()));
    core::DataSource { specifier, ..Default::default() }
}

fn local(source: core::DataSource) -> JwksSourceSpecifier {
    JwksSourceSpecifier::LocalJwks(source)
}

fn of_provider() -> JwtRequirement {
    JwtRequirement { requires_type: Some(RequiresType::ProviderName("p".into())) }
}

fn in_remote(of: RemoteJwks) -> (String, Any) {
    in_provider(JwtProvider {
        jwks_source_specifier: Some(JwksSourceSpecifier::RemoteJwks(of)),
        ..provider()
    })
}

fn remote() -> RemoteJwks {
    let failed_refetch_duration = seconds(5);
    RemoteJwks {
        http_uri: Some(uri()),
        async_fetch: Some(JwksAsyncFetch { failed_refetch_duration, ..Default::default() }),
        ..Default::default()
    }
}

fn uri() -> core::HttpUri {
    let http_upstream_type = Some(core::http_uri::HttpUpstreamType::Cluster("idp".into()));
    core::HttpUri { uri: "https://a.example/keys".into(), timeout: seconds(1), http_upstream_type }
}

fn backoff() -> core::BackoffStrategy {
    core::BackoffStrategy { base_interval: seconds(1), max_interval: None }
}

fn other_keys() -> core::DataSource {
    inline(&KEYS.replace("hJtX", "iJtX"))
}

fn claim() -> JwtClaimToHeader {
    JwtClaimToHeader { header_name: "x-a".into(), claim_name: "a".into(), claim_path: vec![] }
}

fn segment() -> PathSegment {
    PathSegment { key: "a".into() }
}

fn rule() -> RequirementRule {
    let path_specifier = Some(route::route_match::PathSpecifier::Prefix("/a".into()));
    let matching = route::RouteMatch { path_specifier, ..Default::default() };
    RequirementRule { r#match: Some(matching), requirement_type: None }
}

fn two() -> Vec<JwtRequirement> {
    vec![of_provider(), of_provider()]
}

fn jwt_places() -> Vec<Place> {
    let requires = |of: fn() -> RequiresType| move |to: &mut JwtRequirement| to.requires_type = Some(of());
    vec![
        Place::new(
            "JwtAuthentication",
            "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            jwt(),
            in_jwt,
        )
        .probe("rules", |of: &mut JwtAuthentication| of.rules.push(rule()))
        .probe("providers", |of: &mut JwtAuthentication| of.providers.clear())
        .probe("requirement_map", |of: &mut JwtAuthentication| {
            of.requirement_map = [("r".to_owned(), of_provider())].into();
        })
        .harmless("refusals are counted by their reason", &["stat_prefix"]),
        Place::new(
            "PerRouteConfig (JWT)",
            "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig",
            PerRouteConfig { requirement_specifier: Some(RequirementSpecifier::RequirementName("r".into())) },
            |of| {
                let any = packed(type_url::JWT_PER_ROUTE, &of);
                let typed_per_filter_config = [("jwt".to_owned(), any)].into();
                in_route(route::Route { typed_per_filter_config, ..forward(CART) })
            },
        )
        .probe("disabled", |of: &mut PerRouteConfig| {
            of.requirement_specifier = Some(RequirementSpecifier::Disabled(true));
        })
        .probe("requirement_name", |of: &mut PerRouteConfig| {
            of.requirement_specifier = Some(RequirementSpecifier::RequirementName("other".into()));
        }),
        Place::new(
            "JwtProvider",
            "envoy.extensions.filters.http.jwt_authn.v3.JwtProvider",
            JwtProvider { forward_payload_header: "x-payload".into(), ..provider() },
            in_provider,
        )
        .probe("subjects", |of: &mut JwtProvider| {
            let match_pattern = Some(MatchPattern::Prefix("spiffe://".into()));
            of.subjects = Some(matcher::StringMatcher { match_pattern, ignore_case: false });
        })
        .probe("from_headers", |of: &mut JwtProvider| of.from_headers.push(header()))
        .probe("claim_to_headers", |of: &mut JwtProvider| of.claim_to_headers.push(claim()))
        .probe("normalize_payload_in_metadata", |of: &mut JwtProvider| {
            let space_delimited_claims = vec!["scope".into()];
            of.normalize_payload_in_metadata = Some(NormalizePayload { space_delimited_claims });
        })
        .probe("remote_jwks", |of: &mut JwtProvider| {
            of.jwks_source_specifier = Some(JwksSourceSpecifier::RemoteJwks(remote()))
        })
        .probe("local_jwks", |of: &mut JwtProvider| of.jwks_source_specifier = Some(local(other_keys())))
        .harmless("verified tokens are cached within bounds of our own", &["jwt_cache_config"]),
        Place::new(
            "NormalizePayload",
            "envoy.extensions.filters.http.jwt_authn.v3.JwtProvider.NormalizePayload",
            NormalizePayload::default(),
            |of| in_provider(JwtProvider { normalize_payload_in_metadata: Some(of), ..provider() }),
        ),
        Place::new("DataSource (JWKS)", "envoy.config.core.v3.DataSource", inline(KEYS), |of| {
            in_provider(JwtProvider { jwks_source_specifier: Some(local(of)), ..Default::default() })
        })
        .probe("inline_string", |of: &mut core::DataSource| *of = other_keys())
        .probe("inline_bytes", |of: &mut core::DataSource| {
            let text = KEYS.replace("hJtX", "jJtX").into_bytes();
            of.specifier = Some(core::data_source::Specifier::InlineBytes(text));
        }),
        Place::new(
            "RemoteJwks",
            "envoy.extensions.filters.http.jwt_authn.v3.RemoteJwks",
            remote(),
            in_remote,
        )
        .probe("retry_policy", |of: &mut RemoteJwks| {
            of.retry_policy =
                Some(core::RetryPolicy { retry_back_off: Some(backoff()), ..Default::default() });
        }),
        Place::new("HttpUri", "envoy.config.core.v3.HttpUri", uri(), |of| {
            in_remote(RemoteJwks { http_uri: Some(of), ..Default::default() })
        })
        .probe("uri", |of: &mut core::HttpUri| of.uri = "https://b.example/".into()),
        Place::new(
            "JwksAsyncFetch",
            "envoy.extensions.filters.http.jwt_authn.v3.JwksAsyncFetch",
            JwksAsyncFetch::default(),
            |of| in_remote(RemoteJwks { async_fetch: Some(of), retry_policy: None, ..remote() }),
        )
        .harmless(
            "keys are fetched with the first request that needs them, for all workers",
            &["fast_listener"],
        ),
        Place::new(
            "RetryPolicy (JWKS)",
            "envoy.config.core.v3.RetryPolicy",
            core::RetryPolicy::default(),
            |of| in_remote(RemoteJwks { retry_policy: Some(of), ..remote() }),
        )
        .probe("retry_back_off", |of: &mut core::RetryPolicy| {
            of.retry_back_off = Some(core::BackoffStrategy { base_interval: seconds(3), max_interval: None })
        })
        .harmless("fetches are repeated until one succeeds", &["num_retries"]),
        Place::new("BackoffStrategy (JWKS)", "envoy.config.core.v3.BackoffStrategy", backoff(), |of| {
            let retry_policy = Some(core::RetryPolicy { retry_back_off: Some(of), ..Default::default() });
            in_remote(RemoteJwks { retry_policy, ..remote() })
        })
        .probe("max_interval", |of: &mut core::BackoffStrategy| of.max_interval = seconds(9)),
        Place::new("JwtHeader", "envoy.extensions.filters.http.jwt_authn.v3.JwtHeader", header(), |of| {
            in_provider(JwtProvider { from_headers: vec![of], ..provider() })
        }),
        Place::new(
            "JwtClaimToHeader",
            "envoy.extensions.filters.http.jwt_authn.v3.JwtClaimToHeader",
            claim(),
            |of| in_provider(JwtProvider { claim_to_headers: vec![of], ..provider() }),
        )
        .probe("claim_path", |of: &mut JwtClaimToHeader| {
            of.claim_name.clear();
            of.claim_path = vec![segment(), segment()];
        }),
        Place::new(
            "JwtClaimToHeader.PathSegment",
            "envoy.extensions.filters.http.jwt_authn.v3.JwtClaimToHeader.PathSegment",
            segment(),
            |of| {
                let claim = JwtClaimToHeader { claim_name: String::new(), claim_path: vec![of], ..claim() };
                in_provider(JwtProvider { claim_to_headers: vec![claim], ..provider() })
            },
        ),
        Place::new(
            "RequirementRule",
            "envoy.extensions.filters.http.jwt_authn.v3.RequirementRule",
            rule(),
            |of| {
                let requirement_map = [("r".to_owned(), of_provider())].into();
                in_jwt(JwtAuthentication { rules: vec![of], requirement_map, ..jwt() })
            },
        )
        .probe("requires", |of: &mut RequirementRule| {
            of.requirement_type = Some(RequirementType::Requires(of_provider()));
        })
        .probe("requirement_name", |of: &mut RequirementRule| {
            of.requirement_type = Some(RequirementType::RequirementName("r".into()));
        }),
        Place::new(
            "JwtRequirement",
            "envoy.extensions.filters.http.jwt_authn.v3.JwtRequirement",
            JwtRequirement::default(),
            in_requirement,
        )
        .probe("provider_name", requires(|| RequiresType::ProviderName("p".into())))
        .probe("provider_and_audiences", requires(|| RequiresType::ProviderAndAudiences(with_audiences())))
        .probe(
            "requires_any",
            requires(|| RequiresType::RequiresAny(JwtRequirementOrList { requirements: two() })),
        )
        .probe(
            "requires_all",
            requires(|| RequiresType::RequiresAll(JwtRequirementAndList { requirements: two() })),
        )
        .probe("allow_missing", requires(|| RequiresType::AllowMissing(protobuf::Empty {})))
        .probe(
            "allow_missing_or_failed",
            requires(|| RequiresType::AllowMissingOrFailed(protobuf::Empty {})),
        ),
        Place::new(
            "ProviderWithAudiences",
            "envoy.extensions.filters.http.jwt_authn.v3.ProviderWithAudiences",
            with_audiences(),
            |of| {
                in_requirement(JwtRequirement { requires_type: Some(RequiresType::ProviderAndAudiences(of)) })
            },
        )
        .probe("provider_name", |of: &mut ProviderWithAudiences| of.provider_name = "q".into()),
        Place::new(
            "JwtRequirementOrList",
            "envoy.extensions.filters.http.jwt_authn.v3.JwtRequirementOrList",
            JwtRequirementOrList { requirements: two() },
            |of| in_requirement(JwtRequirement { requires_type: Some(RequiresType::RequiresAny(of)) }),
        )
        .probe("requirements", |of: &mut JwtRequirementOrList| of.requirements.push(of_provider())),
        Place::new(
            "JwtRequirementAndList",
            "envoy.extensions.filters.http.jwt_authn.v3.JwtRequirementAndList",
            JwtRequirementAndList { requirements: two() },
            |of| in_requirement(JwtRequirement { requires_type: Some(RequiresType::RequiresAll(of)) }),
        )
        .probe("requirements", |of: &mut JwtRequirementAndList| of.requirements.push(of_provider())),
    ]
}

fn header() -> JwtHeader {
    JwtHeader { name: "x-token".into(), value_prefix: "T ".into() }
}

fn with_audiences() -> ProviderWithAudiences {
    ProviderWithAudiences { provider_name: "p".into(), audiences: vec!["a".into()] }
}

fn api_key_places() -> Vec<Place> {
    let in_filter =
        |of: ApiKeyAuth| in_http_filter(http_filter("api-key", packed(type_url::API_KEY_AUTH, &of)));
    let credential = || Credential { key: "k".into(), client: "c".into() };
    let source = || KeySource { cookie: "k".into(), ..Default::default() };
    vec![
        Place::new(
            "ApiKeyAuth",
            "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
            ApiKeyAuth {
                credentials: vec![credential()],
                key_sources: vec![source()],
                forwarding: Some(Forwarding::default()),
            },
            in_filter,
        ),
        Place::new(
            "ApiKeyAuthPerRoute",
            "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuthPerRoute",
            ApiKeyAuthPerRoute {
                credentials: vec![credential()],
                key_sources: vec![source()],
                allowed_clients: vec![],
                forwarding: Some(Forwarding::default()),
            },
            |of| {
                let any = packed(type_url::API_KEY_AUTH_PER_ROUTE, &of);
                let typed_per_filter_config = [("api-key".to_owned(), any)].into();
                in_route(route::Route { typed_per_filter_config, ..forward(CART) })
            },
        ),
        Place::new(
            "Credential",
            "envoy.extensions.filters.http.api_key_auth.v3.Credential",
            credential(),
            move |of| in_filter(ApiKeyAuth { credentials: vec![of], ..Default::default() }),
        ),
        Place::new(
            "KeySource",
            "envoy.extensions.filters.http.api_key_auth.v3.KeySource",
            source(),
            move |of| in_filter(ApiKeyAuth { key_sources: vec![of], ..Default::default() }),
        ),
        Place::new(
            "Forwarding",
            "envoy.extensions.filters.http.api_key_auth.v3.Forwarding",
            Forwarding::default(),
            move |of| in_filter(ApiKeyAuth { forwarding: Some(of), ..Default::default() }),
        ),
    ]
}
