//! Policies of every kind.

use serde_json::{Value, json};

/// Each action with each kind of target, and every condition.
pub(crate) fn every_policy() -> Vec<Value> {
    let route =
        |kind: &str, name: &str| json!({"group": "gateway.networking.k8s.io", "kind": kind, "name": name});
    let targets = json!([{"group": "", "kind": "Service", "name": "cart", "sectionName": "p81"}, route("HTTPRoute", "http"),
        route("GRPCRoute", "grpc"), route("TCPRoute", "tcp"), {"group": "", "kind": "Pod", "selector": {"matchLabels": {"version": "v1"}}}]);
    let from = json!([{"serviceAccounts": [{"name": "a"}, {"namespace": "b", "name": "c"}], "namespaces": ["d"]},
        {"spiffeIds": ["spiffe://e/f", "spiffe://g/*"], "cidrs": ["10.0.0.0/8", "fd00::/8"]},
        {"claims": [{"name": "sub", "values": ["h"]}, {"path": ["i.j", "k"], "values": ["l", "m n"]}]}]);
    let paths = json!([{"value": "/"}, {"value": "/h.i"}, {"type": "Exact", "value": "/%2525"}, {"type": "RegularExpression", "value": "/[jk].*"}]);
    let to = json!([{"ports": [8080, 8081], "hosts": ["l.m", "*.n"], "methods": ["GET", "CONNECT"], "paths": paths},
        {"headers": [{"name": "O", "value": "p"}, {"name": "q", "type": "RegularExpression", "value": "r|s"}],
         "grpcMethods": [{"service": "t.U", "method": "V"}, {"service": "w"}]}]);
    let rules = json!([{"from": from, "to": to}, {"from": from}, {"to": to}, {}]);
    let policy = |action: &&str| {
        [json!([]), targets.clone()].map(|targets| {
            json!({"apiVersion": "outrigger.dev/v1alpha1", "kind": "AuthorizationPolicy",
                "metadata": {"name": format!("{}-{}", action.to_lowercase(), targets[0].is_null()), "namespace": "shop"},
                "spec": {"action": action, "targetRefs": targets, "rules": rules}})
        })
    };
    let faults = json!({"apiVersion": "outrigger.dev/v1alpha1", "kind": "FaultInjectionPolicy",
        "metadata": {"name": "faults", "namespace": "shop"},
        "spec": {"targetRefs": targets, "headers": [{"name": "O", "value": "p"}, {"name": "q", "type": "RegularExpression", "value": "r|s"}],
            "delay": {"duration": "100ms", "percent": 1}, "abort": {"grpcStatus": 14, "percent": 100},
            "bandwidth": {"kibPerSecond": 1, "percent": 50}, "maxActiveFaults": 1}});
    let policies = ["Allow", "Deny", "Audit"].iter().flat_map(policy);
    policies.chain([faults]).chain(every_rate_limit(&targets)).chain(every_external_authorization()).collect()
}

/// ExternalAuthorizationPolicies with each mode and protocol and every field, each for another kind of target.
fn every_external_authorization() -> impl Iterator<Item = Value> {
    let route =
        |kind: &str, name: &str| json!({"group": "gateway.networking.k8s.io", "kind": kind, "name": name});
    let port = json!({"group": "", "kind": "Service", "name": "cart", "sectionName": "p81"});
    let backend = json!({"name": "cart", "port": 80});
    let http = json!({"path": "/a/", "allowedHeaders": ["B"], "allowedResponseHeaders": ["C"], "allowedClientHeaders": ["D"]});
    let bodies = json!({"maxSize": 4_194_304, "allowPartial": true});
    let specs = [
        ("bare", json!({"protocol": "HTTP", "backendRef": backend})),
        (
            "http",
            json!({"targetRefs": [route("HTTPRoute", "http")], "protocol": "HTTP", "backendRef": backend, "http": http,
            "forwardBody": bodies, "timeout": "60s", "failureMode": "Open"}),
        ),
        (
            "grpc",
            json!({"targetRefs": [port], "protocol": "GRPC", "backendRef": {"name": "cart", "port": 82},
            "grpc": {"allowedHeaders": ["E"]}, "forwardBody": {"maxSize": 1}, "timeout": "1ms"}),
        ),
        ("off", json!({"targetRefs": [route("GRPCRoute", "grpc")], "mode": "Off"})),
        (
            "missing",
            json!({"targetRefs": [{"group": "", "kind": "Service", "name": "other"}], "protocol": "GRPC",
            "backendRef": {"name": "nowhere", "port": 1}}),
        ),
    ];
    specs.into_iter().map(|(name, spec)| {
        json!({"apiVersion": "outrigger.dev/v1alpha1", "kind": "ExternalAuthorizationPolicy",
            "metadata": {"name": format!("external-{name}"), "namespace": "shop"}, "spec": spec})
    })
}

