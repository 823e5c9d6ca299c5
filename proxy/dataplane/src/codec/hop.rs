//! Fields of one hop only: taken out where a message comes in, written anew where it goes out (RFC 9110 section 7.6.1).
//!
//! Also the fields that no sender may have a proxy remove by naming them in `Connection`: removing those would let a
//! client strip what a proxy before this one vouches for.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};

/// What `Connection` said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// The connection closes after this message.
    pub(crate) close: bool,
    /// An HTTP/1.0 peer wants to keep it.
    pub(crate) keep_alive: bool,
    /// `Upgrade` is meant.
    pub(crate) upgrade: bool,
    /// Further fields that belong to this hop.
    nominated: Vec<HeaderName>,
}

impl Options {
    /// Reads one value of `Connection`. Fails on what is no token, and on a name that must not be removed.
    pub(crate) fn read(&mut self, value: &[u8]) -> Result<(), &'static str> {
        // The two values that nearly every message has, without a search.
        if value == b"keep-alive" {
            self.keep_alive = true;
            return Ok(());
        }
        if value == b"close" {
            self.close = true;
            return Ok(());
        }
        for token in value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty()) {
            if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else if !token.eq_ignore_ascii_case(b"te") && !token.eq_ignore_ascii_case(b"proxy-connection") {
                let name = HeaderName::from_bytes(token).map_err(|_| "Connection holds what is no token")?;
                if is_protected(&name) {
                    return Err("Connection names a field that is not of this hop");
                }
                self.nominated.push(name);
            }
        }
        Ok(())
    }

    /// Removes the fields that `Connection` named.
    pub(crate) fn strip(&self, headers: &mut HeaderMap) {
        for name in &self.nominated {
            headers.remove(name);
        }
    }
}

/// Whether a field never passes this hop. `te` is not here: `te: trailers` is kept, see [`keep_te`].
pub(crate) fn is_hop_by_hop(name: &HeaderName) -> bool {
    *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings")
}

/// Removes what HTTP/2 does not know (RFC 9113 section 8.2.2), should a policy have set it.
pub(crate) fn strip(headers: &mut HeaderMap) {
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::HOST] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}

/// Whether a value of `te` says that trailers are read, the one thing of it that is passed on.
pub(crate) fn keep_te(value: &HeaderValue) -> bool {
    value.as_bytes().split(|b| *b == b',').any(|part| {
        part.split(|b| *b == b';').next().unwrap_or_default().trim_ascii().eq_ignore_ascii_case(b"trailers")
    })
}

/// Whether a field may not be in a trailer section (RFC 9110 section 6.5.1): framing, routing, authentication.
pub(crate) fn is_forbidden_in_trailers(name: &HeaderName) -> bool {
    is_hop_by_hop(name) || *name == header::TE || *name == header::TRAILER || is_protected(name)
}

fn is_protected(name: &HeaderName) -> bool {
    [
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::CONTENT_RANGE,
        header::AUTHORIZATION,
        header::PROXY_AUTHORIZATION,
        header::COOKIE,
        header::SET_COOKIE,
        header::FORWARDED,
        header::ORIGIN,
    ]
    .contains(name)
        || ["x-forwarded-", "x-outrigger-", "x-envoy-"].iter().any(|prefix| name.as_str().starts_with(prefix))
        || matches!(name.as_str(), "x-request-id" | "x-real-ip" | "traceparent" | "tracestate")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<Options, &'static str> {
        let mut options = Options::default();
        options.read(value.as_bytes()).map(|()| options)
    }

    #[test]
    fn options_are_read_in_any_case_and_any_list() {
        let options = read("Keep-Alive, ,UPGRADE,close").unwrap();
        assert!(options.close && options.keep_alive && options.upgrade);
        assert_eq!(read("").unwrap(), Options::default());
    }

    #[test]
    fn a_named_field_goes_and_a_protected_one_is_refused() {
        let mut headers = HeaderMap::new();
        headers.insert("x-hop", HeaderValue::from_static("1"));
        headers.insert("x-end", HeaderValue::from_static("1"));
        read("close, X-Hop").unwrap().strip(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-end"]);
        for name in ["Content-Length", "host", "authorization", "x-forwarded-for", "transfer-encoding", "a b"]
        {
            assert!(read(name).is_err(), "{name}");
        }
    }

    #[test]
    fn of_te_only_trailers_is_kept() {
        for (value, kept) in
            [("trailers", true), ("gzip;q=0.5, Trailers", true), ("gzip", false), ("xtrailers", false)]
        {
            assert_eq!(keep_te(&HeaderValue::from_static(value)), kept, "{value}");
        }
    }
}
