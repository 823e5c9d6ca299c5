//! The static table (RFC 7541 appendix A).

use http::header;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::field::{Field, Name, Value};
use crate::codec::head::Scheme;

/// The last index of the table.
pub(super) const LAST: usize = 61;
/// The index of the first regular field.
const FIRST_REGULAR: usize = 15;

/// The names from [`FIRST_REGULAR`] on.
static NAMES: [HeaderName; LAST + 1 - FIRST_REGULAR] = [
    header::ACCEPT_CHARSET,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::ACCEPT_RANGES,
    header::ACCEPT,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::AGE,
    header::ALLOW,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_DISPOSITION,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LENGTH,
    header::CONTENT_LOCATION,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::DATE,
    header::ETAG,
    header::EXPECT,
    header::EXPIRES,
    header::FROM,
    header::HOST,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::LAST_MODIFIED,
    header::LINK,
    header::LOCATION,
    header::MAX_FORWARDS,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::RANGE,
    header::REFERER,
    header::REFRESH,
    header::RETRY_AFTER,
    header::SERVER,
    header::SET_COOKIE,
    header::STRICT_TRANSPORT_SECURITY,
    header::TRANSFER_ENCODING,
    header::USER_AGENT,
    header::VARY,
    header::VIA,
    header::WWW_AUTHENTICATE,
];

/// Returns the field with an index from 1 to [`LAST`].
pub(super) fn field(index: usize) -> Option<Field> {
    let (name, value) = match index {
        1 => (Name::Authority, Value::Malformed(":authority is empty")),
        2 => (Name::Method, Value::Method(Method::GET)),
        3 => (Name::Method, Value::Method(Method::POST)),
        4 => (Name::Path, Value::Path(PathAndQuery::from_static("/"))),
        5 => (Name::Path, Value::Path(PathAndQuery::from_static("/index.html"))),
        6 => (Name::Scheme, Value::Scheme(Some(Scheme::Http))),
        7 => (Name::Scheme, Value::Scheme(Some(Scheme::Https))),
        8 => (Name::Status, Value::Status(StatusCode::OK)),
        9 => (Name::Status, Value::Status(StatusCode::NO_CONTENT)),
        10 => (Name::Status, Value::Status(StatusCode::PARTIAL_CONTENT)),
        11 => (Name::Status, Value::Status(StatusCode::NOT_MODIFIED)),
        12 => (Name::Status, Value::Status(StatusCode::BAD_REQUEST)),
        13 => (Name::Status, Value::Status(StatusCode::NOT_FOUND)),
        14 => (Name::Status, Value::Status(StatusCode::INTERNAL_SERVER_ERROR)),
        _ => return regular(index),
    };
    let (name_bytes, value_bytes) = match index {
        1 => (10, 0),
        2 => (7, 3),
        3 => (7, 4),
        4 => (5, 1),
        5 => (5, 11),
        6 => (7, 4),
        7 => (7, 5),
        _ => (7, 3),
    };
    Some(Field { name, value, name_bytes, value_bytes })
}

/// Returns the name of the field with an index from 1 to [`LAST`], and its length.
pub(super) fn name(index: usize) -> Option<(Name, usize)> {
    Some(match index {
        1 => (Name::Authority, 10),
        2 | 3 => (Name::Method, 7),
        4 | 5 => (Name::Path, 5),
        6 | 7 => (Name::Scheme, 7),
        8..FIRST_REGULAR => (Name::Status, 7),
        _ => {
            let name = NAMES.get(index.checked_sub(FIRST_REGULAR)?)?.clone();
            let bytes = name.as_str().len();
            (Name::regular(name), bytes)
        }
    })
}

fn regular(index: usize) -> Option<Field> {
    let (name, name_bytes) = name(index)?;
    let value = if index == 16 { "gzip, deflate" } else { "" };
    // Those that require a value, or are not allowed, are malformed without one.
    Some(match index {
        16 => Field {
            name,
            value: Value::Text(HeaderValue::from_static(value)),
            name_bytes,
            value_bytes: value.len(),
        },
        _ => Field::new(name, name_bytes, b""),
    })
}

/// Returns the index of a regular field's name.
pub(super) fn index(name: &str) -> Option<usize> {
    Some(match name {
        "accept-charset" => 15,
        "accept-encoding" => 16,
        "accept-language" => 17,
        "accept-ranges" => 18,
        "accept" => 19,
        "access-control-allow-origin" => 20,
        "age" => 21,
        "allow" => 22,
        "authorization" => 23,
        "cache-control" => 24,
        "content-disposition" => 25,
        "content-encoding" => 26,
        "content-language" => 27,
        "content-length" => 28,
        "content-location" => 29,
        "content-range" => 30,
        "content-type" => 31,
        "cookie" => 32,
        "date" => 33,
        "etag" => 34,
        "expect" => 35,
        "expires" => 36,
        "from" => 37,
        "host" => 38,
        "if-match" => 39,
        "if-modified-since" => 40,
        "if-none-match" => 41,
        "if-range" => 42,
        "if-unmodified-since" => 43,
        "last-modified" => 44,
        "link" => 45,
        "location" => 46,
        "max-forwards" => 47,
        "proxy-authenticate" => 48,
        "proxy-authorization" => 49,
        "range" => 50,
        "referer" => 51,
        "refresh" => 52,
        "retry-after" => 53,
        "server" => 54,
        "set-cookie" => 55,
        "strict-transport-security" => 56,
        "transfer-encoding" => 57,
        "user-agent" => 58,
        "vary" => 59,
        "via" => 60,
        "www-authenticate" => 61,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_and_their_indices_agree() {
        for (at, name) in NAMES.iter().enumerate() {
            assert_eq!(index(name.as_str()), Some(at + FIRST_REGULAR));
        }
        assert!(field(0).is_none() && field(LAST + 1).is_none());
        for at in 1..=LAST {
            let (field, (name, bytes)) = (field(at).unwrap(), name(at).unwrap());
            assert_eq!((format!("{:?}", field.name), field.name_bytes), (format!("{name:?}"), bytes));
        }
    }

    #[test]
    fn the_fields_have_their_sizes() {
        let sizes: Vec<_> = (1..=LAST).filter_map(field).map(|field| field.size()).collect();
        assert_eq!(sizes[..16], [42, 42, 43, 38, 48, 43, 44, 42, 42, 42, 42, 42, 42, 42, 46, 60]);
        assert_eq!(sizes[60], 48);
    }
}
