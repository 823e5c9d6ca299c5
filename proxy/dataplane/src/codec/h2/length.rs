//! The `content-length` of a message that is sent: that of its body, so that the peer can check it.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, header};

/// Announces a body of `length` bytes, if that is known; an empty one only if there was a length before, since END_STREAM is sufficient.
pub(super) fn announce(headers: &mut HeaderMap, length: Option<u64>) {
    match length {
        _ if is_announced(headers, length) => {}
        None => drop(headers.remove(header::CONTENT_LENGTH)),
        Some(length) => drop(headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length))),
    }
}

/// Returns the fields with that length. They are usually right, and not copied.
pub(super) fn announced(headers: &HeaderMap, length: Option<u64>) -> Cow<'_, HeaderMap> {
    if is_announced(headers, length) {
        return Cow::Borrowed(headers);
    }
    let mut headers = headers.clone();
    announce(&mut headers, length);
    Cow::Owned(headers)
}

fn is_announced(headers: &HeaderMap, length: Option<u64>) -> bool {
    match (length, headers.get(header::CONTENT_LENGTH)) {
        (None | Some(0), None) => true,
        (Some(length), Some(before)) => is(before, length),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

fn is(value: &HeaderValue, length: u64) -> bool {
    value.to_str().is_ok_and(|value| value.parse() == Ok(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_that_is_announced_is_that_of_the_body() {
        for (before, length, after) in [
            (None, None, None),
            (None, Some(0), None),
            (None, Some(5), Some("5")),
            (Some("7"), None, None),
            (Some("7"), Some(0), Some("0")),
            (Some("7"), Some(5), Some("5")),
            (Some("5"), Some(5), Some("5")),
            (Some("x"), Some(5), Some("5")),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(before) = before {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static(before));
            }
            let copied = announced(&headers, length).into_owned();
            announce(&mut headers, length);
            assert_eq!(copied, headers, "{before:?} {length:?}");
            let announced = headers.get(header::CONTENT_LENGTH).map(|value| value.to_str().unwrap());
            assert_eq!(announced, after, "{before:?} {length:?}");
        }
    }
}
