//! Cross-origin requests (`envoy.extensions.filters.http.cors.v3.CorsPolicy`; HTTPRoute's `cors` filter).
//!
//! A preflight is answered here and never reaches a backend. An actual request is forwarded, and the fields of its response
//! say which origin may read it. The rules are those of the Fetch standard, section 3.3 (CORS protocol).

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use outrigger_core::matcher::StringMatcher;
use outrigger_core::percentage::Percentage;
use outrigger_proto::xds::cors;

use crate::field::{Unusable, each, flag, runtime_fraction, unsupported_any};
use crate::string_match;
use crate::verdict::{FilterRequest, ResponseChanges, Verdict};

/// Which origins may call a route, and how.
#[derive(Debug, Clone)]
pub struct CorsPolicy {
    origins: Box<[StringMatcher]>,
    methods: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    credentials: bool,
    private_network: bool,
    forward_other_preflights: bool,
    enabled: Percentage,
}

const PRIVATE_NETWORK_ASKED: HeaderName = HeaderName::from_static("access-control-request-private-network");
const PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");

impl CorsPolicy {
    /// Decodes the policy.
    pub fn decode(wire: cors::CorsPolicy) -> Result<Self, Unusable> {
        let cors::CorsPolicy {
            allow_origin_string_match,
            allow_methods,
            allow_headers,
            expose_headers,
            max_age,
            allow_credentials,
            filter_enabled,
            shadow_enabled,
            allow_private_network_access,
            forward_not_matching_preflights,
        } = wire;
        // Shadow mode only counts what the policy would do. Without such counters it would have no visible effect.
        let shadow = runtime_fraction("shadow_enabled", shadow_enabled)?.unwrap_or(Percentage::ZERO);
        unsupported_any(&[("shadow_enabled", shadow > Percentage::ZERO)])?;
        if !max_age.is_empty() && !max_age.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Unusable::new("max_age", format_args!("{max_age:?} is no number of seconds")));
        }
        Ok(Self {
            origins: each("allow_origin_string_match", allow_origin_string_match, string_match::decode)?
                .into(),
            methods: list("allow_methods", &allow_methods)?,
            headers: list("allow_headers", &allow_headers)?,
            expose: list("expose_headers", &expose_headers)?,
            max_age: list("max_age", &max_age)?,
            credentials: flag(allow_credentials),
            private_network: flag(allow_private_network_access),
            forward_other_preflights: forward_not_matching_preflights.is_none_or(|value| value.value),
            enabled: runtime_fraction("filter_enabled", filter_enabled)?.unwrap_or(Percentage::ALL),
        })
    }

    /// Decides about a request. A preflight is answered; fields of the response to another request from an allowed origin
    /// replace the backend's.
    pub fn decide(&self, request: &FilterRequest<'_>, changes: &mut ResponseChanges) -> Verdict {
        let headers = request.head.headers;
        let enabled = |_: &&HeaderValue| self.enabled.holds((request.random)());
        let Some(origin) = headers.get(header::ORIGIN).filter(enabled) else {
            return Verdict::Admit;
        };
        let allowed = origin.to_str().is_ok_and(|text| self.origins.iter().any(|of| of.matches(text)));
        let asked = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD);
        match asked.filter(|_| request.head.method == Method::OPTIONS) {
            Some(asked) if allowed => Verdict::Answer(self.preflight(origin, asked, headers)),
            Some(_) if !self.forward_other_preflights => Verdict::Answer(HeaderMap::new()),
            None if allowed => {
                changes.set(self.actual(origin));
                Verdict::Admit
            }
            _ => Verdict::Admit,
        }
    }

    fn preflight(&self, origin: &HeaderValue, method: &HeaderValue, headers: &HeaderMap) -> HeaderMap {
        let mut answer = self.origin(origin);
        // With credentials, browsers take `*` literally (Fetch, 3.3.5), so the requested names are listed instead.
        let named = |list: &Option<HeaderValue>, asked: Option<&HeaderValue>| match list {
            Some(all) if all == "*" && self.credentials => asked.cloned(),
            other => other.clone(),
        };
        let requested = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
        let mut set = |name, value: Option<HeaderValue>| value.map(|value| answer.insert(name, value));
        set(header::ACCESS_CONTROL_ALLOW_METHODS, named(&self.methods, Some(method)));
        set(header::ACCESS_CONTROL_ALLOW_HEADERS, named(&self.headers, requested));
        set(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        if self.private_network && headers.get(PRIVATE_NETWORK_ASKED).is_some_and(|asked| asked == "true") {
            answer.insert(PRIVATE_NETWORK, HeaderValue::from_static("true"));
        }
        answer
    }

    fn actual(&self, origin: &HeaderValue) -> HeaderMap {
        let mut headers = self.origin(origin);
        if let Some(expose) = &self.expose {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
        headers
    }

    fn origin(&self, origin: &HeaderValue) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        // The response depends on the origin, which caches must know (Fetch, 3.3.7).
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        if self.credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        headers
    }
}

