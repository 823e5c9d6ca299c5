use super::super::testing::{check_table, read};
use super::super::{Body, Outcome};
use super::*;

const SECRET: &str = "{apiVersion: v1, kind: Secret, metadata: {name: partners, namespace: shop, \
     labels: {outrigger.dev/api-keys: 'true'}}, @}";

/// The hash of `partner-key-of-acme`, by `sha256sum`.
const HASH: &str = "e42236464a3a54760eec7914d4eeb59a49621e1df17d4ec9c6b56cd2b1ca4965";

fn secret(part: &str) -> ApiKeySecret {
    let decoded = read(&SECRET.replace('@', part)).remove(0);
    let Outcome::Accepted(resource) = &decoded.outcome else { panic!("{:?}", decoded.outcome) };
    let Body::Secret(secret) = &resource.body else { panic!("{resource:?}") };
    secret.clone()
}

fn problems(part: &str) -> Vec<String> {
    read(&SECRET.replace('@', part)).remove(0).problems().iter().map(ToString::to_string).collect()
}

#[test]
fn each_entry_is_a_client_with_its_keys_of_which_the_hashes_are_kept() {
    let encoded = STANDARD.encode("partner-key-of-acme\n");
    let acme = [("acme".into(), HASH.into())];
    for part in [
        &format!("data: {{acme: {encoded}}}"),
        &format!(
            "type: Opaque, immutable: true, data: {{acme: '{}'}}",
            STANDARD.encode(format!("sha256:{HASH}"))
        ),
        "stringData: {acme: partner-key-of-acme}",
    ] {
        let secret = secret(part);
        assert_eq!((&secret.keys[..], secret.problem.as_ref()), (&acme[..], None), "{part}");
        assert!(!format!("{secret:?}").contains("partner-key"));
    }
    let both = secret(&format!(
        "data: {{acme: {encoded}}}, stringData: {{b.c: \"first-key-of-b.c\\nsecond-key-of-b.c\"}}"
    ));
    let clients: Vec<_> = both.keys.iter().map(|(client, _)| &**client).collect();
    assert_eq!(clients, ["acme", "b.c", "b.c"]);
}

#[test]
fn a_secret_or_an_entry_of_it_may_be_empty() {
    for (part, clients) in [
        ("type: Opaque", &[][..]),
        ("data: {}, stringData: {}", &[]),
        ("data: {acme: ''}, stringData: {beta: \"\\n\\n\"}", &["acme", "beta"]),
    ] {
        let secret = secret(part);
        let without: Vec<_> = secret.without_keys.iter().map(|client| &**client).collect();
        assert_eq!((&*without, secret.keys.len(), secret.stands_in), (clients, 0, false), "{part}");
    }
}

#[test]
fn an_error_names_the_entry_and_shows_nothing_of_it() {
    let key = "secret-key-of-acme";
    let invalid = STANDARD.encode(b"secret-key-of-acme\xff");
    for (part, expected) in [
        ("data: {acme: 'secret-key!'}", "data.acme: is not Base64 [invalid-value]"),
        (&format!("data: {{acme: '{invalid}'}}"), "data.acme: is not UTF-8 [invalid-value]"),
        ("stringData: {acme: secret}", "stringData.acme: is shorter than 16 characters [invalid-value]"),
        ("stringData: {acme: 12345678901234567890}", "stringData.acme: is not a string [invalid-value]"),
        (
            "stringData: {acme: {secret: secret-key-of-acme}}",
            "stringData.acme: is not a string [invalid-value]",
        ),
        ("stringData: secret-key-of-acme", "stringData: is not an object [invalid-value]"),
        (
            &format!("stringData: {{acme: {key}, beta: {key}}}"),
            "stringData.beta: has a key of client acme again [invalid-value]",
        ),
        (
            &format!("data: {{acme: '{}'}}, stringData: {{acme: another-{key}}}", STANDARD.encode(key)),
            "stringData.acme: is in data too [invalid-value]",
        ),
        (
            "stringData: {'a b': secret-key-of-acme}",
            "stringData.a b: is not a name of a client: letters, digits, -, _ and . (253 at most) [invalid-value]",
        ),
        (
            &format!("type: kubernetes.io/tls, stringData: {{tls.key: {key}}}"),
            "type: is not Opaque, as that of a Secret with API keys is [invalid-value]",
        ),
    ] {
        let problems = problems(part);
        assert_eq!(problems[0], expected, "{part}");
        assert!(!format!("{problems:?}").contains("secret-"), "{problems:?}");
    }
    check_table(
        SECRET,
        &["stringData: {acme: secret-key-of-acme}"],
        &[("strngData: {}", "strngData", "unknown field")],
    );
}

#[test]
fn more_keys_than_may_be_compared_are_refused() {
    let of = |count: usize| {
        let entries: Vec<_> = (0..count).map(|n| format!("c{n}: key-of-client-{n:04}")).collect();
        format!("stringData: {{{}}}", entries.join(", "))
    };
    assert_eq!(secret(&of(256)).keys.len(), 256);
    assert_eq!(problems(&of(257)), ["data: has 257 keys, of which it may have 256 [invalid-value]"]);
}

#[test]
fn a_secret_without_the_label_is_not_read() {
    for labels in
        ["", ", labels: {outrigger.dev/api-keys: 'false'}", ", labels: {outrigger.dev/api-key: 'true'}"]
    {
        let yaml = format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{name: a{labels}}}, type: kubernetes.io/tls, data: {{tls.key: '!'}}}}"
        );
        let decoded = read(&yaml).remove(0);
        assert_eq!((decoded.id, decoded.outcome), (None, Outcome::NotHandled), "{labels}");
    }
}

#[test]
fn the_document_that_is_saved_has_the_same_keys_as_hashes() {
    let yaml = SECRET.replace(
        '@',
        "stringData: {acme: \"first-key-of-acme\\nsecond-key-of-acme\", beta: key-of-client-beta, gamma: ''}",
    );
    let yaml = yaml.replace(
        "labels:",
        "annotations: {kubectl.kubernetes.io/last-applied-configuration: key-of-acme}, labels:",
    );
    let decoded = read(&yaml).remove(0);
    let resource = decoded.resource().unwrap();
    let text = resource.text_without_keys().unwrap();
    assert!(!text.contains("key-of") && !format!("{resource:?}").contains("key-of"), "{text} {resource:?}");
    let again = read(&text).remove(0);
    assert_eq!(again.resource().unwrap().body, resource.body);
    assert_eq!(again.id, decoded.id);
}
