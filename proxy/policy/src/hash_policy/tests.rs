use http::{HeaderMap, Method};
use outrigger_proto::xds::protobuf;
use route::route_action::hash_policy as wires;
use wires::PolicySpecifier as Wire;

use super::*;

fn decoded(of: impl IntoIterator<Item = (Wire, bool)>) -> Result<HashPolicies, Unusable> {
    let wire = |(specifier, terminal)| route::route_action::HashPolicy {
        terminal,
        policy_specifier: Some(specifier),
    };
    HashPolicies::decode(of.into_iter().map(wire).collect())
}

fn policies(of: impl IntoIterator<Item = Wire>) -> HashPolicies {
    decoded(of.into_iter().map(|of| (of, false))).unwrap()
}

fn header(name: &str) -> Wire {
    Wire::Header(wires::Header { header_name: name.into(), regex_rewrite: None })
}

fn cookie(ttl: Option<i64>) -> wires::Cookie {
    let ttl = ttl.map(|seconds| protobuf::Duration { seconds, nanos: 0 });
    wires::Cookie { name: "session".into(), ttl, ..Default::default() }
}

/// Returns the hash of a request to `path` with these fields, and the cookies that are generated for its client.
fn hash_and_cookies(
    policies: &HashPolicies,
    path: &str,
    fields: &[(&'static str, &'static str)],
) -> (Option<u64>, Vec<HeaderValue>) {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_static(value));
    }
    let head = Head { method: &Method::GET, scheme: "http", authority: "cart", path, headers: &headers };
    let mut cookies = Vec::new();
    (policies.of_request(&head, &Source::STRANGER, |line| cookies.push(line)), cookies)
}

fn hash_of(policies: &HashPolicies, path: &str, fields: &[(&'static str, &'static str)]) -> Option<u64> {
    hash_and_cookies(policies, path, fields).0
}

#[test]
fn each_value_is_hashed_and_a_request_without_it_has_no_hash() {
    let parameter = Wire::QueryParameter(wires::QueryParameter { name: "user".into() });
    let address = Wire::ConnectionProperties(wires::ConnectionProperties { source_ip: true });
    let nothing = Wire::ConnectionProperties(wires::ConnectionProperties { source_ip: false });
    for (of, path, field, expected) in [
        (header("x-user"), "/", ("x-user", "anna"), Some("anna")),
        (header("X-User"), "/", ("x-user", ""), Some("")),
        (header("x-user"), "/", ("x-other", "anna"), None),
        (header(":path"), "/a?b", ("x-other", "anna"), Some("/a?b")),
        (header(":authority"), "/", ("x-other", "anna"), Some("cart")),
        (Wire::Cookie(cookie(None)), "/", ("cookie", "a=b; session=\"anna\""), Some("anna")),
        (Wire::Cookie(cookie(None)), "/", ("cookie", "session=; a=b"), None),
        (Wire::Cookie(cookie(None)), "/", ("cookie", "mysession=anna"), None),
        (parameter.clone(), "/?a=b&user=anna&user=bert", ("a", "b"), Some("anna")),
        (parameter.clone(), "/?user", ("a", "b"), Some("")),
        (parameter, "/user=anna", ("a", "b"), None),
        (address, "/", ("a", "b"), Some("127.0.0.1")),
        (nothing, "/", ("a", "b"), None),
    ] {
        let expected = expected.map(|text| XxHash64::oneshot(0, text.as_bytes()));
        assert_eq!(hash_of(&policies([of.clone()]), path, &[field]), expected, "{of:?} {path} {field:?}");
    }
    assert!(policies([]).is_empty() && hash_of(&policies([]), "/", &[]).is_none());
}

#[test]
fn the_order_of_policies_counts_and_that_of_lines_does_not() {
    let both = policies([header("a"), header("b")]);
    let (one, other) = ([("a", "1"), ("b", "2")], [("a", "2"), ("b", "1")]);
    assert_ne!(hash_of(&both, "/", &one), hash_of(&both, "/", &other));
    assert_eq!(hash_of(&both, "/", &[("b", "2")]), Some(hash(b"2")), "a missing value changes nothing");
    let twice = policies([header("a"), header("a")]);
    assert_eq!(hash_of(&twice, "/", &one), Some(hash(b"1").rotate_left(1) ^ hash(b"1")));
    let lines = |fields| hash_of(&policies([header("a")]), "/", fields);
    assert_eq!(lines(&[("a", "1"), ("a", "2")]), lines(&[("a", "2"), ("a", "1")]));
    assert_eq!(lines(&[("a", "2"), ("a", "1")]), Some(XxHash64::oneshot(hash(b"1"), b"2")));
}

