//! What a service account token says of itself, unverified (RFC 7519; Kubernetes' bound service account tokens).
//!
//! A token that cannot be right is refused here, without a call to the API server. Nothing that is read here proves anything.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::token_review::{AUDIENCE, ReviewError, USER_PREFIX};

#[derive(Deserialize)]
struct Claims {
    aud: Audiences,
    sub: String,
    #[serde(default, rename = "kubernetes.io")]
    kubernetes: Bindings,
}

/// One audience, or several (RFC 7519, section 4.1.3).
#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize, Default)]
struct Bindings {
    pod: Option<serde::de::IgnoredAny>,
}

/// Returns an error if the token is not a JWT of a pod's service account for our audience.
pub(super) fn check_claims(token: &str) -> Result<(), ReviewError> {
    let Claims { aud, sub, kubernetes } = read(token).ok_or(ReviewError::Malformed)?;
    let ours = match &aud {
        Audiences::One(audience) => audience == AUDIENCE,
        Audiences::Several(audiences) => audiences.iter().any(|audience| audience == AUDIENCE),
    };
    if !ours {
        return Err(ReviewError::Audience);
    }
    if !sub.strip_prefix(USER_PREFIX).is_some_and(|account| account.contains(':')) {
        return Err(ReviewError::NotServiceAccount(sub));
    }
    match kubernetes.pod {
        Some(_) => Ok(()),
        None => Err(ReviewError::NotBound(sub)),
    }
}

/// Reads the claims of a JWT: header, claims and signature, each in base64url.
fn read(token: &str) -> Option<Claims> {
    let mut parts = token.split('.');
    let (header, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
    if header.is_empty() || signature.is_empty() || parts.next().is_some() {
        return None;
    }
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn token(claims: &Value) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    fn claims() -> Value {
        json!({
            "aud": [AUDIENCE], "sub": "system:serviceaccount:shop:cart", "exp": 1_800_000_000, "iss": "https://kubernetes.default.svc",
            "kubernetes.io": {"namespace": "shop", "pod": {"name": "cart-1", "uid": "u-1"}, "serviceaccount": {"name": "cart"}},
        })
    }

    #[test]
    fn a_token_of_a_pod_for_our_audience_is_left_to_the_api_server() {
        assert_eq!(check_claims(&token(&claims())), Ok(()));
        let mut one = claims();
        one["aud"] = json!(AUDIENCE);
        assert_eq!(check_claims(&token(&one)), Ok(()));
    }

    #[test]
    fn a_token_that_cannot_be_right_is_refused_with_the_reason() {
        let changed = |field: &str, value: Value| {
            let mut claims = claims();
            claims[field] = value;
            check_claims(&token(&claims)).unwrap_err()
        };
        assert_eq!(changed("aud", json!(["https://kubernetes.default.svc"])), ReviewError::Audience);
        assert_eq!(changed("aud", json!([])), ReviewError::Audience);
        for account in ["system:node:node1", "system:serviceaccount:shop"] {
            let refused = ReviewError::NotServiceAccount(account.into());
            assert_eq!(changed("sub", json!(account)), refused);
        }
        let unbound = ReviewError::NotBound("system:serviceaccount:shop:cart".into());
        assert_eq!(changed("kubernetes.io", json!({"namespace": "shop"})), unbound);
        let right = token(&claims());
        let [header, claims, signature] = right.split('.').collect::<Vec<_>>()[..] else { panic!("{right}") };
        for garbage in [
            "",
            "x",
            "a.b.c",
            &format!("{header}.{claims}"),
            &format!("{header}.{claims}."),
            &format!(".{claims}.{signature}"),
            &format!("{right}.{signature}"),
            &format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode("[]")),
            &format!("{header}.{}=.{signature}", claims),
        ] {
            assert_eq!(check_claims(garbage), Err(ReviewError::Malformed), "{garbage}");
        }
    }
}