/// RateLimitPolicies with each way of counting, by the sidecar and by a service: one without targets, and one with these.
fn every_rate_limit(targets: &Value) -> impl Iterator<Item = Value> {
    let by = json!([{"caller": {}}, {"header": {"name": "A"}}, {"header": {"name": "b", "type": "RegularExpression", "value": "c|d"}},
        {"path": {"value": "/"}}, {"path": {"type": "Exact", "value": "/e.f"}}, {"path": {"type": "RegularExpression", "value": "/[gh]"}},
        {"address": {}}, {"address": {"ipv4PrefixLength": 24, "ipv6PrefixLength": 56}}]);
    let spec = json!({"local": [{"requests": 1, "per": "Second"}, {"requests": 1_000_000_000, "per": "Day", "burst": 1, "by": by}],
        "global": {"service": {"name": "cart", "port": 80}, "timeout": "1s", "failureMode": "Closed", "descriptors": [{"by": by}]}});
    [json!([]), targets.clone()].into_iter().map(move |targets| {
        let mut spec = spec.clone();
        spec["targetRefs"] = targets;
        json!({"apiVersion": "outrigger.dev/v1alpha1", "kind": "RateLimitPolicy",
            "metadata": {"name": format!("rate-limit-{}", spec["targetRefs"][0].is_null()), "namespace": "shop"}, "spec": spec})
    })
}

