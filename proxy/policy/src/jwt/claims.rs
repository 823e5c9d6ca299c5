//! The claims of a token, and the conditions on them (RFC 7519 section 4.1).

use std::time::Duration;

use outrigger_core::matcher::StringMatcher;
use serde_json::{Map, Value};

use super::failure::Failure;

/// The conditions of a provider on claims.
#[derive(Debug)]
pub(super) struct Conditions {
    /// `iss`, if it matters.
    pub(super) issuer: Option<Box<str>>,
    /// One of these must be in `aud`, if there are any.
    pub(super) audiences: Box<[Box<str>]>,
    pub(super) subjects: Option<StringMatcher>,
    pub(super) requires_expiration: bool,
    /// The longest time until it expires.
    pub(super) longest: Option<Duration>,
    pub(super) clock_skew: Duration,
}

impl Conditions {
    /// Returns true if `iss` is the issuer of the provider, or if the provider has none.
    pub(super) fn is_issuer(&self, claims: &Map<String, Value>) -> bool {
        self.issuer.as_deref().is_none_or(|issuer| claims.get("iss").is_some_and(|iss| iss == issuer))
    }

    /// Checks everything but the issuer. `now` is the time since the epoch; `audiences` replace those of the provider.
    pub(super) fn check(
        &self,
        claims: &Map<String, Value>,
        audiences: Option<&[Box<str>]>,
        now: Duration,
    ) -> Result<(), Failure> {
        let (now, skew) = (now.as_secs_f64(), self.clock_skew.as_secs_f64());
        // The expiration is the first instant at which a token is no longer valid (section 4.1.4).
        let expires = time(claims, "exp")?;
        match expires {
            Some(at) if at + skew <= now => return Err(Failure::Expired),
            None if self.requires_expiration || self.longest.is_some() => return Err(Failure::NoExpiration),
            _ => {}
        }
        if let (Some(at), Some(longest)) = (expires, self.longest)
            && at - now > longest.as_secs_f64()
        {
            return Err(Failure::Lifetime);
        }
        if time(claims, "nbf")?.is_some_and(|at| at > now + skew) {
            return Err(Failure::NotYetValid);
        }
        if let Some(subjects) = &self.subjects {
            let subject = claims.get("sub").and_then(Value::as_str);
            if !subject.is_some_and(|subject| subjects.matches(subject)) {
                return Err(Failure::Subject);
            }
        }
        let audiences = audiences.unwrap_or(&self.audiences);
        if audiences.is_empty() || is_for(claims.get("aud"), audiences) {
            Ok(())
        } else {
            Err(Failure::Audience)
        }
    }
}

/// Returns a time in seconds since the epoch, which may have a fraction (NumericDate).
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<f64>, Failure> {
    claims.get(name).map(|value| value.as_f64().ok_or(Failure::Form)).transpose()
}

/// Returns whether `aud`, one text or several, has one of the audiences.
fn is_for(aud: Option<&Value>, audiences: &[Box<str>]) -> bool {
    let one = |value: &Value| audiences.iter().any(|audience| *value == **audience);
    match aud {
        Some(Value::Array(all)) => all.iter().any(one),
        Some(value) => one(value),
        None => false,
    }
}

/// Returns the claim at a path of names, or `None` if it is not there.
pub(super) fn at_path<'a>(claims: &'a Map<String, Value>, path: &[Box<str>]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(claims.get(&**first)?, |value, name| value.get(&**name))
}

