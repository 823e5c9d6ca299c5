//! Redacts credentials in URLs, for spans and access logs (URL conventions, `url.full` and `url.query`).

use std::borrow::Cow;

/// The query parameters whose values are credentials. The conventions compare their names with regard to case.
const SECRET_PARAMETERS: [&str; 7] = [
    "X-Amz-Signature",
    "X-Amz-Credential",
    "X-Amz-Security-Token",
    "AWSAccessKeyId",
    "Signature",
    "sig",
    "X-Goog-Signature",
];

const REDACTED: &str = "REDACTED";

/// Redacts the query of a request target.
pub(super) fn target(target: &str) -> Cow<'_, str> {
    match target.split_once('?') {
        None => Cow::Borrowed(target),
        Some((path, parameters)) => match query(parameters) {
            Cow::Borrowed(_) => Cow::Borrowed(target),
            Cow::Owned(parameters) => Cow::Owned(format!("{path}?{parameters}")),
        },
    }
}

/// Redacts the values of parameters that are credentials. Their names remain.
pub(super) fn query(query: &str) -> Cow<'_, str> {
    let secret = |pair: &str| pair.split_once('=').is_some_and(|(name, _)| is_secret(name));
    if !query.split('&').any(secret) {
        return Cow::Borrowed(query);
    }
    let pairs = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) if is_secret(name) => Cow::Owned(format!("{name}={REDACTED}")),
        _ => Cow::Borrowed(pair),
    });
    Cow::Owned(pairs.collect::<Vec<_>>().join("&"))
}

/// Redacts user information, which no authority that the proxy forwards has (RFC 9110 section 4.2.4).
pub(super) fn authority(authority: &str) -> Cow<'_, str> {
    match authority.rsplit_once('@') {
        None => Cow::Borrowed(authority),
        Some((user, host)) if user.contains(':') => Cow::Owned(format!("{REDACTED}:{REDACTED}@{host}")),
        Some((_, host)) => Cow::Owned(format!("{REDACTED}@{host}")),
    }
}

fn is_secret(name: &str) -> bool {
    let decoded: Cow<'_, [u8]> = percent_encoding::percent_decode_str(name).into();
    SECRET_PARAMETERS.iter().any(|secret| secret.as_bytes() == &*decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_credentials_are_redacted_and_nothing_else() {
        for name in SECRET_PARAMETERS {
            let requested = format!("/file?a=1&{name}=secret&b=2");
            assert_eq!(target(&requested), format!("/file?a=1&{name}=REDACTED&b=2"));
        }
        for plain in ["/plain", "/?signature=1&SIG=2", "/?sig", "/sig=1", "/?design=1&q=sig=2"] {
            assert_eq!(target(plain), plain);
        }
    }

    #[test]
    fn an_encoded_name_hides_no_credential() {
        assert_eq!(target("/?s%69g=secret=="), "/?s%69g=REDACTED");
        assert_eq!(
            target("/?%58-Amz-Signature=secret&X-Amz%2DCredential=c"),
            "/?%58-Amz-Signature=REDACTED&X-Amz%2DCredential=REDACTED"
        );
    }

    #[test]
    fn every_occurrence_is_redacted() {
        assert_eq!(query("sig=a&sig=b"), "sig=REDACTED&sig=REDACTED");
    }

    #[test]
    fn user_information_is_redacted() {
        assert_eq!(authority("cart.shop:80"), "cart.shop:80");
        assert_eq!(authority("anna:secret@cart:80"), "REDACTED:REDACTED@cart:80");
        assert_eq!(authority("anna:a@b@cart"), "REDACTED:REDACTED@cart");
        assert_eq!(authority("token@cart"), "REDACTED@cart");
    }
}