fn list(field: &str, text: &str) -> Result<Option<HeaderValue>, Unusable> {
    if text.is_empty() {
        return Ok(None);
    }
    HeaderValue::from_str(text)
        .map(Some)
        .map_err(|_| Unusable::new(field, format_args!("{text:?} holds a character that no header may have")))
}

#[cfg(test)]
mod tests {
    use outrigger_proto::xds::{matcher, protobuf};

    use super::*;
    use crate::header_match::Head;

    fn policy(change: impl FnOnce(&mut cors::CorsPolicy)) -> CorsPolicy {
        let exact = matcher::string_matcher::MatchPattern::Exact("https://shop.example".into());
        let mut wire = cors::CorsPolicy {
            allow_origin_string_match: vec![matcher::StringMatcher {
                match_pattern: Some(exact),
                ignore_case: false,
            }],
            allow_methods: "GET, PUT".into(),
            allow_headers: "x-a".into(),
            expose_headers: "x-b".into(),
            max_age: "60".into(),
            ..Default::default()
        };
        change(&mut wire);
        CorsPolicy::decode(wire).unwrap()
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    /// The verdict about a request, and the response of a backend that allows every origin, after the filter.
    fn decide(policy: &CorsPolicy, method: &Method, headers: &HeaderMap) -> (Verdict, HeaderMap) {
        let head = Head { method, scheme: "http", authority: "shop", path: "/", headers };
        let mut changes = ResponseChanges::default();
        let request = FilterRequest::of(head);
        let verdict = policy.decide(&request, &mut changes);
        let mut response = self::headers(&[("access-control-allow-origin", "*"), ("vary", "accept")]);
        changes.apply(&mut response);
        (verdict, response)
    }

    const ORIGIN: (&str, &str) = ("origin", "https://shop.example");
    const ASKED: (&str, &str) = ("access-control-request-method", "PUT");

    #[test]
    fn a_preflight_of_an_allowed_origin_is_answered() {
        let (verdict, _) = decide(&policy(|_| {}), &Method::OPTIONS, &headers(&[ORIGIN, ASKED]));
        let expected = headers(&[
            ("access-control-allow-origin", "https://shop.example"),
            ("vary", "origin"),
            ("access-control-allow-methods", "GET, PUT"),
            ("access-control-allow-headers", "x-a"),
            ("access-control-max-age", "60"),
        ]);
        assert_eq!(verdict, Verdict::Answer(expected));
    }

    #[test]
    fn an_actual_request_passes_and_its_response_names_the_origin() {
        let (verdict, response) = decide(&policy(|_| {}), &Method::GET, &headers(&[ORIGIN]));
        assert_eq!(verdict, Verdict::Admit);
        assert_eq!(response["access-control-allow-origin"], "https://shop.example");
        assert_eq!(response["access-control-expose-headers"], "x-b");
        assert_eq!(response.get_all("vary").iter().count(), 2);
    }

    #[test]
    fn other_origins_and_plain_requests_pass_unchanged() {
        let policy = policy(|_| {});
        let other = headers(&[("origin", "https://evil.example"), ASKED]);
        for (method, headers) in
            [(Method::OPTIONS, &other), (Method::GET, &other), (Method::GET, &HeaderMap::new())]
        {
            let (verdict, response) = decide(&policy, &method, headers);
            assert_eq!(verdict, Verdict::Admit);
            assert_eq!(response["access-control-allow-origin"], "*");
        }
        // Without the method that it asks for, OPTIONS is no preflight.
        let (verdict, response) = decide(&policy, &Method::OPTIONS, &headers(&[ORIGIN]));
        assert_eq!(verdict, Verdict::Admit);
        assert_eq!(response["access-control-allow-origin"], "https://shop.example");
    }

    #[test]
    fn with_credentials_a_star_becomes_the_requested_value() {
        let policy = policy(|wire| {
            wire.allow_methods = "*".into();
            wire.allow_credentials = Some(protobuf::BoolValue { value: true });
        });
        let (Verdict::Answer(answer), _) = decide(&policy, &Method::OPTIONS, &headers(&[ORIGIN, ASKED]))
        else {
            panic!("not answered");
        };
        assert_eq!(answer["access-control-allow-methods"], "PUT");
        assert_eq!(answer["access-control-allow-credentials"], "true");
    }

    #[test]
    fn what_makes_no_header_is_refused_by_field() {
        let base = cors::CorsPolicy::default;
        for (wire, field) in [
            (cors::CorsPolicy { max_age: "soon".into(), ..base() }, "max_age"),
            (cors::CorsPolicy { allow_methods: "GET\r\n".into(), ..base() }, "allow_methods"),
            (
                cors::CorsPolicy { allow_origin_string_match: vec![Default::default()], ..base() },
                "allow_origin_string_match[0].match_pattern",
            ),
        ] {
            assert_eq!(CorsPolicy::decode(wire).unwrap_err().field, field);
        }
    }
}
