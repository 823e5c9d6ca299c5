//! The application's probes that the proxy performs in its place, as the control plane's injection writes them.
//!
//! The form is JSON: the path under which the probe is requested, and one handler of a Kubernetes probe with a numeric port.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The probes by path.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct AppProbeFlag(pub(crate) BTreeMap<String, AppProbe>);

/// One probe.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AppProbe {
    #[serde(flatten)]
    pub(crate) action: ProbeAction,
    pub(crate) timeout_seconds: u64,
}

/// What the probe does.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ProbeAction {
    HttpGet(HttpGet),
    TcpSocket(TcpSocket),
    Grpc(GrpcCheck),
}

/// `HTTPGetAction`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HttpGet {
    pub(crate) port: u16,
    #[serde(default)]
    pub(crate) path: String,
    #[serde(default)]
    pub(crate) scheme: HttpScheme,
    #[serde(default)]
    pub(crate) http_headers: Vec<HttpHeader>,
}

/// `URIScheme`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum HttpScheme {
    #[default]
    Http,
    Https,
}

/// `HTTPHeader`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct HttpHeader {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) value: String,
}

/// `TCPSocketAction`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TcpSocket {
    pub(crate) port: u16,
}

/// `GRPCAction`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrpcCheck {
    pub(crate) port: u16,
    #[serde(default)]
    pub(crate) service: String,
}

/// Parses the flag's value.
pub(crate) fn parse_app_probes(json: &str) -> Result<AppProbeFlag, String> {
    serde_json::from_str(json).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probes_that_injection_writes_are_parsed() {
        let json = r#"{
            "/app-health/web/livez": {"httpGet": {"path": "/live", "port": 8081, "scheme": "HTTPS", "httpHeaders": [{"name": "A", "value": "b"}]}, "timeoutSeconds": 4},
            "/app-health/web/readyz": {"tcpSocket": {"port": 5432}, "timeoutSeconds": 1},
            "/app-health/web/startupz": {"grpc": {"port": 9000, "service": "cart"}, "timeoutSeconds": 1}
        }"#;
        let AppProbeFlag(probes) = parse_app_probes(json).unwrap();
        let header = HttpHeader { name: "A".into(), value: "b".into() };
        let get = HttpGet {
            port: 8081,
            path: "/live".into(),
            scheme: HttpScheme::Https,
            http_headers: vec![header],
        };
        let expected = AppProbe { action: ProbeAction::HttpGet(get), timeout_seconds: 4 };
        assert_eq!(probes["/app-health/web/livez"], expected);
        assert_eq!(probes["/app-health/web/readyz"].action, ProbeAction::TcpSocket(TcpSocket { port: 5432 }));
        let check = GrpcCheck { port: 9000, service: "cart".into() };
        assert_eq!(probes["/app-health/web/startupz"].action, ProbeAction::Grpc(check));
    }

    #[test]
    fn what_cannot_be_performed_is_refused() {
        for json in [
            "",
            "[]",
            r#"{"/x": {"timeoutSeconds": 1}}"#,
            r#"{"/x": {"exec": {"command": ["true"]}, "timeoutSeconds": 1}}"#,
            r#"{"/x": {"tcpSocket": {"port": 70000}, "timeoutSeconds": 1}}"#,
            r#"{"/x": {"tcpSocket": {"port": 80, "host": "other"}, "timeoutSeconds": 1}}"#,
        ] {
            assert!(parse_app_probes(json).is_err(), "{json}");
        }
    }
}
