use outrigger_proto::xds::{
    api_key_auth, cluster, core, jwt_authn, listener, protobuf, route, tls, type_url,
};
use prost::Message;

use super::*;

const SECRET: &str = "SECRET";

fn any(type_url: &str, message: &impl Message) -> Any {
    Any { type_url: type_url.to_owned(), value: message.encode_to_vec() }
}

fn inline(text: &str) -> Option<core::DataSource> {
    let specifier = Some(core::data_source::Specifier::InlineString(text.into()));
    Some(core::DataSource { specifier, ..Default::default() })
}

/// Renders a message and asserts that it contains no secret.
fn redacted(type_url: &str, message: &impl Message) -> Json {
    let json = Renderer::new().render(&any(type_url, message));
    let text = json.to_string();
    assert!(!text.contains(SECRET) && !text.contains(&BASE64.encode(SECRET)), "{json:#}");
    json
}

#[test]
fn a_message_is_rendered_by_the_names_of_the_api() {
    let cluster = cluster::Cluster {
        name: "cart".into(),
        connect_timeout: Some(protobuf::Duration { seconds: 1, nanos: 500_000_000 }),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(3)),
        per_connection_buffer_limit_bytes: Some(protobuf::UInt32Value { value: 7 }),
        ..Default::default()
    };
    let expected = json!({
        "@type": type_url::CLUSTER,
        "name": "cart",
        "connect_timeout": "1.500s",
        "type": "EDS",
        "per_connection_buffer_limit_bytes": 7,
    });
    assert_eq!(Renderer::new().render(&any(type_url::CLUSTER, &cluster)), expected);
}

#[test]
fn the_keys_of_tokens_and_of_callers_are_redacted() {
    let provider = jwt_authn::JwtProvider {
        jwks_source_specifier: inline(SECRET).map(jwt_authn::jwt_provider::JwksSourceSpecifier::LocalJwks),
        ..Default::default()
    };
    let providers = [("idp".to_owned(), provider)].into();
    let jwt = jwt_authn::JwtAuthentication { providers, ..Default::default() };
    redacted(type_url::JWT_AUTHENTICATION, &jwt);
    let credentials = vec![api_key_auth::Credential { key: SECRET.into(), client: "ann".into() }];
    let of_route =
        api_key_auth::ApiKeyAuthPerRoute { credentials: credentials.clone(), ..Default::default() };
    redacted(type_url::API_KEY_AUTH_PER_ROUTE, &of_route);
    redacted(type_url::API_KEY_AUTH, &api_key_auth::ApiKeyAuth { credentials, ..Default::default() });
}

#[test]
fn tls_material_is_redacted_within_a_transport_socket() {
    let certificate = tls::TlsCertificate {
        certificate_chain: inline(SECRET),
        private_key: inline(SECRET),
        password: inline(SECRET),
        pkcs12: Some(core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineBytes(SECRET.into())),
            ..Default::default()
        }),
        ..Default::default()
    };
    let ticket_keys = tls::TlsSessionTicketKeys { keys: inline(SECRET).into_iter().collect() };
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            tls_certificates: vec![certificate],
            ..Default::default()
        }),
        session_ticket_keys_type: Some(
            tls::downstream_tls_context::SessionTicketKeysType::SessionTicketKeys(ticket_keys),
        ),
        ..Default::default()
    };
    let socket = core::TransportSocket {
        name: "tls".into(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(
            type_url::DOWNSTREAM_TLS_CONTEXT,
            &context,
        ))),
    };
    let chain = listener::FilterChain { transport_socket: Some(socket), ..Default::default() };
    let listener =
        listener::Listener { name: "inbound".into(), filter_chains: vec![chain], ..Default::default() };
    let json = redacted(type_url::LISTENER, &listener);
    let context = &json["filter_chains"][0]["transport_socket"]["typed_config"];
    let certificate = &context["common_tls_context"]["tls_certificates"][0];
    assert_eq!(certificate["private_key"]["inline_string"], REDACTED);
    assert_eq!(certificate["pkcs12"]["inline_bytes"], BASE64.encode(REDACTED));
    assert_eq!(context["session_ticket_keys"]["keys"][0]["inline_string"], REDACTED);
}