#[cfg(test)]
mod tests {
    use outrigger_core::matcher::Pattern;
    use serde_json::json;

    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000);

    fn conditions() -> Conditions {
        Conditions {
            issuer: None,
            audiences: Box::default(),
            subjects: None,
            requires_expiration: false,
            longest: None,
            clock_skew: Duration::from_secs(60),
        }
    }

    fn check(of: &Conditions, claims: &Value) -> Result<(), Failure> {
        of.check(claims.as_object().unwrap(), None, NOW)
    }

    #[test]
    fn times_are_checked_with_the_skew_of_the_clocks() {
        for (claims, outcome) in [
            (json!({}), Ok(())),
            (json!({"exp": 1_000_000}), Ok(())),
            (json!({"exp": 999_941}), Ok(())),
            (json!({"exp": 999_940.5}), Ok(())),
            (json!({"exp": 999_940}), Err(Failure::Expired)),
            (json!({"exp": 0}), Err(Failure::Expired)),
            (json!({"exp": -1}), Err(Failure::Expired)),
            (json!({"exp": "1000000"}), Err(Failure::Form)),
            (json!({"exp": null}), Err(Failure::Form)),
            (json!({"exp": 1e300}), Ok(())),
            (json!({"nbf": 1_000_060}), Ok(())),
            (json!({"nbf": 1_000_061}), Err(Failure::NotYetValid)),
            (json!({"nbf": "x"}), Err(Failure::Form)),
        ] {
            assert_eq!(check(&conditions(), &claims), outcome, "{claims}");
        }
    }

    #[test]
    fn an_expiration_can_be_required_and_limited() {
        let required = Conditions { requires_expiration: true, ..conditions() };
        assert_eq!(check(&required, &json!({})), Err(Failure::NoExpiration));
        assert_eq!(check(&required, &json!({"exp": 2_000_000})), Ok(()));
        let limited = Conditions { longest: Some(Duration::from_secs(10)), ..conditions() };
        assert_eq!(check(&limited, &json!({})), Err(Failure::NoExpiration));
        assert_eq!(check(&limited, &json!({"exp": 1_000_010})), Ok(()));
        assert_eq!(check(&limited, &json!({"exp": 1_000_011})), Err(Failure::Lifetime));
    }

    #[test]
    fn issuer_audience_and_subject_are_compared() {
        let of = Conditions {
            issuer: Some("https://idp".into()),
            audiences: ["shop".into(), "cart".into()].into(),
            subjects: Some(StringMatcher::new(Pattern::Prefix("user-".into()), false)),
            ..conditions()
        };
        let issuer = |claims: Value| of.is_issuer(claims.as_object().unwrap());
        assert!(issuer(json!({"iss": "https://idp"})));
        assert!(!issuer(json!({"iss": "https://idp/"})) && !issuer(json!({})) && !issuer(json!({"iss": 1})));
        for (claims, outcome) in [
            (json!({"sub": "user-1", "aud": "shop"}), Ok(())),
            (json!({"sub": "user-1", "aud": ["x", "cart"]}), Ok(())),
            (json!({"sub": "user-1", "aud": ["x"]}), Err(Failure::Audience)),
            (json!({"sub": "user-1", "aud": "sho"}), Err(Failure::Audience)),
            (json!({"sub": "user-1", "aud": {"shop": 1}}), Err(Failure::Audience)),
            (json!({"sub": "user-1"}), Err(Failure::Audience)),
            (json!({"sub": "admin", "aud": "shop"}), Err(Failure::Subject)),
            (json!({"sub": 1, "aud": "shop"}), Err(Failure::Subject)),
            (json!({"aud": "shop"}), Err(Failure::Subject)),
        ] {
            assert_eq!(check(&of, &claims), outcome, "{claims}");
        }
        let claims = json!({"sub": "user-1", "aud": "admin"});
        let instead = of.check(claims.as_object().unwrap(), Some(&["admin".into()]), NOW);
        assert_eq!(instead, Ok(()));
    }

    #[test]
    fn a_path_leads_into_nested_claims() {
        let claims = json!({"a": {"b": {"c": 1}}, "x": [1]});
        let at = |path: &[&str]| {
            let path: Vec<Box<str>> = path.iter().map(|name| (*name).into()).collect();
            at_path(claims.as_object().unwrap(), &path)
        };
        assert_eq!(at(&["a", "b", "c"]), Some(&json!(1)));
        assert_eq!((at(&["a", "c"]), at(&["x", "0"]), at(&[])), (None, None, None));
    }
}
