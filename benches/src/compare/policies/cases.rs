//! The policies that are measured, as a user writes them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrigger_test_support::token::{TokenSigner, key_set};

use super::PATH;

/// The services that are asked about requests.
pub(super) const JUDGE: &str = "judge";
pub(super) const HTTP_JUDGE: &str = "http-judge";
pub(super) const LIMITS: &str = "limits";

/// The limits of the service of global limits.
pub(super) const LIMITS_FILE: &str = "domain: mesh
descriptors:
- key: caller
  rate_limit: { unit: second, requests_per_unit: 1000000 }
";

const ISSUER: &str = "https://issuer.example";
const API_KEY: &str = "a-key-of-the-bench";

/// What each request has, so that all cases have the same requests.
pub(super) struct Credentials {
    rs256: Token,
    es256: Token,
}

struct Token {
    text: String,
    /// A JSON Web Key Set.
    keys: String,
}

impl Credentials {
    /// Makes keys, and tokens that are valid for a day.
    pub(super) fn new() -> Result<Self, String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?;
        let expires = (now + Duration::from_secs(86_400)).as_secs();
        let claims = format!(r#"{{"iss":"{ISSUER}","aud":"mesh","sub":"ann","exp":{expires}}}"#);
        let token = |algorithm| {
            let signer = TokenSigner::new(algorithm, "bench");
            Token { text: signer.token(&claims), keys: key_set([&signer]) }
        };
        Ok(Self { rs256: token("RS256"), es256: token("ES256") })
    }

    /// Returns the fields of a request.
    pub(super) fn fields(&self) -> [(&'static str, &str); 3] {
        [("x-rs256", &self.rs256.text), ("x-es256", &self.es256.text), ("x-api-key", API_KEY)]
    }

    /// Returns them as lines.
    pub(super) fn lines(&self) -> String {
        self.fields().iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
    }
}

/// A service, and the policies that are attached to it.
pub(super) struct Case {
    pub(super) name: &'static str,
    policies: Vec<(&'static str, String)>,
    pub(super) proof: Proof,
}

/// What shows that the policies are in force.
#[derive(Debug, Clone, Copy)]
pub(super) enum Proof {
    /// Nothing that a response has.
    Nothing,
    /// A field of the response.
    Field(&'static str),
    /// A request for this path with these fields, each with its line end, is not answered with 200.
    Refuses { path: &'static str, fields: &'static str },
}

impl Case {
    /// Returns the documents of the service of this name.
    pub(super) fn yaml(&self, service: &str) -> String {
        let mut all = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {service}, namespace: mesh}}\n\
             spec: {{ports: [{{name: main, port: 80, appProtocol: http}}]}}\n"
        );
        for (kind, spec) in &self.policies {
            all += &format!(
                "---\napiVersion: outrigger.dev/v1alpha1\nkind: {kind}\n\
                 metadata: {{name: {service}, namespace: mesh}}\n\
                 spec:\n  targetRefs: [{{group: \"\", kind: Service, name: {service}}}]\n{spec}"
            );
        }
        all
    }
}

