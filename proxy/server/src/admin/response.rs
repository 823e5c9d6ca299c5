//! Responses of the admin endpoint, and the check of request headers.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::Full;

/// A complete response.
#[derive(Debug)]
pub(crate) struct PageResponse {
    status: StatusCode,
    content_type: &'static str,
    body: Bytes,
}

impl PageResponse {
    /// Returns a plain text response.
    pub(crate) fn text(status: StatusCode, text: &str) -> Self {
        Self::typed(status, "text/plain; charset=utf-8", text.to_owned())
    }

    /// Returns a text response of another content type.
    pub(crate) fn typed(status: StatusCode, content_type: &'static str, text: String) -> Self {
        Self { status, content_type, body: text.into() }
    }

    /// Returns an indented JSON response.
    pub(crate) fn json(value: &serde_json::Value) -> Self {
        Self::typed(StatusCode::OK, "application/json", format!("{value:#}\n"))
    }

    /// Returns an error response with a one-line reason.
    pub(crate) fn error(status: StatusCode, why: &str) -> Self {
        Self::text(status, &format!("{why}\n"))
    }
}

impl From<PageResponse> for Response<Full<Bytes>> {
    fn from(answer: PageResponse) -> Self {
        let mut response = Response::new(Full::new(answer.body));
        *response.status_mut() = answer.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
        response
    }
}

/// Returns true if a local program made the request for this address. `Host` must be an IP address or `localhost`, because an
/// attacker's DNS name could point here, and there must be no `Origin`, which browsers add for web pages.
pub(super) fn is_local_request(headers: &HeaderMap) -> bool {
    if headers.contains_key(ORIGIN) {
        return false;
    }
    let Some(host) = headers.get(HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_local() {
        let is_local = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().unwrap());
            is_local_request(&headers)
        };
        for host in ["127.0.0.1:15000", "[::1]:15000", "localhost", "localhost:15000", "127.0.0.1"] {
            assert!(is_local(host), "{host}");
        }
        for host in
            ["evil.example", "evil.example:15000", "localhost.evil.example", "127.0.0.1.evil.example:1"]
        {
            assert!(!is_local(host), "{host}");
        }
    }
}
