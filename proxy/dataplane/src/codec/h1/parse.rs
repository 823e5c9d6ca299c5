//! Parses heads of requests and responses (RFC 9112 sections 2 to 6), once, when they are complete.
//!
//! A head that is passed on is unambiguous about its host, the length of its body, and whether the connection persists.

use bytes::{Buf, Bytes, BytesMut};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};
use outrigger_core::tchar::is_tchar;

use super::Malformed;
use super::fields::{self, Search, Slots};
use super::framing::Framing;
use crate::codec::head::{RequestHead, ResponseHead, Scheme, expects_continue};
use crate::codec::hop::Sender;
use crate::codec::limits::{Limits, METHOD_BYTES};
use crate::codec::{authority, hop, maps, path, upgrade};

/// The number of fields that this proxy adds to a usual head, for which there is memory from the start: a map that grows is moved.
const ADDED_FIELDS: usize = 3;

/// A request head, the framing of its body, and whether the client requests a persistent connection.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) head: RequestHead,
    pub(crate) framing: Framing,
    pub(crate) keep_alive: bool,
    pub(crate) expects_continue: bool,
}

/// A response head, the framing of its body, and whether the connection can be reused.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) head: ResponseHead,
    pub(crate) framing: Framing,
    pub(crate) keep_alive: bool,
    /// `timeout` of `Keep-Alive`, in seconds: when the peer will close the idle connection.
    pub(crate) idle_timeout: Option<u32>,
}

/// The parts of a request on which the parsing of its response depends (RFC 9112 section 6.3).
#[derive(Debug, Clone)]
pub(crate) struct RequestFacts {
    pub(crate) method: Method,
    pub(crate) upgrade: Option<HeaderValue>,
}

/// Parses a request head and removes it from `bytes`. Returns `None` until it is complete. After an error the connection
/// cannot be used further.
pub(crate) fn request(
    bytes: &mut BytesMut,
    search: &mut Search,
    scheme: Scheme,
    limits: &Limits,
) -> Result<Option<Request>, Malformed> {
    if bytes.first().is_some_and(|first| !is_tchar(*first)) {
        return Err(Malformed::Rule("the method is no token"));
    }
    if bytes.len() > METHOD_BYTES && bytes[..=METHOD_BYTES].iter().all(|byte| is_tchar(*byte)) {
        return Err(Malformed::Rule("the method is too long"));
    }
    let Some(section) = section(bytes, search, limits)? else {
        check_request_line(bytes, limits)?;
        return Ok(None);
    };
    let mut slots = Slots::new(limits);
    let mut parsed = httparse::Request::new(&mut []);
    let complete = parsed.parse_with_uninit_headers(&section, slots.uninit()).map_err(fields::malformed)?;
    let (httparse::Status::Complete(_), Some(method), Some(target), Some(minor)) =
        (complete, parsed.method, parsed.path, parsed.version)
    else {
        return Err(Malformed::Rule("the request line is malformed"));
    };
    if target.len() > limits.target_bytes {
        return Err(Malformed::TargetTooLong);
    }
    let method =
        Method::from_bytes(method.as_bytes()).map_err(|_| Malformed::Rule("the method is no token"))?;
    let version = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let target = section.slice_ref(target.as_bytes());
    let message = Message::read(&section, parsed.headers, Sender::Client, limits)?;

    let (scheme, in_target, path) = read_target(&method, target, scheme)?;
    let authority = match (in_target, message.host) {
        (Some(target), Some(host)) if !authority::agree(&target, &host, scheme) => {
            return Err(Malformed::Rule("Host and the request target name different hosts"));
        }
        (Some(target), Some(_)) => Some(target),
        (None, Some(host)) => Some(host),
        // Host is mandatory in HTTP/1.1 (RFC 9112 section 3.2), also with an absolute target.
        (_, None) if version == Version::HTTP_11 => return Err(Malformed::Rule("Host is missing")),
        (target, None) => target,
    };

    let framing = match (message.chunked, message.content_length) {
        (true, Some(_)) => return Err(Malformed::Rule("both Transfer-Encoding and Content-Length")),
        (true, None) if version == Version::HTTP_10 => {
            return Err(Malformed::Rule("Transfer-Encoding in HTTP/1.0"));
        }
        (true, None) => Framing::Chunked,
        (false, Some(length)) => Framing::length(length),
        (false, None) => Framing::None,
    };
    if method == Method::CONNECT && framing != Framing::None {
        // The bytes after the head belong to the tunnel (RFC 9110 section 9.3.6); a recipient that parses them as a body reads
        // different bytes.
        return Err(Malformed::Rule("CONNECT with a body"));
    }
    let keep_alive = match version {
        Version::HTTP_10 => message.options.keep_alive && !message.options.close,
        _ => !message.options.close,
    };
    // An upgrade requires HTTP/1.1 and a request without a body: after a body, the start of the tunnel would be ambiguous.
    let upgrade = message
        .upgrade
        .filter(|_| message.options.upgrade && version == Version::HTTP_11 && framing == Framing::None)
        .and_then(|offered| upgrade::retain(&offered, |protocol| !upgrade::hides_requests(protocol)));
    let mut headers = message.headers;
    let mut expects_continue = framing != Framing::None && expects_continue(&headers);
    if expects_continue && (version == Version::HTTP_10 || !bytes.is_empty()) {
        // The client does not wait: its body has begun to arrive, or it uses HTTP/1.0 (RFC 9110 section 10.1.1). So the body is
        // not held back downstream either.
        headers.remove(header::EXPECT);
        expects_continue = false;
    }
    let head = RequestHead { method, scheme, authority, path, version, headers, upgrade };
    Ok(Some(Request { head, framing, keep_alive, expects_continue }))
}

