//! Normalizes the path of a request target, for route matching and forwarding.
//!
//! RFC 3986 section 6.2.2, as in Envoy's `normalize_path` and Istio's `BASE`: dot segments are resolved, also encoded ones,
//! unreserved characters are decoded, and a backslash becomes a slash, since some servers treat it as one. So a path that a
//! route refuses cannot be written in a way that only the application behind the proxy understands. What an application may
//! distinguish stays: encoded slashes, empty segments, other encodings, the query.

use bytes::Bytes;
use http::Method;
use http::uri::PathAndQuery;

/// Checks and normalizes a target other than that of CONNECT. Returns an error for what is not a path (a smuggled absolute URI
/// would become the target of an HTTP/1 request, RFC 9113 section 8.3.1) and for an encoded NUL.
pub(crate) fn normal(method: &Method, target: PathAndQuery) -> Result<PathAndQuery, &'static str> {
    let text = target.as_str();
    if text == "*" {
        return if *method == Method::OPTIONS { Ok(target) } else { Err("the target * is of OPTIONS alone") };
    }
    // The http crate lets a query alone pass.
    if !text.starts_with('/') {
        return Err("the path does not begin with a slash");
    }
    // The http crate lets UTF-8 pass, which no target may hold as it is (RFC 3986 section 2.1).
    if !text.is_ascii() {
        return Err("the target holds what is not ASCII");
    }
    let path = text.split_once('?').map_or(text, |(path, _)| path);
    if is_normal(path.as_bytes()) {
        return Ok(target);
    }
    let decoded = decoded(path.as_bytes())?;
    let mut bytes = resolved(&decoded);
    bytes.extend_from_slice(&text.as_bytes()[path.len()..]);
    PathAndQuery::from_maybe_shared(Bytes::from(bytes)).map_err(|_| "the path is malformed")
}

/// Returns whether the path is already normal: it has no encoding and no segment that begins with a dot.
fn is_normal(path: &[u8]) -> bool {
    let mut before = 0;
    path.iter().all(|byte| {
        let dot = *byte == b'.' && before == b'/';
        before = *byte;
        !dot && *byte != b'%' && *byte != b'\\'
    })
}

/// Decodes unreserved characters (RFC 3986 section 2.3) and turns backslashes into slashes.
fn decoded(path: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        match (first, after) {
            (b'%', [high, low, left @ ..]) => {
                let value = digit(*high).zip(digit(*low)).map(|(high, low)| high << 4 | low);
                match value {
                    Some(0) => return Err("the path holds an encoded NUL"),
                    Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => out.push(byte),
                    _ => out.extend_from_slice(&[b'%', *high, *low]),
                }
                rest = left;
                continue;
            }
            (b'\\', _) => out.push(b'/'),
            (byte, _) => out.push(*byte),
        }
        rest = after;
    }
    Ok(out)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Removes dot segments (RFC 3986 section 5.2.4). What would leave the root stays at the root.
fn resolved(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut segments = path[1..].split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            b"." => {}
            b".." => out.truncate(out.iter().rposition(|byte| *byte == b'/').unwrap_or(0)),
            segment => {
                out.push(b'/');
                out.extend_from_slice(segment);
                continue;
            }
        }
        if segments.peek().is_none() {
            out.push(b'/');
        }
    }
    if out.is_empty() {
        out.push(b'/');
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn get(path: &str) -> Result<String, &'static str> {
        let target = PathAndQuery::try_from(path).map_err(|_| "http does not read it")?;
        normal(&Method::GET, target).map(|path| path.as_str().to_owned())
    }

    #[test]
    fn every_way_to_write_a_path_becomes_one() {
        for (written, read) in [
            ("/", "/"),
            ("/a/b?c=/../%2e", "/a/b?c=/../%2e"),
            ("/a/../admin", "/admin"),
            ("/a/./admin/.", "/a/admin/"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/../../admin", "/admin"),
            ("/a/%2e%2E/admin", "/admin"),
            ("/a/.%2e/admin?x", "/admin?x"),
            ("/%61dmin", "/admin"),
            ("/a\\..\\admin", "/admin"),
            ("/a/..%5cadmin", "/a/..%5cadmin"),
            ("/a//../b", "/a/b"),
            ("//a//b", "//a//b"),
            ("/a%2F..%2fadmin", "/a%2F..%2fadmin"),
            ("/%252e%252e/admin", "/%252e%252e/admin"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/pkg.Service/Method", "/pkg.Service/Method"),
            ("/100%", "/100%"),
            ("/%zz%2", "/%zz%2"),
            ("/caf%C3%A9%20x", "/caf%C3%A9%20x"),
        ] {
            assert_eq!(get(written).as_deref(), Ok(read), "{written}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for path in [
            "http://evil/",
            "evil",
            "*",
            "/a%00b",
            "/caf\u{e9}",
            "/a?\u{e9}",
            "/a b",
            "/<a>",
            "/a?\"b\"",
            "/a\x7f",
        ] {
            assert!(get(path).is_err(), "{path}");
        }
        assert!(normal(&Method::OPTIONS, PathAndQuery::from_static("*")).is_ok());
    }

    proptest! {
        #[test]
        fn two_proxies_in_a_row_agree(path in "/([a./%\\\\25eE]|%2e|%2F|\\.\\.|/){0,12}") {
            if let Ok(once) = get(&path) {
                prop_assert_eq!(get(&once), Ok(once.clone()), "{}", path);
                prop_assert!(!once.split('/').any(|segment| segment == ".." || segment == "."), "{}", once);
            }
        }
    }
}
