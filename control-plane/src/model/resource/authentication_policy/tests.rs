use super::super::testing::{check_table, read};
use super::super::{Body, Outcome};
use super::*;
use crate::model::authentication::{CredentialPlace, SecretRef};

const POLICY: &str =
    "{apiVersion: outrigger.dev/v1alpha1, kind: AuthenticationPolicy, metadata: {name: a}, spec: {@}}";

/// A set with the key of RFC 8037 appendix A.2.
const KEYS: &str = r#"inline: '{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}'"#;

fn authentication(spec: &str) -> Arc<Authentication> {
    let decoded = read(&POLICY.replace('@', spec)).remove(0);
    let Outcome::Accepted(resource) = decoded.outcome else { panic!("{:?}", decoded.outcome) };
    let Body::Policy(PolicySpec { rules: PolicyRules::Authentication(spec), .. }) = &resource.body else {
        panic!("{resource:?}")
    };
    Arc::clone(spec)
}

fn issuer(more: &str) -> String {
    format!("jwt: {{issuers: [{{issuer: 'https://idp', keys: {{{KEYS}}}{more}}}]}}")
}

#[test]
fn every_field_of_an_issuer_is_read() {
    let of = authentication(&issuer(
        ", audiences: [shop], clockSkew: 30s, forward: true,
          from: [{header: Authorization}, {header: X-Token, prefix: 'JWT '}, {query: t}, {cookie: session}],
          claimsToHeaders: [{name: sub, header: X-User}, {path: [realm, roles], header: x-roles}]",
    ));
    let [issuer] = &of.issuers[..] else { panic!("{of:?}") };
    assert_eq!((of.mode, &*issuer.issuer), (AuthenticationMode::Required, "https://idp"));
    assert_eq!((issuer.clock_skew, issuer.forwards), (Some(Duration::from_secs(30)), true));
    let header =
        |name: &str, prefix: &str| CredentialPlace::Header { name: name.into(), prefix: prefix.into() };
    let places = [
        header("authorization", "Bearer "),
        header("x-token", "JWT "),
        CredentialPlace::Query("t".into()),
        CredentialPlace::Cookie("session".into()),
    ];
    assert_eq!(issuer.places, places);
    let claims =
        [(vec!["sub".into()], "x-user".into()), (vec!["realm".into(), "roles".into()], "x-roles".into())];
    assert_eq!(issuer.claim_headers, claims);
}

#[test]
fn a_key_is_kept_as_its_hash_only() {
    let of = authentication(
        "apiKeys: {clients: [{name: ann, key: secret}], from: [{header: x-api-key}], clientHeader: X-Client}",
    );
    let keys = of.api_keys.as_ref().unwrap();
    let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    assert_eq!(keys.clients, [("ann".into(), hash.into())]);
    assert_eq!(keys.client_header.as_deref(), Some("x-client"));
    assert!(!format!("{of:?}").contains("\"secret\""));
}

#[test]
fn a_policy_says_what_is_required_or_that_nothing_is() {
    let keys = "apiKeys: {clients: [{name: ann, key: k}], from: [{query: key}]}";
    let (tokens, both) = (issuer(""), format!("{}, {keys}", issuer("")));
    let optional = format!("mode: Optional, {tokens}");
    let (optional_keys, off) = (format!("mode: Optional, {keys}"), format!("mode: Off, {keys}"));
    check_table(
        POLICY,
        &[&tokens, keys, &both, &optional, "mode: 'Off'"],
        &[
            ("", "spec", "requires nothing"),
            ("mode: Optional", "spec", "requires nothing"),
            (&optional_keys, "spec.mode", "only tokens can be optional"),
            (&off.replace("Off", "'Off'"), "spec.mode", "excludes jwt and apiKeys"),
            ("mode: Maybe", "spec.mode", "unknown value"),
            ("jwt: {issuers: []}", "spec.jwt.issuers", "0 items"),
            ("jwt: {providers: []}", "spec.jwt.providers", "unknown field"),
            ("action: Audit", "spec.action", "unknown field"),
        ],
    );
}

