//! The `Date` field, made once a second per worker (RFC 9110 section 6.6.1: a proxy adds it where it is missing).

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderValue;

struct Cached {
    second: u64,
    value: HeaderValue,
}

thread_local! {
    static CACHED: RefCell<Cached> = RefCell::new(Cached { second: 0, value: render(0) });
}

/// The date of now.
pub(crate) fn now() -> HeaderValue {
    // A clock before 1970 gives 1970; there is nothing better to say.
    let second = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    CACHED.with_borrow_mut(|cached| {
        if cached.second != second {
            *cached = Cached { second, value: render(second) };
        }
        cached.value.clone()
    })
}

fn render(second: u64) -> HeaderValue {
    let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_an_imf_fixdate() {
        assert_eq!(render(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(now().len(), 29);
    }
}