/// Returns the cases. The first has no policy.
pub(super) fn all(Credentials { rs256, es256 }: &Credentials) -> Vec<Case> {
    let bare = Proof::Refuses { path: PATH, fields: "" };
    let jwt = |header: &str, keys: &str| {
        format!(
            "  jwt:\n    issuers:\n      - issuer: {ISSUER}\n        audiences: [mesh]\n        from: [{{header: {header}}}]\n\
             \x20       keys: {{inline: '{keys}'}}\n        claimsToHeaders: [{{name: sub, header: x-user}}]\n"
        )
    };
    let keys = format!(
        "  apiKeys:\n    clients: [{{name: ann, key: {API_KEY}}}]\n    from: [{{header: x-api-key}}]\n    clientHeader: x-client\n"
    );
    let authorization = "  action: Allow\n  rules:\n    - from: [{serviceAccounts: [{name: client}]}]\n      to: [{methods: [GET], paths: [{value: /items}]}]\n";
    let local = "  local: [{requests: 1000000, per: Second, by: [{caller: {}}]}]\n";
    let global = format!(
        "  global: {{service: {{name: {LIMITS}, port: 80}}, domain: mesh, timeout: 5s, failureMode: Closed, descriptors: [{{by: [{{caller: {{}}}}]}}]}}\n"
    );
    let ask = |protocol: &str, judge: &str| {
        format!("  protocol: {protocol}\n  backendRef: {{name: {judge}, port: 80}}\n  timeout: 5s\n")
    };
    let faults = "  headers: [{name: x-fault, value: now}]\n  abort: {httpStatus: 418, percent: 100}\n  delay: {duration: 1s, percent: 100}\n";
    let traffic = "  loadBalancer: {type: RoundRobin}\n  limits: {maxRequests: 1000, maxConnections: 1000}\n  retryBudget: {percent: 10}\n  \
                   outlierDetection: {consecutive5xxErrors: 10}\n  connectTimeout: 500ms\n";
    let case = |name, kind, spec: String, proof| Case { name, policies: vec![(kind, spec)], proof };
    let (authentication, limit, external) =
        ("AuthenticationPolicy", "RateLimitPolicy", "ExternalAuthorizationPolicy");
    let elsewhere = Proof::Refuses { path: "/", fields: "" };
    let denied = Proof::Refuses { path: PATH, fields: "x-deny: 1\r\n" };
    let faulty = Proof::Refuses { path: PATH, fields: "x-fault: now\r\n" };
    let limited = Proof::Field("x-ratelimit-limit");
    vec![
        Case { name: "none", policies: Vec::new(), proof: Proof::Nothing },
        case("AuthorizationPolicy", "AuthorizationPolicy", authorization.into(), elsewhere),
        case("AuthenticationPolicy, JWT RS256", authentication, jwt("x-rs256", &rs256.keys), bare),
        case("AuthenticationPolicy, JWT ES256", authentication, jwt("x-es256", &es256.keys), bare),
        case("AuthenticationPolicy, API key", authentication, keys.clone(), bare),
        case("RateLimitPolicy, local", limit, local.into(), limited),
        case("RateLimitPolicy, global", limit, global.clone(), limited),
        case("ExternalAuthorizationPolicy, gRPC", external, ask("GRPC", JUDGE), denied),
        case("ExternalAuthorizationPolicy, HTTP", external, ask("HTTP", HTTP_JUDGE), Proof::Nothing),
        case("FaultInjectionPolicy, of no request", "FaultInjectionPolicy", faults.into(), faulty),
        case("BackendTrafficPolicy", "BackendTrafficPolicy", traffic.into(), Proof::Nothing),
        Case {
            name: "all of them",
            policies: vec![
                ("AuthorizationPolicy", authorization.into()),
                (authentication, jwt("x-es256", &es256.keys) + &keys),
                (limit, format!("{local}{global}")),
                (external, ask("GRPC", JUDGE)),
                ("FaultInjectionPolicy", faults.into()),
                ("BackendTrafficPolicy", traffic.into()),
            ],
            proof: limited,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::super::authorizer::DENIED;
    use super::*;

    #[test]
    fn a_case_has_the_policies_of_its_service() {
        let cases = all(&Credentials::new().unwrap());
        assert_eq!(cases[0].yaml("p0").matches("kind:").count(), 1, "no policy");
        let last = cases.last().unwrap().yaml("p9");
        assert_eq!(
            (last.matches("---\n").count(), last.matches("kind: Service, name: p9}]").count()),
            (6, 6)
        );
        let Proof::Refuses { fields, .. } = cases[7].proof else { panic!("{:?}", cases[7].proof) };
        assert!(fields.starts_with(DENIED));
    }
}