#[test]
fn after_a_terminal_policy_with_a_hash_no_other_counts() {
    let policies = decoded([(header("a"), true), (header("b"), false)]).unwrap();
    assert_eq!(hash_of(&policies, "/", &[("a", "1"), ("b", "2")]), Some(hash(b"1")));
    assert_eq!(hash_of(&policies, "/", &[("b", "2")]), Some(hash(b"2")));
}

#[test]
fn what_an_expression_makes_of_a_value_is_hashed() {
    let pattern = Some(matcher::RegexMatcher { regex: "^/([^/]+)/.*$".into(), ..Default::default() });
    let regex_rewrite = Some(matcher::RegexMatchAndSubstitute { pattern, substitution: "\\1".into() });
    let of = policies([Wire::Header(wires::Header { header_name: ":path".into(), regex_rewrite })]);
    assert_eq!(hash_of(&of, "/anna/cart", &[]), Some(hash(b"anna")));
}

#[test]
fn a_missing_cookie_is_generated_of_the_connection_if_it_has_a_lifetime() {
    let attributes = [("SameSite", "Strict"), ("Secure", "")]
        .map(|(name, value)| wires::CookieAttribute { name: name.into(), value: value.into() });
    for (ttl, path, attributes, tail) in [
        (0, "", vec![], "; HttpOnly"),
        (60, "/shop", vec![], "; Max-Age=60; Path=/shop; HttpOnly"),
        (0, "", attributes.into(), "; SameSite=Strict; Secure; HttpOnly"),
    ] {
        let wire = wires::Cookie { path: path.into(), attributes, ..cookie(Some(ttl)) };
        let policies = policies([Wire::Cookie(wire)]);
        let (hashed, cookies) = hash_and_cookies(&policies, "/", &[]);
        let value = format!("{:016x}", hash(b"127.0.0.1:50000127.0.0.1:80"));
        assert_eq!(hashed, Some(hash(value.as_bytes())));
        assert_eq!(cookies, [format!("session=\"{value}\"{tail}").as_str()]);
        let (_, cookies) = hash_and_cookies(&policies, "/", &[("cookie", "session=anna")]);
        assert!(cookies.is_empty(), "a client with the cookie keeps it");
    }
    assert_eq!(hash_and_cookies(&policies([Wire::Cookie(cookie(None))]), "/", &[]), (None, vec![]));
}

#[test]
fn what_cannot_be_hashed_or_sent_is_refused_by_field() {
    let regex_rewrite = Some(matcher::RegexMatchAndSubstitute::default());
    let attributes = vec![wires::CookieAttribute { name: "a;b".into(), value: String::new() }];
    for (wire, field) in [
        (header("a b"), "header.header_name"),
        (
            Wire::Header(wires::Header { header_name: "a".into(), regex_rewrite }),
            "header.regex_rewrite.pattern",
        ),
        (Wire::Cookie(wires::Cookie { name: String::new(), ..cookie(None) }), "cookie.name"),
        (Wire::Cookie(wires::Cookie { name: "a=b".into(), ..cookie(None) }), "cookie.name"),
        (Wire::Cookie(wires::Cookie { path: "/\r\n".into(), ..cookie(None) }), "cookie.path"),
        (Wire::Cookie(wires::Cookie { attributes, ..cookie(None) }), "cookie.attributes[0].name"),
        (Wire::Cookie(cookie(Some(-1))), "cookie.ttl"),
        (Wire::QueryParameter(Default::default()), "query_parameter.name"),
        (Wire::FilterState(Default::default()), "filter_state"),
    ] {
        let refused = decoded([(wire, false)]).unwrap_err();
        assert_eq!(refused.field, format!("hash_policy[0].{field}"));
    }
    let refused = HashPolicies::decode(vec![Default::default()]).unwrap_err();
    assert_eq!(refused.field, "hash_policy[0].policy_specifier");
}

#[test]
fn a_connection_has_the_hash_of_its_address() {
    use types::hash_policy::{FilterState, PolicySpecifier, SourceIp};
    let decode = |of| HashPolicies::decode_tcp(vec![types::HashPolicy { policy_specifier: Some(of) }]);
    let policies = decode(PolicySpecifier::SourceIp(SourceIp {})).unwrap();
    assert_eq!(policies.of_connection(&Source::STRANGER), Some(hash(b"127.0.0.1")));
    let refused = decode(PolicySpecifier::FilterState(FilterState::default())).unwrap_err();
    assert_eq!(refused.field, "hash_policy[0].filter_state");
}
