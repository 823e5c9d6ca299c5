//! AuthenticationPolicies in the inbound listener of a workload.

use outrigger_proto::xds::api_key_auth::{ApiKeyAuth, ApiKeyAuthPerRoute};
use outrigger_proto::xds::hcm::{HttpFilter, http_filter};
use outrigger_proto::xds::jwt_authn::jwt_provider::JwksSourceSpecifier;
use outrigger_proto::xds::jwt_authn::jwt_requirement::RequiresType;
use outrigger_proto::xds::jwt_authn::per_route_config::RequirementSpecifier;
use outrigger_proto::xds::jwt_authn::requirement_rule::RequirementType;
use outrigger_proto::xds::jwt_authn::{JwtAuthentication, PerRouteConfig};
use outrigger_proto::xds::listener::filter;
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::route::{FilterConfig, Route};
use outrigger_proto::xds::{rbac_filter, type_url};

mod keys;
mod secrets;

use super::inbound::serving_from;
use super::*;
use crate::model::mesh_builder::MeshBuilder;
use crate::model::mesh_builder::testing::{route, service};

const KEYS: &str = r#"inline: '{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}'"#;
const API_KEYS: &str =
    "apiKeys: {clients: [{name: ann, key: k}], from: [{header: x-key}], clientHeader: x-client}";

fn policy(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: outrigger.dev/v1alpha1, kind: AuthenticationPolicy, metadata: {{name: {name}, namespace: {namespace}}},
           spec: {{{spec}}}}}"
    )
}

fn jwt(issuer: &str) -> String {
    format!("jwt: {{issuers: [{{issuer: '{issuer}', keys: {{{KEYS}}}}}]}}")
}

fn to(kind: &str, more: &str) -> String {
    let group = if kind == "Service" { "''" } else { "gateway.networking.k8s.io" };
    format!("targetRefs: [{{group: {group}, kind: {kind}, {more}}}]")
}

/// The inbound listener of `cart-1`, whose Service `cart` has this protocol.
fn listener(protocol: &str, resources: &[&str]) -> Listener {
    let mut builder = MeshBuilder::default();
    builder.with(&[&service("cart", 80, protocol)]).with(resources);
    read(&serving_from(builder.mesh()), Kind::Listener, "inbound|127.0.0.1:9000")
}

fn manager(listener: &Listener) -> HttpConnectionManager {
    let Some(filter::ConfigType::TypedConfig(any)) = &listener.filter_chains[0].filters[0].config_type else {
        panic!("{listener:?}")
    };
    HttpConnectionManager::decode(any.value.as_slice()).unwrap()
}

fn config(filter: &HttpFilter) -> &Any {
    let Some(http_filter::ConfigType::TypedConfig(any)) = &filter.config_type else { panic!("{filter:?}") };
    any
}

/// Each filter before the router, by the end of its name; a disabled one in brackets.
fn filters(manager: &HttpConnectionManager) -> Vec<String> {
    let (_, filters) = manager.http_filters.split_last().unwrap();
    let text = |filter: &HttpFilter| {
        let name = filter.name.strip_prefix("outrigger.").unwrap();
        if filter.disabled { format!("({name})") } else { name.to_owned() }
    };
    filters.iter().map(text).collect()
}

fn tokens(manager: &HttpConnectionManager) -> JwtAuthentication {
    let filter = manager.http_filters.iter().find(|filter| filter.name.ends_with(".jwt")).unwrap();
    JwtAuthentication::decode(config(filter).value.as_slice()).unwrap()
}

/// The policy that is required where no route overrides it.
fn required(manager: &HttpConnectionManager) -> Option<String> {
    let rule = tokens(manager).rules.pop()?;
    match rule.requirement_type {
        Some(RequirementType::RequirementName(name)) => Some(name),
        other => panic!("{other:?}"),
    }
}

fn routes(manager: &HttpConnectionManager) -> Vec<Route> {
    let Some(RouteSpecifier::RouteConfig(table)) = &manager.route_specifier else { panic!("{manager:?}") };
    table.virtual_hosts[0].routes.clone()
}

/// What a route overrides, in the order of the filters' names.
fn overrides(route: &Route) -> Vec<String> {
    let text = |(name, any): (&String, &Any)| {
        let value = any.value.as_slice();
        let what = match any.type_url.as_str() {
            type_url::JWT_PER_ROUTE => match PerRouteConfig::decode(value).unwrap().requirement_specifier {
                Some(RequirementSpecifier::RequirementName(name)) => name,
                other => format!("{other:?}"),
            },
            type_url::API_KEY_AUTH_PER_ROUTE => {
                ApiKeyAuthPerRoute::decode(value).unwrap().credentials[0].client.clone()
            }
            type_url::FILTER_CONFIG => format!("disabled: {}", FilterConfig::decode(value).unwrap().disabled),
            type_url::RBAC_PER_ROUTE => {
                let rules =
                    rbac_filter::RbacPerRoute::decode(value).unwrap().rbac.and_then(|rbac| rbac.rules);
                format!("denied: {}", rules.is_some_and(|rules| !rules.policies.is_empty()))
            }
            other => panic!("{other}"),
        };
        format!("{}: {what}", name.rsplit('.').next().unwrap())
    };
    let mut all: Vec<_> = route.typed_per_filter_config.iter().map(text).collect();
    all.sort();
    all
}

