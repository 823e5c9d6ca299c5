//! Requests with and without credentials: what clients get, and what the application sees.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use outrigger_config::http_manager::{HttpConnectionManager, RouteSource};
use outrigger_config::listener::Handler;
use outrigger_config::route::{Route, RouteMatcher, RouteTable};
use outrigger_core::reason::Reason;
use outrigger_policy::filter::{FilterConfig, HttpFilter};
use outrigger_proto::xds::jwt_authn::{self, jwt_provider, jwt_requirement, requirement_rule};
use outrigger_proto::xds::protobuf::{self, Any};
use outrigger_proto::xds::{core, route, type_url};
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::ok;
use outrigger_test_support::token::{TokenSigner, key_set};
use outrigger_test_support::wait::eventually;
use prost::Message;

use support::names::{HOUR, NameServer, Says, named, port};
use support::{Proxy, World, forward, manager};

fn filter(name: &str, type_url: &str, message: &impl Message) -> HttpFilter {
    let any = Any { type_url: type_url.into(), value: message.encode_to_vec() };
    let config = FilterConfig::of_listener(&any).unwrap().unwrap();
    HttpFilter { name: name.into(), config, disabled: false }
}

/// A proxy with the destination `app`, which has this filter.
fn proxy(world: World, filter: HttpFilter) -> Proxy {
    let route = Route {
        name: "route".into(),
        template: None,
        matcher: RouteMatcher::any(),
        action: forward("app"),
        request_headers: Default::default(),
        response_headers: Default::default(),
        filters: Default::default(),
    };
    let table = RouteTable::for_any_host("app:80".into(), vec![Arc::new(route)]);
    let manager = HttpConnectionManager {
        routes: RouteSource::Inline(Arc::new(table)),
        filters: [filter].into(),
        ..HttpConnectionManager::clone(&manager("app:80", forward("app")))
    };
    world.proxy().destination("app:80", Handler::Http(Arc::new(manager))).start()
}

/// Requires a token of `https://idp`, whose subject the application gets as `x-user`.
fn jwt(signer: &TokenSigner) -> HttpFilter {
    let keys = core::data_source::Specifier::InlineString(key_set([signer]));
    let keys = core::DataSource { specifier: Some(keys), ..Default::default() };
    jwt_with(jwt_provider::JwksSourceSpecifier::LocalJwks(keys))
}

/// The same, with the keys that the cluster `idp` has at `uri`.
fn fetched(uri: &str) -> HttpFilter {
    fetched_every(uri, None)
}

/// The same, with keys that expire after `cache_duration`.
fn fetched_every(uri: &str, cache_duration: Option<protobuf::Duration>) -> HttpFilter {
    let second = protobuf::Duration { seconds: 1, nanos: 0 };
    let retry = core::BackoffStrategy {
        base_interval: Some(protobuf::Duration { seconds: 0, nanos: 20_000_000 }),
        max_interval: Some(protobuf::Duration { seconds: 0, nanos: 50_000_000 }),
    };
    jwt_with(jwt_provider::JwksSourceSpecifier::RemoteJwks(jwt_authn::RemoteJwks {
        http_uri: Some(core::HttpUri {
            uri: uri.into(),
            timeout: Some(second),
            http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster("idp".into())),
        }),
        retry_policy: Some(core::RetryPolicy { retry_back_off: Some(retry), ..Default::default() }),
        cache_duration,
        ..Default::default()
    }))
}

fn jwt_with(keys: jwt_provider::JwksSourceSpecifier) -> HttpFilter {
    let user = jwt_authn::JwtClaimToHeader {
        header_name: "x-user".into(),
        claim_name: "sub".into(),
        claim_path: vec![],
    };
    let provider = jwt_authn::JwtProvider {
        issuer: "https://idp".into(),
        audiences: vec!["app".into()],
        claim_to_headers: vec![user],
        jwks_source_specifier: Some(keys),
        ..Default::default()
    };
    let requires = Some(jwt_requirement::RequiresType::ProviderName("idp".into()));
    let requires = jwt_authn::JwtRequirement { requires_type: requires };
    let path_specifier = Some(route::route_match::PathSpecifier::Prefix("/".into()));
    let rule = jwt_authn::RequirementRule {
        r#match: Some(route::RouteMatch { path_specifier, ..Default::default() }),
        requirement_type: Some(requirement_rule::RequirementType::Requires(requires)),
    };
    let providers = [("idp".to_owned(), provider)].into();
    let wire = jwt_authn::JwtAuthentication { providers, rules: vec![rule], ..Default::default() };
    filter("jwt", type_url::JWT_AUTHENTICATION, &wire)
}