/// Each mode with each kind of target, and every field.
pub(crate) fn every_authentication() -> Vec<Value> {
    let route = json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "http"});
    let grpc = json!({"group": "gateway.networking.k8s.io", "kind": "GRPCRoute", "name": "grpc"});
    let port = json!({"group": "", "kind": "Service", "name": "cart", "sectionName": "p81"});
    // The keys of RFC 7515 appendix A.3 and of RFC 8037 appendix A.2.
    let set = json!({"keys": [
        {"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
        {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
        {"kty": "LATTICE"}]});
    let jwt = json!({"issuers": [
        {"issuer": "https://a", "audiences": ["b", "c"], "keys": {"inline": set.to_string()}, "clockSkew": "1h", "forward": true,
         "from": [{"header": "Authorization"}, {"header": "X-D", "prefix": "E "}, {"header": "f"}, {"query": "g h"}, {"cookie": "i"}],
         "claimsToHeaders": [{"name": "j", "header": "X-J"}, {"name": "https://k.l/m", "header": "x-k"}, {"path": ["n", "o.p"], "header": "x-n"}]},
        {"issuer": "q", "keys": {"service": {"namespace": "shop", "name": "cart", "port": 81, "path": "/r{s}|~%20"}}},
        {"issuer": "t", "keys": {"service": {"name": "other", "port": 80, "path": "/"}}}]});
    let keys = json!({"clients": [{"name": "u v", "key": "w x"}, {"name": "y", "sha256": "0".repeat(64)}],
        "from": [{"header": "authorization"}, {"header": "X-Z"}, {"query": "k"}, {"cookie": "k"}], "clientHeader": "X-Client"});
    let policy = |name: &str, spec: Value| {
        json!({"apiVersion": "outrigger.dev/v1alpha1", "kind": "AuthenticationPolicy",
            "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
    };
    vec![
        policy("tokens", json!({"mode": "Optional", "jwt": jwt})),
        policy("both", json!({"targetRefs": [route], "jwt": jwt, "apiKeys": keys})),
        policy("keys", json!({"targetRefs": [port], "apiKeys": keys})),
        policy("off", json!({"targetRefs": [grpc], "mode": "Off"})),
    ]
}

/// Policies about the callers of each port of `cart`, each with settings that the others do not have. Together they have all of them.
pub(crate) fn every_backend_traffic() -> Vec<Value> {
    let policy = |name: &str, section: Option<&str>, mut spec: Value| {
        let mut target = json!({"group": "", "kind": "Service", "name": "cart"});
        if let Some(section) = section {
            target["sectionName"] = section.into();
        }
        spec["targetRefs"] = json!([target]);
        json!({"apiVersion": "outrigger.dev/v1alpha1", "kind": "BackendTrafficPolicy",
            "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
    };
    let ejection = json!({"mode": "Enforce", "interval": "1s", "baseEjectionTime": "2s", "maxEjectionTime": "3s", "maxEjectionPercent": 4,
        "consecutive5xxErrors": 5, "consecutiveGatewayErrors": 6, "consecutiveLocalOriginFailures": 7,
        "failurePercentage": {"threshold": 8, "minimumHosts": 9, "requestVolume": 10},
        "successRate": {"minimumHosts": 11, "requestVolume": 12, "stdevFactor": 1300}});
    let http = json!({"type": "HTTP", "http": {"path": "/a?b=%20", "method": "OPTIONS", "host": "c.d", "expectedStatuses": [{"from": 100, "to": 599}]},
        "interval": "100ms", "jitterPercent": 100, "timeout": "1ms", "healthyThreshold": 1, "unhealthyThreshold": 4_294_967_295_u32, "port": 65535,
        "panicThreshold": 100});
    let tcp = json!({"type": "TCP", "tcp": {"send": {"text": "é\r\n"}, "receive": [{"hex": "00fF"}, {"text": " "}]}, "panicThreshold": 0});
    let hash = |kind: &str, key: Value| json!({"type": kind, "consistentHash": key});
    let cookie = json!({"type": "Cookie", "cookie": {"name": "e", "ttl": "1h", "path": "/f"}});
    vec![
        policy(
            "all",
            None,
            json!({"loadBalancer": {"type": "PeakEWMA"}, "outlierDetection": ejection, "healthCheck": http, "slowStart": {"window": "30s"},
            "locality": {"preference": "SameNode", "failover": [{"from": "a", "to": ["b", "c"]}], "minEndpoints": 2, "overprovisioningPercent": 10_000},
            "limits": {"maxConnections": 1, "maxPendingRequests": 2, "maxRequests": 3}, "connectTimeout": "250ms", "overload": "Observe",
            "retryBudget": {"percent": 100, "interval": "1h", "minRetryRate": {"count": 4, "interval": "2s"}}}),
        ),
        policy(
            "p81",
            Some("p81"),
            json!({"loadBalancer": {"type": "RoundRobin"}, "slowStart": {"window": "1ms", "minWeightPercent": 0, "aggressionPercent": 10_000}, "limits": {"maxRetries": 0}, "outlierDetection": {"mode": "Disabled"}}),
        ),
        policy("p82", Some("p82"), json!({"loadBalancer": hash("RingHash", cookie), "overload": "Disabled"})),
        policy(
            "p83",
            Some("p83"),
            json!({"loadBalancer": hash("Maglev", json!({"type": "Header", "header": "X-G"})),
            "healthCheck": {"type": "GRPC", "grpc": {"service": "h.I"}}}),
        ),
        policy(
            "p84",
            Some("p84"),
            json!({"loadBalancer": hash("Maglev", json!({"type": "Source"})), "healthCheck": tcp}),
        ),
        policy(
            "p85",
            Some("p85"),
            json!({"loadBalancer": {"type": "LeastRequest"}, "slowStart": {"window": "99999h", "minWeightPercent": 100, "aggressionPercent": 1}}),
        ),
    ]
}