#[test]
fn tokens_come_before_keys_and_both_before_authorization() {
    let both = format!("{}, {API_KEYS}", jwt("https://idp"));
    let allow = policy("b", "shop", "action: Allow").replace("AuthenticationPolicy", "AuthorizationPolicy");
    let manager = manager(&listener("http", &[&policy("a", "shop", &both), &allow]));
    let expected = ["authentication.jwt", "authentication.api-keys", "authorization.allow"];
    assert_eq!(filters(&manager), expected);
    let filter = tokens(&manager);
    assert_eq!(required(&manager).as_deref(), Some("shop/a"));
    let provider = &filter.providers["shop/a/0"];
    assert_eq!((&*provider.issuer, &*provider.payload_in_metadata), ("https://idp", "claims"));
    assert!(provider.require_expiration && !provider.forward && filter.bypass_cors_preflight);
    let Some(RequiresType::ProviderName(name)) = &filter.requirement_map["shop/a"].requires_type else {
        panic!("{filter:?}")
    };
    assert_eq!(name, "shop/a/0");
    let keys = ApiKeyAuth::decode(config(&manager.http_filters[1]).value.as_slice()).unwrap();
    assert!(keys.credentials[0].key.starts_with("sha256:8254c329a92850f6d539dd376f4816ee"));
    assert!(keys.forwarding.unwrap().hide_credentials);
}

#[test]
fn of_several_policies_that_of_the_narrowest_place_applies_and_of_equal_ones_the_first() {
    let namespace = policy("a", "shop", &jwt("a"));
    let mesh = policy("mesh", "outrigger-system", &jwt("mesh"));
    let service = policy("z", "shop", &format!("{}, {}", jwt("z"), to("Service", "name: cart")));
    let pods = |name: &str| {
        let pods = "targetRefs: [{group: '', kind: Pod, selector: {matchLabels: {a: b}}}]";
        policy(name, "shop", &format!("{}, {pods}", jwt(name)))
    };
    for (policies, expected) in [
        (vec![&mesh], "outrigger-system/mesh"),
        (vec![&mesh, &namespace], "shop/a"),
        (vec![&mesh, &namespace, &service, &pods("p")], "shop/z"),
    ] {
        let policies: Vec<_> = policies.iter().map(|policy| policy.as_str()).collect();
        let manager = manager(&listener("http", &policies));
        assert_eq!(required(&manager).as_deref(), Some(expected));
        assert_eq!(tokens(&manager).providers.len(), 1, "only what is used is sent");
    }
}

#[test]
fn a_route_has_its_own_requirement_or_none() {
    let rules = "{name: pay, matches: [{path: {value: /pay}}]}, {name: health, matches: [{path: {value: /health}}]}, {name: rest}";
    let of = |rule: &str, spec: &str| {
        policy(
            rule,
            "shop",
            &format!("{spec}, {}", to("HTTPRoute", &format!("name: r, sectionName: {rule}"))),
        )
    };
    let manager = manager(&listener(
        "http",
        &[
            &route("HTTPRoute", "r", "name: cart", rules),
            &policy("all", "shop", &format!("mode: Optional, {}", jwt("all"))),
            &of("pay", &format!("{}, {API_KEYS}", jwt("pay"))),
            &of("health", "mode: 'Off'"),
        ],
    ));
    assert_eq!(filters(&manager), ["authentication.jwt", "(authentication.api-keys)"]);
    let optional = &tokens(&manager).requirement_map["shop/all"];
    let Some(RequiresType::RequiresAny(any)) = &optional.requires_type else { panic!("{optional:?}") };
    assert!(matches!(any.requirements[1].requires_type, Some(RequiresType::AllowMissing(_))));
    let routes = routes(&manager);
    let all: Vec<_> = routes.iter().map(overrides).collect();
    let pay = vec!["api-keys: ann".to_owned(), "jwt: shop/pay".to_owned()];
    let health = vec!["api-keys: disabled: true".to_owned(), "jwt: Some(Disabled(true))".to_owned()];
    assert!(all.contains(&pay) && all.contains(&health), "{all:?}");
    assert_eq!(all.last(), Some(&Vec::new()));
    let of_pay = |route: &&Route| overrides(route) == pay;
    for route in &routes {
        let expected = if of_pay(&route) { [""; 0].to_vec() } else { vec!["x-client"] };
        assert_eq!(route.request_headers_to_remove, expected, "nobody else sets the header");
    }
}

