//! Cross-origin requests (`envoy.extensions.filters.http.cors.v3.CorsPolicy`; HTTPRoute's `cors` filter).
//!
//! A preflight is answered here and never reaches a backend. An actual request is forwarded, and its response tells the
//! browser which origin may read it. The rules are those of the Fetch standard, section 3.3 (CORS protocol).

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use outrigger_core::matcher::StringMatcher;
use outrigger_core::percentage::Percentage;
use outrigger_proto::xds::cors;

use crate::field::{Unusable, each, flag, runtime_fraction, unsupported_any};
use crate::string_match;

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

/// What is done with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// No cross-origin request, or an origin that is not allowed: forwarded, and no header is added to its response.
    Pass,
    /// A preflight: answered with status 200, these headers and no body.
    Answer(HeaderMap),
    /// From an allowed origin: forwarded, and these headers replace the backend's on its response.
    Allow(HeaderMap),
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

    /// Decides for a request with this method and these headers. `sample` is random, uniform over `u32`.
    pub fn check(&self, method: &Method, headers: &HeaderMap, sample: u32) -> Verdict {
        let Some(origin) = headers.get(header::ORIGIN).filter(|_| self.enabled.holds(sample)) else {
            return Verdict::Pass;
        };
        let allowed = origin.to_str().is_ok_and(|text| self.origins.iter().any(|of| of.matches(text)));
        let asked = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD);
        match asked.filter(|_| method == Method::OPTIONS) {
            Some(asked) if allowed => Verdict::Answer(self.preflight(origin, asked, headers)),
            Some(_) if !self.forward_other_preflights => Verdict::Answer(HeaderMap::new()),
            None if allowed => Verdict::Allow(self.actual(origin)),
            _ => Verdict::Pass,
        }
    }

    /// Replaces the backend's CORS headers by `allowed`, which [`Self::check`] returned.
    pub fn respond(allowed: &HeaderMap, response: &mut HeaderMap) {
        for (name, value) in allowed {
            if name == header::VARY {
                response.append(name, value.clone());
            } else {
                response.insert(name, value.clone());
            }
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

    const ORIGIN: (&str, &str) = ("origin", "https://shop.example");
    const ASKED: (&str, &str) = ("access-control-request-method", "PUT");

    #[test]
    fn a_preflight_of_an_allowed_origin_is_answered() {
        let Verdict::Answer(answer) = policy(|_| {}).check(&Method::OPTIONS, &headers(&[ORIGIN, ASKED]), 0)
        else {
            panic!("not answered");
        };
        let expected = headers(&[
            ("access-control-allow-origin", "https://shop.example"),
            ("vary", "origin"),
            ("access-control-allow-methods", "GET, PUT"),
            ("access-control-allow-headers", "x-a"),
            ("access-control-max-age", "60"),
        ]);
        assert_eq!(answer, expected);
    }

    #[test]
    fn an_actual_request_passes_and_its_response_names_the_origin() {
        let Verdict::Allow(allowed) = policy(|_| {}).check(&Method::GET, &headers(&[ORIGIN]), 0) else {
            panic!("not allowed");
        };
        let mut response = headers(&[("access-control-allow-origin", "*"), ("vary", "accept")]);
        CorsPolicy::respond(&allowed, &mut response);
        assert_eq!(response["access-control-allow-origin"], "https://shop.example");
        assert_eq!(response["access-control-expose-headers"], "x-b");
        assert_eq!(response.get_all("vary").iter().count(), 2);
    }

    #[test]
    fn other_origins_and_plain_requests_pass_without_a_word() {
        let policy = policy(|_| {});
        let other = headers(&[("origin", "https://evil.example"), ASKED]);
        assert_eq!(policy.check(&Method::OPTIONS, &other, 0), Verdict::Pass);
        assert_eq!(policy.check(&Method::GET, &other, 0), Verdict::Pass);
        assert_eq!(policy.check(&Method::GET, &HeaderMap::new(), 0), Verdict::Pass);
        let plain = headers(&[ORIGIN]);
        assert!(matches!(policy.check(&Method::OPTIONS, &plain, 0), Verdict::Allow(_)));
    }

    #[test]
    fn with_credentials_a_star_becomes_the_requested_value() {
        let policy = policy(|wire| {
            wire.allow_methods = "*".into();
            wire.allow_credentials = Some(protobuf::BoolValue { value: true });
        });
        let Verdict::Answer(answer) = policy.check(&Method::OPTIONS, &headers(&[ORIGIN, ASKED]), 0) else {
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
