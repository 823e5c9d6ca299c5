//! The field `healthCheck` of a BackendTrafficPolicy.

use std::time::Duration;

use http::uri::PathAndQuery;
use schemars::JsonSchema;
use serde::Deserialize;

use super::bounded::{LARGEST, number, positive};
use super::strict::at;
use super::value::{GepDuration, Integer, List, Port, PreciseHostname, Text};
use crate::model::health_check::{Checker, HealthCheck};

/// The shortest interval. A shorter one would be load rather than a check.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// Active health checks. What is absent keeps the default of the mesh.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct WireHealthCheck {
    r#type: WireCheckType,
    http: Option<WireHttpCheck>,
    tcp: Option<WireTcpCheck>,
    grpc: Option<WireGrpcCheck>,
    interval: Option<GepDuration>,
    jitter_percent: Option<Integer<0, 100>>,
    timeout: Option<GepDuration>,
    healthy_threshold: Option<Integer<1, LARGEST>>,
    unhealthy_threshold: Option<Integer<1, LARGEST>>,
    port: Option<Port>,
    panic_threshold: Option<Integer<0, 100>>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
enum WireCheckType {
    #[serde(rename = "HTTP")]
    Http,
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "GRPC")]
    Grpc,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireHttpCheck {
    path: Text<1024>,
    method: Option<WireMethod>,
    host: Option<PreciseHostname>,
    #[serde(default)]
    expected_statuses: List<WireStatuses, 0, 16>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
enum WireMethod {
    Get,
    Head,
    Options,
    Post,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireStatuses {
    from: Integer<100, 599>,
    to: Option<Integer<100, 599>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireTcpCheck {
    send: Option<WireBytes>,
    #[serde(default)]
    receive: List<WireBytes, 0, 16>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireBytes {
    text: Option<Text<1024>>,
    hex: Option<Text<2048>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireGrpcCheck {
    service: Option<Text<1024>>,
}

impl WireHealthCheck {
    /// Returns the settings. Returns the error of a field of `healthCheck`.
    pub(super) fn decode(self) -> Result<HealthCheck, String> {
        let field = |name: &str| format!("healthCheck.{name}");
        let checker = match (self.r#type, self.http, self.tcp, self.grpc) {
            (WireCheckType::Http, Some(http), None, None) => http.decode()?,
            (WireCheckType::Http, None, None, None) => {
                return Err(at(field("http"), "is missing: it says what is requested"));
            }
            (WireCheckType::Tcp, None, tcp, None) => tcp.unwrap_or_default().decode()?,
            (WireCheckType::Grpc, None, None, grpc) => {
                Checker::Grpc { service: grpc.unwrap_or_default().service.map(Into::into) }
            }
            _ => return Err(at("healthCheck", "may have the field of its type, and no other")),
        };
        let interval = self.interval.map(|interval| interval.0);
        if interval.is_some_and(|interval| interval < SHORTEST_INTERVAL) {
            return Err(at(field("interval"), "is shorter than 100ms"));
        }
        Ok(HealthCheck {
            checker,
            interval,
            jitter_percent: number(self.jitter_percent),
            timeout: positive(&field("timeout"), self.timeout)?,
            healthy_threshold: number(self.healthy_threshold),
            unhealthy_threshold: number(self.unhealthy_threshold),
            port: self.port.map(|port| port.0),
            panic_threshold: number(self.panic_threshold),
        })
    }
}

impl WireHttpCheck {
    fn decode(self) -> Result<Checker, String> {
        let path = self.path.0;
        let valid = PathAndQuery::try_from(&*path).is_ok_and(|read| read.as_str() == &*path);
        if !valid || !path.starts_with('/') {
            return Err(at(
                "healthCheck.http.path",
                format_args!("{path:?} is not a path that begins with /"),
            ));
        }
        let statuses = |(index, WireStatuses { from, to }): (usize, WireStatuses)| {
            let (from, to) = (from.0, to.map_or(from.0, |to| to.0));
            if to < from {
                let field = format!("healthCheck.http.expectedStatuses[{index}].to");
                return Err(at(field, "is less than from"));
            }
            let status = |code: i64| u16::try_from(code).unwrap_or_default();
            Ok((status(from), status(to)))
        };
        Ok(Checker::Http {
            method: match self.method {
                Some(WireMethod::Get) | None => http::Method::GET,
                Some(WireMethod::Head) => http::Method::HEAD,
                Some(WireMethod::Options) => http::Method::OPTIONS,
                Some(WireMethod::Post) => http::Method::POST,
            },
            path,
            host: self.host.map(|host| host.0),
            statuses: self
                .expected_statuses
                .0
                .into_iter()
                .enumerate()
                .map(statuses)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl WireTcpCheck {
    fn decode(self) -> Result<Checker, String> {
        let Self { send, receive } = self;
        if send.is_none() && !receive.0.is_empty() {
            return Err(at("healthCheck.tcp.receive", "has an effect with send only"));
        }
        let receive = receive.0.into_iter().enumerate();
        Ok(Checker::Tcp {
            send: send.map(|bytes| bytes.decode("healthCheck.tcp.send")).transpose()?,
            receive: receive
                .map(|(index, bytes)| bytes.decode(&format!("healthCheck.tcp.receive[{index}]")))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl WireBytes {
    fn decode(self, field: &str) -> Result<Vec<u8>, String> {
        match self {
            Self { text: Some(text), hex: None } => Ok(text.0.as_bytes().to_vec()),
            Self { text: None, hex: Some(hex) } => {
                bytes(&hex.0).ok_or_else(|| at(format!("{field}.hex"), "is not hexadecimal"))
            }
            _ => Err(at(field, "needs either text or hex")),
        }
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits =
        hex.chars().map(|digit| u8::try_from(digit.to_digit(16)?).ok()).collect::<Option<Vec<_>>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_table, read};
    use super::super::{Body, Outcome};
    use super::*;
    use crate::model::resource::policy::{PolicyRules, PolicySpec};

    const POLICY: &str = "{apiVersion: outrigger.dev/v1alpha1, kind: BackendTrafficPolicy, metadata: {name: a}, \
                          spec: {targetRefs: [{group: '', kind: Service, name: b}], healthCheck: {@}}}";

    fn check(spec: &str) -> HealthCheck {
        let decoded = read(&POLICY.replace('@', spec)).remove(0);
        let Outcome::Accepted(resource) = decoded.outcome else { panic!("{:?}", decoded.outcome) };
        let Body::Policy(PolicySpec { rules: PolicyRules::BackendTraffic(spec), .. }) = &resource.body else {
            panic!("{resource:?}")
        };
        spec.health_check.clone().unwrap()
    }

    #[test]
    fn every_setting_is_read() {
        let all = check(
            "type: HTTP, http: {path: '/healthz?a=b', method: HEAD, host: cart.example, expectedStatuses: [{from: 200, to: 299}, {from: 404}]},
             interval: 5s, jitterPercent: 20, timeout: 500ms, healthyThreshold: 1, unhealthyThreshold: 4, port: 8081, panicThreshold: 0",
        );
        let expected = HealthCheck {
            checker: Checker::Http {
                method: http::Method::HEAD,
                path: "/healthz?a=b".into(),
                host: Some("cart.example".into()),
                statuses: vec![(200, 299), (404, 404)],
            },
            interval: Some(Duration::from_secs(5)),
            jitter_percent: Some(20),
            timeout: Some(Duration::from_millis(500)),
            healthy_threshold: Some(1),
            unhealthy_threshold: Some(4),
            port: Some(8081),
            panic_threshold: Some(0),
        };
        assert_eq!(all, expected);
        let http = check("type: HTTP, http: {path: /}").checker;
        let get = http::Method::GET;
        assert_eq!(http, Checker::Http { method: get, path: "/".into(), host: None, statuses: vec![] });
        let tcp =
            check("type: TCP, tcp: {send: {text: \"PING\\r\\n\"}, receive: [{text: PO}, {hex: '4E47'}]}");
        let receive = vec![b"PO".to_vec(), b"NG".to_vec()];
        assert_eq!(tcp.checker, Checker::Tcp { send: Some(b"PING\r\n".to_vec()), receive });
        assert_eq!(check("type: TCP").checker, Checker::Tcp { send: None, receive: vec![] });
        let grpc = check("type: GRPC, grpc: {service: shop.Cart}").checker;
        assert_eq!(grpc, Checker::Grpc { service: Some("shop.Cart".into()) });
        assert_eq!(check("type: GRPC").checker, Checker::Grpc { service: None });
    }

    #[test]
    fn what_cannot_be_checked_is_refused() {
        let http = |more: &str| format!("type: HTTP, http: {{path: /a{more}}}");
        let statuses = http(", expectedStatuses: [{from: 300, to: 200}]");
        let unknown = http(", expectedStatuses: [{from: 99}]");
        let method = http(", method: CONNECT");
        check_table(
            POLICY,
            &["type: HTTP, http: {path: /}", "type: TCP, tcp: {}, interval: 100ms", "type: GRPC"],
            &[
                ("", "spec.healthCheck", "missing field"),
                ("type: HTTP", "spec.healthCheck.http", "is missing"),
                ("type: http", "spec.healthCheck.type", "unknown value"),
                ("type: TCP, http: {path: /}", "spec.healthCheck", "the field of its type"),
                ("type: HTTP, http: {path: a}", "spec.healthCheck.http.path", "begins with /"),
                ("type: HTTP, http: {path: '/a b'}", "spec.healthCheck.http.path", "begins with /"),
                ("type: HTTP, http: {path: '/a#b'}", "spec.healthCheck.http.path", "begins with /"),
                (&*method, "spec.healthCheck.http.method", "unknown value"),
                (&*statuses, "spec.healthCheck.http.expectedStatuses[0].to", "less than from"),
                (&*unknown, "spec.healthCheck.http.expectedStatuses[0].from", "not between"),
                ("type: TCP, tcp: {receive: [{text: a}]}", "spec.healthCheck.tcp.receive", "with send only"),
                ("type: TCP, tcp: {send: {}}", "spec.healthCheck.tcp.send", "either text or hex"),
                ("type: TCP, tcp: {send: {hex: abc}}", "spec.healthCheck.tcp.send.hex", "not hexadecimal"),
                ("type: TCP, interval: 99ms", "spec.healthCheck.interval", "shorter than 100ms"),
                ("type: TCP, timeout: 0s", "spec.healthCheck.timeout", "is zero"),
                ("type: TCP, healthyThreshold: 0", "spec.healthCheck.healthyThreshold", "not between"),
                ("type: TCP, panicThreshold: 101", "spec.healthCheck.panicThreshold", "not between"),
                ("type: TCP, port: 0", "spec.healthCheck.port", "not between"),
            ],
        );
    }
}