#[test]
fn an_issuer_that_could_not_be_enforced_is_refused_by_field() {
    let at = |field: &str| format!("spec.jwt.issuers[0].{field}");
    let with = |keys: &str| format!("jwt: {{issuers: [{{issuer: i, keys: {{{keys}}}}}]}}");
    let table: Vec<(String, String, &str)> = vec![
        ("jwt: {issuers: [{issuer: i}]}".into(), "spec.jwt.issuers[0]".into(), "missing field `keys`"),
        (with(""), at("keys"), "needs one of inline, service and uri"),
        (with("inline: '<html>'"), at("keys.inline"), "not a JSON Web Key Set"),
        (with("uri: 'http://idp/keys'"), at("keys.uri"), "is not https"),
        (with("uri: 'https://idp/keys', inline: '{}'"), at("keys.inline"), "no list"),
        (with("uri: 'https://idp/keys', caCertificates: x"), at("keys.caCertificates"), "no certificate"),
        (with("service: {name: idp, port: 80, path: keys}"), at("keys.service.path"), "does not start"),
        (with("service: {name: idp, port: 0, path: /keys}"), at("keys.service.port"), "not between"),
        (issuer(", algorithms: [none]"), at("algorithms[0]"), "unknown value"),
        (issuer(", algorithms: []"), at("algorithms"), "0 items"),
        (issuer(", algorithms: [RS256, ES256]"), at("algorithms"), "has no algorithm of the keys"),
        (
            "jwt: {issuers: [{issuer: i, keys: {uri: 'https://idp/keys'}, algorithms: [HS256]}]}".into(),
            at("algorithms"),
            "only an inline set",
        ),
        (issuer(", clockSkew: 0s"), at("clockSkew"), "whole seconds"),
        (issuer(", clockSkew: 1500ms"), at("clockSkew"), "whole seconds"),
        (issuer(", audiences: []"), at("audiences"), "0 items"),
        (issuer(", from: [{}]"), at("from[0]"), "needs one of header, query and cookie"),
        (issuer(", from: [{query: a, cookie: b}]"), at("from[0]"), "needs one of"),
        (issuer(", from: [{query: a, prefix: b}]"), at("from[0].prefix"), "is for a header"),
        (issuer(", from: [{cookie: 'a b'}]"), at("from[0].cookie"), "not a cookie name"),
        (issuer(", claimsToHeaders: [{header: x}]"), at("claimsToHeaders[0]"), "one of name and path"),
        (
            issuer(", claimsToHeaders: [{name: sub, header: Host}]"),
            at("claimsToHeaders[0].header"),
            "may not be set",
        ),
        (
            issuer(", claimsToHeaders: [{name: sub, header: X}, {name: iss, header: x}]"),
            at("claimsToHeaders"),
            "duplicated",
        ),
    ];
    let table: Vec<_> = table.iter().map(|(part, field, reason)| (&**part, &**field, *reason)).collect();
    check_table(POLICY, &[&with("service: {namespace: auth, name: idp, port: 80, path: /keys}")], &table);
}

#[test]
fn api_keys_that_could_not_be_enforced_are_refused_and_not_shown() {
    let with = |clients: &str, more: &str| format!("apiKeys: {{clients: [{clients}]{more}}}");
    let from = ", from: [{header: x-key}]";
    let digits = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    let table = [
        (with("", from), "spec.apiKeys.clients", "0 items"),
        (
            "apiKeys: {from: [{header: x-key}]}".into(),
            "spec.apiKeys.clients",
            "write clients, secrets or both",
        ),
        (with("{name: a, key: k}", ""), "spec.apiKeys", "missing field `from`"),
        (with("{name: a}", from), "spec.apiKeys.clients[0]", "one of key and sha256"),
        (with("{name: a, sha256: '12'}", from), "spec.apiKeys.clients[0].sha256", "64 hexadecimal digits"),
        (
            with(&format!("{{name: a, key: secret}}, {{name: b, sha256: '{digits}'}}"), from),
            "spec.apiKeys.clients[1]",
            "the key of another client",
        ),
        (with("{name: a, key: k}", ", from: [{header: Host}]"), "spec.apiKeys.from[0]", "may not be set"),
        (
            with("{name: a, key: k}", ", from: [{header: x, prefix: K}]"),
            "spec.apiKeys.from[0]",
            "has no prefix",
        ),
        (
            with("{name: a, key: k}", ", from: [{query: k}], clientHeader: Upgrade"),
            "spec.apiKeys.clientHeader",
            "may not be set",
        ),
    ];
    let table: Vec<_> = table.iter().map(|(part, field, reason)| (&**part, *field, *reason)).collect();
    check_table(POLICY, &[&with(&format!("{{name: a, sha256: '{digits}'}}"), from)], &table);
    let decoded = read(&POLICY.replace('@', &with("{name: a, key: \"s\\u0001ecret\"}", from)));
    assert!(!format!("{:?}", decoded[0].problems()).contains("ecret"));
}

#[test]
fn secrets_with_api_keys_are_named() {
    let of = authentication(
        "apiKeys: {secrets: [{name: a}, {name: b.c, namespace: keys}], from: [{header: x-key}]}",
    );
    let keys = of.api_keys.as_ref().unwrap();
    let reference = |namespace: Option<&str>, name: &str| SecretRef {
        namespace: namespace.map(Into::into),
        name: name.into(),
    };
    assert_eq!(keys.secrets, [reference(None, "a"), reference(Some("keys"), "b.c")]);
    assert_eq!(of.refuses_all(), Some("no API key"));
    let with = |secrets: &str| format!("apiKeys: {{secrets: [{secrets}], from: [{{header: x-key}}]}}");
    let table = [
        (with(""), "spec.apiKeys.secrets", "0 items"),
        (with("{}"), "spec.apiKeys.secrets[0]", "missing field `name`"),
        (
            with("{name: 'a,metadata.namespace=b'}"),
            "spec.apiKeys.secrets[0].name",
            "is not the name of a Secret",
        ),
        (with("{name: a}, {name: a}"), "spec.apiKeys.secrets[1]", "is the same as another one"),
        (with("{name: a, key: k}"), "spec.apiKeys.secrets[0].key", "unknown field"),
        (with("{name: a, namespace: B}"), "spec.apiKeys.secrets[0].namespace", "is not a DNS label"),
    ];
    let table: Vec<_> = table.iter().map(|(part, field, reason)| (&**part, *field, *reason)).collect();
    let both =
        with("{name: a}, {name: a, namespace: b}").replace("from:", "clients: [{name: c, key: k}], from:");
    check_table(POLICY, &[&with("{name: a}"), &both], &table);
}
