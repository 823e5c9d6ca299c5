//! Hop-by-hop fields: removed from incoming messages and written again for outgoing ones (RFC 9110 section 7.6.1).
//!
//! Hop-by-hop fields are removed whether or not `Connection` names them. End-to-end fields must not be named there (RFC 9110
//! section 7.6.1): removing them would let a client strip what a proxy before this one vouches for. A request that names one
//! is refused. In a response, where servers and CDNs do so inadvertently, the field is kept and the name ignored.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};

/// The sender of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    /// A client: what it must not send is refused.
    Client,
    /// A server: what it must not send is ignored.
    Server,
}

/// The connection options of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// The connection closes after this message.
    pub(crate) close: bool,
    /// An HTTP/1.0 peer requests a persistent connection.
    pub(crate) keep_alive: bool,
    /// `Upgrade` applies to this message.
    pub(crate) upgrade: bool,
    /// Further fields that the sender marked as hop-by-hop.
    nominated: Vec<HeaderName>,
}

impl Options {
    /// Parses one value of `Connection`. For a client, returns an error for what is not a token and for a name that must not
    /// be removed. For a server, what is not a token counts as `close`.
    pub(crate) fn read(&mut self, value: &[u8], sender: Sender) -> Result<(), &'static str> {
        // A fast path for the two most frequent values.
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
            } else {
                match HeaderName::from_bytes(token) {
                    // Those end here in any case.
                    Ok(name) if is_hop_by_hop(&name) || name == header::TE => {}
                    Ok(name) if !is_protected(&name) => self.nominated.push(name),
                    Ok(_) if sender == Sender::Server => {}
                    Ok(_) => return Err("Connection names a field that is not of this hop"),
                    Err(_) if sender == Sender::Server => self.close = true,
                    Err(_) => return Err("Connection holds what is no token"),
                }
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

/// Returns whether a field never passes this hop. `te` is not here: `te: trailers` is kept, see [`keep_te`].
pub(crate) fn is_hop_by_hop(name: &HeaderName) -> bool {
    *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings")
}

/// Returns whether a value of `te` contains `trailers`, the only part of it that is forwarded.
pub(crate) fn keep_te(value: &HeaderValue) -> bool {
    value.as_bytes().split(|b| *b == b',').any(|part| {
        part.split(|b| *b == b';').next().unwrap_or_default().trim_ascii().eq_ignore_ascii_case(b"trailers")
    })
}

/// Returns whether a field may not be in a trailer section (RFC 9110 section 6.5.1): framing, routing, authentication.
pub(crate) fn is_forbidden_in_trailers(name: &HeaderName) -> bool {
    is_hop_by_hop(name) || *name == header::TE || *name == header::TRAILER || is_protected(name)
}

fn is_protected(name: &HeaderName) -> bool {
    [
        header::HOST,
        header::CONTENT_LENGTH,
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

    fn read_of(value: &str, sender: Sender) -> Result<Options, &'static str> {
        let mut options = Options::default();
        options.read(value.as_bytes(), sender).map(|()| options)
    }

    fn read(value: &str) -> Result<Options, &'static str> {
        read_of(value, Sender::Client)
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
        for name in ["Content-Length", "host", "authorization", "x-forwarded-for", "content-type", "a b"] {
            assert!(read(name).is_err(), "{name}");
        }
    }

    #[test]
    fn names_of_fields_of_this_hop_may_stand_there() {
        let all =
            "close, TE, Keep-Alive, Upgrade, Transfer-Encoding, Proxy-Connection, HTTP2-Settings, Connection";
        for sender in [Sender::Client, Sender::Server] {
            let options = read_of(all, sender).unwrap();
            assert!(options.close && options.keep_alive && options.upgrade && options.nominated.is_empty());
        }
        let mut headers = HeaderMap::new();
        headers.insert("trailer", HeaderValue::from_static("x-sum"));
        read("Trailer").unwrap().strip(&mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn what_a_server_may_not_say_is_passed_over() {
        let mut headers = HeaderMap::new();
        headers.insert(header::SET_COOKIE, HeaderValue::from_static("a=b"));
        headers.insert("x-hop", HeaderValue::from_static("1"));
        let options = read_of("Set-Cookie, Content-Length, X-Hop", Sender::Server).unwrap();
        options.strip(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["set-cookie"]);
        assert!(!options.close && read_of("keep-alive; close", Sender::Server).unwrap().close);
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