/// Parses a response head and removes it from `bytes`. Returns `None` until it is complete. After an error the connection
/// cannot be used further.
pub(crate) fn response(
    bytes: &mut BytesMut,
    search: &mut Search,
    request: &RequestFacts,
    limits: &Limits,
) -> Result<Option<Response>, Malformed> {
    if !b"HTTP/1.".starts_with(&bytes[..bytes.len().min(7)]) {
        return Err(Malformed::Rule("what came is no HTTP/1 response"));
    }
    let Some(section) = section(bytes, search, limits)? else { return Ok(None) };
    let mut slots = Slots::new(limits);
    let mut parsed = httparse::Response::new(&mut []);
    let complete = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut parsed, &section, slots.uninit())
        .map_err(fields::malformed)?;
    let (httparse::Status::Complete(_), Some(code), Some(minor)) = (complete, parsed.code, parsed.version)
    else {
        return Err(Malformed::Rule("the status line is malformed"));
    };
    if !(100..600).contains(&code) {
        return Err(Malformed::Rule("the status is not between 100 and 599"));
    }
    let status = StatusCode::from_u16(code).map_err(|_| Malformed::Rule("the status is no number"))?;
    let mut message = Message::read(&section, parsed.headers, Sender::Server, limits)?;

    let upgrade = if status == StatusCode::SWITCHING_PROTOCOLS {
        // Only a requested upgrade is accepted (RFC 9110 section 7.8): an unsolicited 101 would turn the next request into
        // tunnel bytes.
        let chosen = message.upgrade.take().filter(|_| message.options.upgrade);
        match (&request.upgrade, chosen) {
            (Some(offered), Some(chosen)) if upgrade::is_offered(offered, &chosen) => Some(chosen),
            _ => return Err(Malformed::Rule("a 101 that was not asked for")),
        }
    } else {
        None
    };
    let bodiless = status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || request.method == Method::HEAD
        || (request.method == Method::CONNECT && status.is_success());
    let framing = match (message.chunked, message.content_length) {
        (true, Some(_)) => return Err(Malformed::Rule("both Transfer-Encoding and Content-Length")),
        (true, None) if minor == 0 => return Err(Malformed::Rule("Transfer-Encoding in HTTP/1.0")),
        _ if bodiless => Framing::None,
        (true, None) => Framing::Chunked,
        (false, Some(length)) => Framing::length(length),
        (false, None) => Framing::UntilClose,
    };
    let contentless = status.is_informational() || status == StatusCode::NO_CONTENT;
    // A body where none is allowed would be parsed as the next response, so the connection is not reused.
    let disagrees =
        contentless && (message.chunked || message.content_length.is_some_and(|length| length > 0));
    if contentless {
        message.headers.remove(header::CONTENT_LENGTH);
    }
    let keep_alive = framing != Framing::UntilClose
        && !disagrees
        && !message.options.close
        && (minor == 1 || message.options.keep_alive);
    let head = ResponseHead { status, headers: message.headers, upgrade };
    Ok(Some(Response { head, framing, keep_alive, idle_timeout: message.idle_timeout }))
}