#[test]
fn credentials_in_headers_queries_and_metadata_are_redacted_and_other_values_are_not() {
    let header = |key: &str, value: &str| core::HeaderValueOption {
        header: Some(core::HeaderValue { key: key.into(), value: value.into(), ..Default::default() }),
        ..Default::default()
    };
    let exact = |value: &str| {
        let pattern = outrigger_proto::xds::matcher::string_matcher::MatchPattern::Exact(value.into());
        outrigger_proto::xds::matcher::StringMatcher { match_pattern: Some(pattern), ..Default::default() }
    };
    use route::header_matcher::HeaderMatchSpecifier::StringMatch;
    use route::query_parameter_matcher::QueryParameterMatchSpecifier::StringMatch as QueryMatch;
    let matching = route::RouteMatch {
        headers: vec![route::HeaderMatcher {
            name: "Authorization".into(),
            header_match_specifier: Some(StringMatch(exact(SECRET))),
            ..Default::default()
        }],
        query_parameters: vec![route::QueryParameterMatcher {
            name: "access_token".into(),
            query_parameter_match_specifier: Some(QueryMatch(exact(SECRET))),
        }],
        ..Default::default()
    };
    let text = |text: &str| protobuf::Value { kind: Some(protobuf::value::Kind::StringValue(text.into())) };
    let entries = [("password".to_owned(), text(SECRET)), ("owner".to_owned(), text("shop"))];
    let metadata = core::Metadata {
        filter_metadata: [("ours".to_owned(), protobuf::Struct { fields: entries.into_iter().collect() })]
            .into_iter()
            .collect(),
        ..Default::default()
    };
    let one = route::Route { r#match: Some(matching), metadata: Some(metadata), ..Default::default() };
    let table = route::RouteConfiguration {
        request_headers_to_add: vec![header("authorization", SECRET), header("x-shop", "cart")],
        virtual_hosts: vec![route::VirtualHost { routes: vec![one], ..Default::default() }],
        ..Default::default()
    };
    let json = redacted(type_url::ROUTE_CONFIGURATION, &table);
    let headers = &json["request_headers_to_add"];
    assert_eq!(headers[0]["header"], json!({ "key": "authorization", "value": REDACTED }));
    assert_eq!(headers[1]["header"], json!({ "key": "x-shop", "value": "cart" }));
    let route = &json["virtual_hosts"][0]["routes"][0];
    assert_eq!(route["match"]["headers"][0]["string_match"]["exact"], REDACTED);
    assert_eq!(
        route["metadata"]["filter_metadata"]["ours"],
        json!({ "password": REDACTED, "owner": "shop" })
    );
}

#[test]
fn what_cannot_be_read_is_marked() {
    let renderer = Renderer::new();
    let render = |type_url: &str, value: &[u8]| {
        renderer.render(&Any { type_url: type_url.into(), value: value.to_vec() })
    };
    assert_eq!(render("x/example.Unknown", b"ab")["@error"], "unknown type, 2 bytes");
    assert_eq!(render(type_url::PEAK_EWMA, b""), json!({ "@type": type_url::PEAK_EWMA }));
    let torn = render(type_url::CLUSTER, b"\x0a\xff");
    assert!(torn["@error"].as_str().unwrap().starts_with("cannot be decoded: "), "{torn}");
    // Field 5000, a varint.
    assert_eq!(render(type_url::CLUSTER, b"\xc0\xb8\x02\x01")["@error"], "unknown fields [5000]");
    let nested = (0..1000).fold(any(type_url::CLUSTER, &cluster::Cluster::default()), |inner, _| {
        any("type.googleapis.com/google.protobuf.Any", &inner)
    });
    assert!(renderer.render(&nested).to_string().contains("nested too deeply"));
}

#[test]
fn a_credential_is_known_by_its_name() {
    for name in
        ["sig", "Signature", "X-Amz-Signature", "X-Amz-Credential", "AWSAccessKeyId", "x-jwt", "X-Api-Key"]
    {
        assert!(is_credential(name), "{name}");
    }
    for name in ["design", "signal", "version", "x-shop"] {
        assert!(!is_credential(name), "{name}");
    }
}
