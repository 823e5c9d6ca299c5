//! What holds for the credentials of every request. Property tests and fuzz targets (`fuzz/`) call this function, which panics if it
//! does not.

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderValue, Method};

use super::{Place, Prefix, without_cookies, without_parameter};
use crate::header_match::Head;

/// A request: its path, and its `cookie` fields, a line each. Every value called `key` is found, no value is left when they are
/// removed, and all others stay.
pub(crate) fn credentials(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let path = lines.next().map(String::from_utf8_lossy).unwrap_or_default();
    let (mut headers, mut rest) = (HeaderMap::new(), HeaderMap::new());
    for value in lines.filter_map(|line| HeaderValue::from_bytes(line).ok()) {
        headers.append(AUTHORIZATION, value.clone());
        headers.append(COOKIE, value);
    }
    let [key, other] = ["key", "other"].map(|name| [Place::Query(name.into()), Place::Cookie(name.into())]);
    let without = without_parameter(&path, "key");
    for line in without_cookies(&head(&path, &headers), &["key"]) {
        rest.append(COOKIE, line);
    }
    for place in &key {
        assert_eq!(found(place, &without, &rest), [""; 0]);
    }
    for place in &other {
        assert_eq!(found(place, &without, &rest), found(place, &path, &headers));
    }
    let pairs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let named = pairs.filter(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=');
        at.is_some_and(|at| pair[..at].trim_ascii() == b"key")
    });
    assert_eq!(named.count(), found(&key[1], &path, &headers).len());
    for prefix in [Prefix::Bearer, Prefix::MaybeBearer, Prefix::Text("key=".into())] {
        let _ = found(&Place::Header(AUTHORIZATION, prefix), &path, &headers);
    }
}

fn head<'a>(path: &'a str, headers: &'a HeaderMap) -> Head<'a> {
    Head { method: &Method::GET, scheme: "http", authority: "a", path, headers }
}

fn found(place: &Place, path: &str, headers: &HeaderMap) -> Vec<String> {
    let mut found = Vec::new();
    place.find(&head(path, headers), &mut found);
    found.into_iter().map(std::borrow::Cow::into_owned).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_fuzzing_found() {
        // Blanks after a cookie that is not text, at the end of a line from which another one is removed.
        credentials(b"/\nkey=1; other=\xff ");
    }

    proptest! {
        #[test]
        fn credentials_of_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            credentials(&bytes);
        }

        #[test]
        fn credentials_of_requests(
            query in "/(\\?((k%65y|key|other|%6fther|%ff|)(=([a-z\" =?]|%2[0-9]|%ff){0,4})?&?){0,5})?",
            cookies in prop::collection::vec("([ \t]?(key|other|keys)(=[a-z\" =\u{ff}]{0,4})?[; ]){0,5}", 0..3),
        ) {
            credentials(format!("{query}\n{}", cookies.join("\n")).as_bytes());
        }
    }
}