/// Refuses a complete request line that no fields can make valid, before the fields are received: a client that speaks
/// HTTP/0.9, or does not speak HTTP, sends none and would wait for a response.
fn check_request_line(bytes: &[u8], limits: &Limits) -> Result<(), Malformed> {
    let longest = limits.target_bytes + 64;
    let Some(end) = memchr::memchr(b'\n', bytes) else {
        return if bytes.len() > longest { Err(Malformed::TargetTooLong) } else { Ok(()) };
    };
    if end > longest {
        return Err(Malformed::TargetTooLong);
    }
    if bytes[..end].ends_with(b" HTTP/1.1\r") || bytes[..end].ends_with(b" HTTP/1.0\r") {
        return Ok(());
    }
    Err(Malformed::Rule("the request line does not end in HTTP/1.1 or HTTP/1.0"))
}

/// Splits off the head. Returns `None` if it is incomplete.
fn section(bytes: &mut BytesMut, search: &mut Search, limits: &Limits) -> Result<Option<Bytes>, Malformed> {
    match search.end(bytes)? {
        Some(length) if length > limits.written_bytes() => Err(Malformed::TooLarge),
        Some(length) => {
            *search = Search::default();
            Ok(Some(bytes.split_to(length).freeze()))
        }
        None if bytes.len() > limits.written_bytes() => Err(Malformed::TooLarge),
        None => Ok(None),
    }
}

/// Skips an empty line before a request, at most one (RFC 9112 section 2.2). Returns false while only half of one was received.
pub(crate) fn skip_empty_line(bytes: &mut BytesMut) -> bool {
    if bytes.starts_with(b"\r\n") {
        bytes.advance(2);
    }
    bytes.as_ref() != b"\r"
}

/// The fields of a head: the end-to-end ones, and the values of the hop-by-hop ones.
#[derive(Default)]
struct Message {
    headers: HeaderMap,
    host: Option<Authority>,
    options: hop::Options,
    upgrade: Option<HeaderValue>,
    content_length: Option<u64>,
    chunked: bool,
    idle_timeout: Option<u32>,
}