fn claims(audience: &str, seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let expires = now.checked_add_signed(seconds).unwrap();
    format!(r#"{{"iss":"https://idp","aud":"{audience}","sub":"ann","exp":{expires}}}"#)
}

#[tokio::test]
async fn only_a_request_with_a_valid_token_reaches_the_application() {
    let app = Application::http(|request| ok(&request.head)).await;
    let signer = TokenSigner::new("ES256", "k");
    let mut proxy = proxy(World::new().cluster("app", &[app.address]), jwt(&signer));
    let mut client = Client::connect(proxy.address(0)).await;

    let answer = client.request("GET", "app", "/", "X-User: mallory\r\n").await;
    assert_eq!((answer.status, answer.reason()), (401, "unauthenticated"));
    assert_eq!(answer.field("www-authenticate"), Some("Bearer realm=\"app\""));
    assert_eq!(proxy.record().await.reason, Some(Reason::Unauthenticated));

    let expired = signer.token(&claims("app", -120));
    let answer = client.request("GET", "app", "/", &format!("Authorization: Bearer {expired}\r\n")).await;
    assert_eq!(answer.status, 401);
    assert!(
        answer.field("www-authenticate").unwrap().ends_with("error_description=\"The token has expired\"")
    );

    let elsewhere = signer.token(&claims("elsewhere", 60));
    let answer = client.request("GET", "app", "/", &format!("Authorization: Bearer {elsewhere}\r\n")).await;
    assert_eq!((answer.status, answer.reason()), (403, "unauthenticated"));

    let answer = client.request("GET", "app", "/", "Content-Type: application/grpc\r\n").await;
    assert!(answer.status == 200 && answer.head.contains("grpc-status: 16\r\n"), "{answer:?}");
    assert_eq!(app.requests(), 0);

    let valid = signer.token(&claims("app", 60));
    for _ in 0..2 {
        let fields = format!("Authorization: Bearer {valid}\r\nX-User: mallory\r\n");
        let answer = client.request("GET", "app", "/?a=1", &fields).await;
        let seen = answer.body.to_ascii_lowercase();
        assert!(answer.status == 200 && seen.contains("x-user: ann\r\n"), "{answer:?}");
        assert!(!seen.contains("mallory") && !seen.contains("authorization"), "{seen}");
    }
    let answer = client.get("app", &format!("/x?access_token={valid}&a=1")).await;
    assert!(answer.status == 200 && answer.body.starts_with("GET /x?a=1 HTTP/1.1"), "{answer:?}");
}

/// A cluster that answers every request with the current text.
async fn issuer(text: &str) -> (Application, Arc<Mutex<String>>) {
    let text = Arc::new(Mutex::new(text.to_owned()));
    let shown = Arc::clone(&text);
    (Application::http(move |_| ok(&shown.lock().unwrap())).await, text)
}

#[tokio::test]
async fn a_request_waits_for_the_keys_of_its_token() {
    let (app, signer) = (Application::http(|_| ok("app")).await, TokenSigner::new("ES256", "k"));
    let (idp, _) = issuer(&key_set([&signer])).await;
    let world = World::new().cluster("app", &[app.address]).cluster("idp", &[idp.address]);
    let proxy = proxy(world, fetched("https://waits.example/keys"));
    let mut client = Client::connect(proxy.address(0)).await;
    let fields = format!("Authorization: Bearer {}\r\n", signer.token(&claims("app", 60)));
    for _ in 0..3 {
        assert_eq!(client.request("GET", "app", "/", &fields).await.status, 200);
    }
    assert_eq!((idp.requests(), app.requests()), (1, 3));
    assert_eq!(proxy.totals().process.key_sets_fetched, 1);
    // A key that the set does not have: the set is quite new.
    let unknown = TokenSigner::new("ES256", "unknown").token(&claims("app", 60));
    let answer = client.request("GET", "app", "/", &format!("Authorization: Bearer {unknown}\r\n")).await;
    assert_eq!((answer.status, idp.requests()), (401, 1));
}

#[tokio::test]
async fn keys_are_waited_for_within_their_timeout_if_the_name_server_is_silent() {
    let (app, signer) = (Application::http(|_| ok("app")).await, TokenSigner::new("ES256", "k"));
    let (idp, _) = issuer(&key_set([&signer])).await;
    let names = NameServer::new(Says::Nothing);
    let world = World::new().resolving(&names).cluster("app", &[app.address]);
    let world = world.cluster_of(named("idp", port(idp.address), HOUR));
    let proxy = proxy(world, fetched("https://silent.example/keys"));
    let mut client = Client::connect(proxy.address(0)).await;
    let fields = format!("Authorization: Bearer {}\r\n", signer.token(&claims("app", 60)));
    let answer = client.request("GET", "app", "/", &fields).await;
    assert_eq!((answer.status, answer.reason()), (503, "keys_unavailable"));
    names.says.send_replace(Says::Address("127.0.0.1", HOUR));
    eventually("keys once the name has an address", async || {
        (client.request("GET", "app", "/", &fields).await.status == 200).then_some(())
    })
    .await;
    assert_eq!((names.asked(), app.requests()), (1, 1));
}

#[tokio::test]
async fn keys_that_cannot_be_fetched_open_no_door_until_they_can() {
    let (app, signer) = (Application::http(|_| ok("app")).await, TokenSigner::new("ES256", "k"));
    let too_long = format!("{}{}", key_set([&signer]), " ".repeat(5 << 20));
    for (at, bad) in ["<html>sign in</html>", "{}", &too_long].into_iter().enumerate() {
        let (idp, text) = issuer(bad).await;
        let world = World::new().cluster("app", &[app.address]).cluster("idp", &[idp.address]);
        let mut proxy = proxy(world, fetched(&format!("https://bad{at}.example/keys")));
        let mut client = Client::connect(proxy.address(0)).await;
        let fields = format!("Authorization: Bearer {}\r\n", signer.token(&claims("app", 60)));
        let answer = client.request("GET", "app", "/", &fields).await;
        assert_eq!((answer.status, answer.reason()), (503, "keys_unavailable"));
        assert_eq!(proxy.record().await.reason, Some(Reason::KeysUnavailable));
        assert_eq!(client.get("app", "/").await.status, 401, "no token needs no key to be refused");
        assert!(proxy.totals().process.key_set_fetches_failed > 0);
        let before = app.requests();
        *text.lock().unwrap() = key_set([&signer]);
        eventually("the key set", async || {
            (client.request("GET", "app", "/", &fields).await.status == 200).then_some(())
        })
        .await;
        assert_eq!(app.requests(), before + 1);
    }
}

#[tokio::test]
async fn the_last_good_keys_stay_while_the_issuer_fails_or_is_gone() {
    let (app, signer) = (Application::http(|_| ok("app")).await, TokenSigner::new("ES256", "k"));
    let (idp, text) = issuer(&key_set([&signer])).await;
    let world = World::new().cluster("app", &[app.address]).cluster("idp", &[idp.address]);
    let soon = protobuf::Duration { seconds: 0, nanos: 20_000_000 };
    let proxy = proxy(world, fetched_every("https://fails.example/keys", Some(soon)));
    let mut client = Client::connect(proxy.address(0)).await;
    let fields = format!("Authorization: Bearer {}\r\n", signer.token(&claims("app", 60)));
    assert_eq!(client.request("GET", "app", "/", &fields).await.status, 200);
    let mut failing_for_a_while = async || {
        let failed = || proxy.totals().process.key_set_fetches_failed;
        let before = failed();
        eventually("three failed fetches", async || {
            assert_eq!(client.request("GET", "app", "/", &fields).await.status, 200);
            (failed() >= before + 3).then_some(())
        })
        .await;
    };
    for bad in ["<html>sign in</html>".to_owned(), " ".repeat(5 << 20)] {
        *text.lock().unwrap() = bad;
        failing_for_a_while().await;
    }
    drop(idp);
    failing_for_a_while().await;
}

#[tokio::test]
async fn a_cluster_that_is_not_there_has_no_keys() {
    let (app, signer) = (Application::http(|_| ok("app")).await, TokenSigner::new("ES256", "k"));
    let world = World::new().cluster("app", &[app.address]);
    let proxy = proxy(world, fetched("https://nowhere.example/keys"));
    let mut client = Client::connect(proxy.address(0)).await;
    let fields = format!("Authorization: Bearer {}\r\n", signer.token(&claims("app", 60)));
    assert_eq!(client.request("GET", "app", "/", &fields).await.status, 503);
    assert_eq!(app.requests(), 0);
}