#[test]
fn a_refused_policy_refuses_everything_except_where_a_narrower_one_applies() {
    let bad = policy("bad", "shop", "jwt: {issuers: [{issuer: i, keys: {inline: '<html>'}}]}, action: Audit");
    let target = to("HTTPRoute", "name: r, sectionName: health");
    let off = policy("off", "shop", &format!("mode: 'Off', {target}"));
    let rules = "{name: health, matches: [{path: {value: /health}}]}, {name: rest}";
    let mut builder = MeshBuilder::default();
    builder.with(&[&service("cart", 80, "http"), &route("HTTPRoute", "r", "name: cart", rules), &off]);
    builder.with_refused(&bad);
    let manager = manager(&read(&serving_from(builder.mesh()), Kind::Listener, "inbound|127.0.0.1:9000"));
    assert_eq!(filters(&manager), ["authentication.refused"]);
    let whole = rbac_filter::Rbac::decode(config(&manager.http_filters[0]).value.as_slice()).unwrap();
    let policies: Vec<_> = whole.rules.unwrap().policies.into_keys().collect();
    assert_eq!(policies, ["shop/bad (refused)"]);
    assert_eq!(overrides(&routes(&manager)[0]), ["refused: denied: false"]);
}

#[test]
fn a_proxy_that_knows_no_hashes_refuses_what_needs_api_keys() {
    let mut builder = MeshBuilder::default();
    builder.with(&[&service("cart", 80, "http"), &policy("a", "shop", API_KEYS)]);
    let envoy = Viewer { dialect: Dialect::Envoy, ..shop() };
    let catalog = serving_from(builder.mesh());
    let listener = catalog.resource(&envoy, Kind::Listener, "inbound|127.0.0.1:9000").unwrap().decode();
    assert_eq!(filters(&manager(&listener)), ["authentication.refused"]);
}

#[test]
fn requests_do_not_pass_as_opaque_bytes_where_they_need_credentials() {
    let refuses = |protocol: &str, spec: &str| {
        let tcp = route("TCPRoute", "t", "name: cart", "{backendRefs: [{name: cart, port: 80}]}");
        let resources = [policy("a", "shop", spec), tcp];
        let of_port = if protocol == "tcp" { &resources[..] } else { &resources[..1] };
        let listener = listener(protocol, &of_port.iter().map(String::as_str).collect::<Vec<_>>());
        let opaque = listener.filter_chains.iter().filter(|chain| chain.name.contains("|tcp|"));
        let refused = |chain: &outrigger_proto::xds::listener::FilterChain| {
            chain.filters[0].name == "outrigger.authentication.refused"
        };
        let all: Vec<_> = opaque.map(refused).collect();
        assert!(!all.is_empty(), "{listener:?}");
        all.into_iter().all(|refused| refused)
    };
    assert!(refuses("", &jwt("i")));
    assert!(!refuses("", &format!("mode: Optional, {}", jwt("i"))) && !refuses("", "mode: 'Off'"));
    assert!(!refuses("tcp", &jwt("i")), "it has no requests");
    assert!(!refuses("tcp", &format!("{}, {}", jwt("i"), to("Service", "name: cart"))));
    assert!(
        refuses("tcp", &format!("{}, {}", jwt("i"), to("TCPRoute", "name: t"))),
        "a policy names the port"
    );
}

#[test]
fn keys_of_a_service_are_fetched_from_its_cluster() {
    let of = |keys: &str| {
        let spec = format!("jwt: {{issuers: [{{issuer: i, keys: {{service: {{{keys}}}}}}}]}}");
        let services = [service("idp", 8080, "http"), service("idp.auth", 80, "http")];
        let resources = [&*services[0], &*services[1], &policy("a", "shop", &spec)];
        let filter = tokens(&manager(&listener("http", &resources)));
        let Some(JwksSourceSpecifier::RemoteJwks(remote)) =
            &filter.providers["shop/a/0"].jwks_source_specifier
        else {
            panic!("{filter:?}")
        };
        let uri = remote.http_uri.clone().unwrap();
        (uri.uri, format!("{:?}", uri.http_upstream_type.unwrap()))
    };
    let (uri, cluster) = of("name: idp, port: 8080, path: /keys");
    assert_eq!(uri, "http://idp.shop.svc.cluster.local:8080/keys");
    assert!(cluster.contains("\"idp.shop.svc.cluster.local:8080\""), "{cluster}");
    assert!(of("namespace: auth, name: idp, port: 80, path: /").0.starts_with("http://idp.auth.svc."));
    let (uri, cluster) = of("name: idp, port: 80, path: /keys");
    assert_eq!(uri, "http://idp.shop.svc.cluster.local:80/keys");
    assert!(cluster.contains("\"inbound|keys|nowhere\""), "it has no such port: {cluster}");
}