impl Message {
    fn read(
        section: &Bytes,
        parsed: &[httparse::Header<'_>],
        sender: Sender,
        limits: &Limits,
    ) -> Result<Self, Malformed> {
        fields::check_size(parsed, limits)?;
        let headers = maps::take(parsed.len() + ADDED_FIELDS);
        let mut message = Self { headers, ..Self::default() };
        for parsed in parsed {
            let (name, value) = fields::field(section, parsed)?;
            message.take(name, value, sender, section)?;
        }
        message.options.strip(&mut message.headers);
        Ok(message)
    }

    fn take(
        &mut self,
        name: HeaderName,
        value: HeaderValue,
        sender: Sender,
        section: &Bytes,
    ) -> Result<(), Malformed> {
        if name == header::HOST {
            if self.host.is_some() {
                return Err(Malformed::Rule("more than one Host"));
            }
            let host = authority::parse(section.slice_ref(value.as_bytes())).map_err(Malformed::Rule)?;
            self.host = Some(host);
        } else if name == header::CONTENT_LENGTH {
            self.content_length = Some(fields::content_length(self.content_length, value.as_bytes())?);
            self.headers.append(name, value);
        } else if name == header::TRANSFER_ENCODING {
            // One coding, once: recipients that interpret two codings differently read different bodies.
            if self.chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed::Rule("Transfer-Encoding is not chunked alone"));
            }
            self.chunked = true;
        } else if name == header::CONNECTION {
            self.options.read(value.as_bytes(), sender).map_err(Malformed::Rule)?;
        } else if name == header::UPGRADE {
            self.upgrade = Some(match self.upgrade.take() {
                None => value,
                Some(before) => upgrade::both(&before, &value),
            });
        } else if name == header::TE {
            if hop::keep_te(&value) {
                self.headers.insert(header::TE, HeaderValue::from_static("trailers"));
            }
        } else if name.as_str() == "keep-alive" {
            self.idle_timeout = idle_timeout(value.as_bytes());
        } else if !hop::is_hop_by_hop(&name) {
            self.headers.append(name, value);
        }
        Ok(())
    }
}

fn idle_timeout(value: &[u8]) -> Option<u32> {
    let seconds = value.split(|b| *b == b',').find_map(|part| part.trim_ascii().strip_prefix(b"timeout="))?;
    std::str::from_utf8(seconds).ok()?.parse().ok()
}

/// Parses the four forms of a request target (RFC 9112 section 3.2).
fn read_target(
    method: &Method,
    target: Bytes,
    scheme: Scheme,
) -> Result<(Scheme, Option<Authority>, PathAndQuery), Malformed> {
    const BAD: Malformed = Malformed::Rule("the request target is malformed");
    if target.contains(&b'#') {
        return Err(Malformed::Rule("the request target holds a fragment"));
    }
    if *method == Method::CONNECT {
        let authority = authority::parse(target).map_err(Malformed::Rule)?;
        if authority.port_u16().is_none() {
            return Err(Malformed::Rule("CONNECT without a port"));
        }
        return Ok((scheme, Some(authority), PathAndQuery::from_static("/")));
    }
    let normal = |target| path::normal(method, target).map_err(Malformed::Rule);
    if target.first() == Some(&b'/') || target.as_ref() == b"*" {
        return Ok((scheme, None, normal(PathAndQuery::from_maybe_shared(target).map_err(|_| BAD)?)?));
    }
    // The last proxy on the path writes an absolute target without a path as `*` (RFC 9112 section 3.2.4).
    let of_server = *method == Method::OPTIONS && has_no_path(&target);
    let parts = Uri::from_maybe_shared(target).map_err(|_| BAD)?.into_parts();
    let scheme = match parts.scheme.as_ref().map(http::uri::Scheme::as_str) {
        Some("http") => Scheme::Http,
        Some("https") => Scheme::Https,
        _ => return Err(BAD),
    };
    let authority = authority::normal(parts.authority.ok_or(BAD)?).map_err(Malformed::Rule)?;
    let target = match parts.path_and_query {
        _ if of_server => PathAndQuery::from_static("*"),
        // `http://cart?q` has an empty path (RFC 9112 section 3.2.1 forwards it as a slash, which `Display` adds).
        Some(query) if query.as_str().starts_with('?') => {
            PathAndQuery::try_from(query.to_string()).map_err(|_| BAD)?
        }
        Some(target) => target,
        None => PathAndQuery::from_static("/"),
    };
    Ok((scheme, Some(authority), normal(target)?))
}

/// Returns whether an absolute target ends with its authority.
fn has_no_path(target: &[u8]) -> bool {
    let authority = target.iter().position(|byte| *byte == b':').map(|at| &target[at..]);
    authority
        .and_then(|rest| rest.strip_prefix(b"://"))
        .is_some_and(|rest| !rest.iter().any(|byte| matches!(byte, b'/' | b'?')))
}
