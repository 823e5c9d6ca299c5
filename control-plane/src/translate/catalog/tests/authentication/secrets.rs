//! API keys of Secrets.

use super::*;

fn secret(name: &str, entries: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Secret, metadata: {{name: {name}, namespace: shop, labels: {{outrigger.dev/api-keys: 'true'}}}}, \
           stringData: {{{entries}}}}}"
    )
}

const OF_SECRET: &str = "apiKeys: {secrets: [{name: partners}], from: [{header: x-key}]}";

#[test]
fn a_sidecar_gets_the_hashes_of_the_keys_of_secrets() {
    let keys = "acme: \"first-key-of-acme\\nsecond-key-of-acme\"";
    let listener = listener("http", &[&policy("a", "shop", OF_SECRET), &secret("partners", keys)]);
    let manager = manager(&listener);
    assert_eq!(filters(&manager), ["authentication.api-keys"]);
    let filter = ApiKeyAuth::decode(config(&manager.http_filters[0]).value.as_slice()).unwrap();
    let credentials: Vec<_> = filter.credentials.iter().map(|one| (&*one.client, &*one.key)).collect();
    // By `printf first-key-of-acme | sha256sum`.
    let first = "sha256:355c97a0f1e883379312a625f58665c6445374a354dc92022dd2f7ba04743fc4";
    let second = "sha256:4954f697af56eb586df122c99838e9df08399046bb281b153f1855f70e4f63ba";
    assert_eq!(credentials, [("acme", first), ("acme", second)]);
    let bytes = String::from_utf8_lossy(&listener.encode_to_vec()).into_owned();
    assert!(!bytes.contains("key-of-acme"));
}

#[test]
fn without_a_key_everything_is_refused_and_a_route_does_not_get_the_keys_of_the_port() {
    let route = route("HTTPRoute", "r", "name: cart", "{backendRefs: [{name: cart, port: 80}]}");
    let of_port = policy("port", "shop", &format!("{}, {API_KEYS}", to("Service", "name: cart")));
    let of_route = policy("route", "shop", &format!("{}, {OF_SECRET}", to("HTTPRoute", "name: r")));
    let manager = manager(&listener("http", &[&route, &of_port, &of_route]));
    assert_eq!(filters(&manager), ["authentication.refused", "authentication.api-keys"]);
    let config = routes(&manager)[0].typed_per_filter_config["outrigger.authentication.refused"].clone();
    let refused = rbac_filter::RbacPerRoute::decode(config.value.as_slice()).unwrap();
    let policies: Vec<_> = refused.rbac.unwrap().rules.unwrap().policies.into_keys().collect();
    assert_eq!(policies, ["shop/route (no API key)"]);
}
