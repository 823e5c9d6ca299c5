//! Problems of policies that are accepted.

use super::*;

/// A policy with these targets, which are in line 6.
fn policy(targets: &str) -> String {
    let head =
        "apiVersion: outrigger.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}";
    format!("{head}\nspec:\n  action: Allow\n  targetRefs: [{targets}]\n")
}

pub(super) fn cases() -> Vec<(Files, Vec<&'static str>)> {
    let beside = |yaml: String| vec![("a.yaml", services()), ("b.yaml", yaml)];
    let cart = "{group: '', kind: Service, name: cart}";
    let (allow, tcp) = ("action: Allow", "healthCheck: {type: TCP}");
    let limit = "local: [{requests: 1, per: Day, by: [{caller: {}}, {claim: {name: sub}}]}]";
    let limits = |name: &str| {
        let of_traffic = policy(cart).replace("Authorization", "BackendTraffic").replace("name: p", name);
        of_traffic.replace(allow, "limits: {maxRequests: 9}")
    };
    let groups = "action: Deny\n  rules: [{from: [{claims: [{path: [realm, groups], values: [staff]}]}]}]";
    vec![
        (
            beside(policy(
                "{group: '', kind: Service, name: cart, sectionName: x}, {group: gateway.networking.k8s.io, kind: Gateway, name: g}",
            )),
            vec![
                "b.yaml:6:55 unknown-target AuthorizationPolicy shop/p, spec.targetRefs[0].sectionName: Service cart has no port named x; cart has the ports 80 (http), 9090 (metrics)",
                "b.yaml:6:72 unsupported-target AuthorizationPolicy shop/p, spec.targetRefs[1]: Gateway g: policies of Gateways are not supported yet",
            ],
        ),
        (
            beside(policy(cart).replace("Authorization", "BackendTraffic").replace(allow, tcp)),
            vec![
                "b.yaml:5:17 ignored-field BackendTrafficPolicy shop/p, spec.healthCheck.type: TCP does not suit the protocol of port 80 of Service cart, which is not checked",
            ],
        ),
        (
            beside(limits("name: b") + "---\n" + &limits("name: a")),
            vec![
                "b.yaml:6:3 conflicting-policy BackendTrafficPolicy shop/b, spec.targetRefs: does not apply to Service cart: BackendTrafficPolicy a is older and has the same target",
            ],
        ),
        (
            beside(policy(cart).replace("Authorization", "RateLimit").replace(allow, limit)),
            vec![
                "b.yaml:5:55 unverified-claim RateLimitPolicy shop/p, spec.local[0].by[1].claim: no request has the claim \"sub\", since no AuthenticationPolicy verifies tokens at Service cart: the limit does not distinguish requests by it; attach an AuthenticationPolicy with jwt.issuers there",
            ],
        ),
        (
            beside(policy("").replace(allow, groups)),
            vec![
                "b.yaml:6:29 unverified-claim AuthorizationPolicy shop/p, spec.rules[0].from[0].claims[0]: no request has the claim \"realm.groups\", since no AuthenticationPolicy verifies tokens at namespace shop: this condition matches nothing; attach an AuthenticationPolicy with jwt.issuers there",
            ],
        ),
    ]
}

/// Two services that are asked about each other's requests.
pub(super) fn asking_each_other() -> Files {
    let policy = |service: &str, asks: &str| {
        format!(
            "---\napiVersion: outrigger.dev/v1alpha1\nkind: ExternalAuthorizationPolicy\nmetadata: {{name: {service}, namespace: shop}}\n\
             spec: {{targetRefs: [{{group: '', kind: Service, name: {service}}}], protocol: HTTP, backendRef: {{name: {asks}, port: 80}}}}\n"
        )
    };
    let both = policy("cart", "catalog") + &policy("catalog", "cart");
    vec![("a.yaml", services()), ("b.yaml", both)]
}

#[test]
fn services_that_are_asked_about_each_other_are_reported() {
    let files = asking_each_other();
    let found = check_texts(&files.iter().map(|(name, text)| (*name, &**text)).collect::<Vec<_>>());
    let message = |at, service| {
        format!(
            "b.yaml:{at} question-cycle ExternalAuthorizationPolicy shop/{service}, spec.backendRef: the answers about requests to \
             shop/{service}:80 would need questions that lead back to it: they are refused"
        )
    };
    assert_eq!(found, [message("5:78", "cart"), message("10:81", "catalog")]);
}

fn secret(name: &str, entries: &str) -> String {
    let (name, namespace) = name.split_once('.').unwrap_or((name, "shop"));
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}, \
         labels: {{outrigger.dev/api-keys: 'true'}}}}\nstringData:\n{entries}\n"
    )
}

pub(super) fn of_secrets() -> Vec<(Files, Vec<&'static str>)> {
    let with = |references: &str, secrets: String| {
        let policy = format!(
            "apiVersion: outrigger.dev/v1alpha1\nkind: AuthenticationPolicy\nmetadata: {{name: p, namespace: shop}}\n\
             spec: {{apiKeys: {{secrets: [{references}], from: [{{header: x}}]}}}}\n"
        );
        vec![("a.yaml", policy), ("b.yaml", secrets)]
    };
    let good = "  acme: key-of-client-acme";
    vec![
        (
            with("{name: partner}", secret("partners", good)),
            vec![
                "a.yaml:4:28 unknown-secret AuthenticationPolicy shop/p, spec.apiKeys.secrets[0]: there is no Secret shop/partner with the label outrigger.dev/api-keys: \"true\"; did you mean partners?",
            ],
        ),
        (
            with("{name: partners}", secret("partners", "  beta: key-of-client-beta\n  acme: short")),
            vec![
                "a.yaml:4:28 unusable-secret AuthenticationPolicy shop/p, spec.apiKeys.secrets[0]: Secret shop/partners is refused: stringData.acme: is shorter than 16 characters",
                "b.yaml:2:1 invalid-value Secret shop/partners, : no version of it was ever accepted: until one is, the policies that refer to it have no keys of it",
                "b.yaml:7:3 invalid-value Secret shop/partners, stringData.acme: is shorter than 16 characters",
            ],
        ),
        (
            with("{name: partners, namespace: keys}", secret("partners.keys", good)),
            vec![
                "a.yaml:4:28 secret-not-permitted AuthenticationPolicy shop/p, spec.apiKeys.secrets[0]: no ReferenceGrant in keys permits an AuthenticationPolicy of shop to refer to Secret keys/partners; add a ReferenceGrant to namespace keys: from AuthenticationPolicy of shop, to Secret partners",
            ],
        ),
        (
            with(
                "{name: partners}, {name: others}",
                secret("partners", good) + &secret("others", "  acme: another-key-of-acme"),
            ),
            vec![
                "a.yaml:4:46 duplicate-client AuthenticationPolicy shop/p, spec.apiKeys.secrets[1]: Secret shop/others: client acme is in Secret shop/partners too, whose keys are used",
            ],
        ),
    ]
}

#[test]
fn secrets_of_others_are_not_read() {
    let valid = secret("tls", "  tls.key: x").replace("'true'", "'no'");
    assert_eq!(check_texts(&[("a.yaml", &services()), ("b.yaml", &valid)]), [""; 0], "others are not read");
}
