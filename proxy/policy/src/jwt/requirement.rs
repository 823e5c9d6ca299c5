//! Which tokens a request must have: providers, joined by *any* and *all* (`JwtRequirement`).

use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::xds::jwt_authn;

use super::cache::Token;
use super::failure::Failure;
use super::provider::Provider;
use crate::field::{Unusable, each};
use crate::header_match::Head;
use crate::jose::Compact;
use crate::key_source::RemoteKeys;

/// The most tokens of a request that are verified for one requirement, so that no request costs more.
const MOST_TOKENS: usize = 8;

/// A requirement. Providers are named by their place in the list of all.
#[derive(Debug)]
pub(super) enum Requirement {
    /// Nothing.
    Nothing,
    /// Tokens of a provider, and those only.
    Of(usize, Option<Box<[Box<str>]>>),
    /// Tokens of any provider, or none.
    Optional(Lenience),
    /// One of these, or what the lenience allows.
    Any(Box<[Self]>, Option<Lenience>),
    All(Box<[Self]>),
}

/// What is allowed instead of a valid token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lenience {
    /// No token.
    Missing,
    /// No token, or an invalid one, which is then ignored.
    MissingOrFailed,
}

/// A request, and the tokens of it that were verified, each with its provider.
pub(super) struct Check<'a> {
    pub(super) providers: &'a [Provider],
    pub(super) head: Head<'a>,
    /// The time since the epoch.
    pub(super) now: Duration,
    pub(super) verified: Vec<(usize, Arc<Token>)>,
    /// Keys that may be there or newer soon, and without which a token was not verified.
    pub(super) awaited: Vec<Arc<RemoteKeys>>,
}

impl Requirement {
    /// Decodes a requirement on some of `providers`.
    pub(super) fn decode(wire: jwt_authn::JwtRequirement, providers: &[Provider]) -> Result<Self, Unusable> {
        use jwt_authn::jwt_requirement::RequiresType as Wire;
        let of = |field: &str, name: String| {
            let at = providers.iter().position(|provider| *provider.name == *name);
            at.ok_or_else(|| Unusable::new(field, format_args!("names the unknown provider {name:?}")))
        };
        let list = |field: &str, all: Vec<jwt_authn::JwtRequirement>| {
            if all.len() < 2 {
                return Err(Unusable::new(format!("{field}.requirements"), "has fewer than two"));
            }
            let all = each("requirements", all, |wire| Self::decode(wire, providers));
            all.map_err(|bad| bad.within(field))
        };
        let jwt_authn::JwtRequirement { requires_type } = wire;
        Ok(match requires_type {
            None => Self::Nothing,
            Some(Wire::ProviderName(name)) => Self::Of(of("provider_name", name)?, None),
            Some(Wire::ProviderAndAudiences(jwt_authn::ProviderWithAudiences {
                provider_name,
                audiences,
            })) => {
                let audiences = audiences.into_iter().map(Into::into).collect();
                Self::Of(of("provider_and_audiences.provider_name", provider_name)?, Some(audiences))
            }
            Some(Wire::RequiresAny(jwt_authn::JwtRequirementOrList { requirements })) => {
                let (lenient, strict): (Vec<_>, Vec<_>) = list("requires_any", requirements)?
                    .into_iter()
                    .partition(|one| matches!(one, Self::Optional(_)));
                let lenience = lenient.into_iter().filter_map(Self::lenience).max();
                match lenience {
                    Some(lenience) if strict.is_empty() => Self::Optional(lenience),
                    lenience => Self::Any(strict.into(), lenience),
                }
            }
            Some(Wire::RequiresAll(jwt_authn::JwtRequirementAndList { requirements })) => {
                Self::All(list("requires_all", requirements)?.into())
            }
            Some(Wire::AllowMissing(_)) => Self::Optional(Lenience::Missing),
            Some(Wire::AllowMissingOrFailed(_)) => Self::Optional(Lenience::MissingOrFailed),
            // Later filters would take unverified claims for verified ones.
            Some(Wire::ExtractOnlyWithoutValidation(_)) => {
                return Err(Unusable::new("extract_only_without_validation", "is not supported"));
            }
        })
    }

    fn lenience(self) -> Option<Lenience> {
        if let Self::Optional(lenience) = self { Some(lenience) } else { None }
    }

    /// Checks a request. On success, its tokens were added to the verified ones.
    pub(super) fn check(&self, check: &mut Check<'_>) -> Result<(), Failure> {
        match self {
            Self::Nothing => Ok(()),
            Self::Of(at, audiences) => check.tokens_of(*at, audiences.as_deref()),
            Self::Optional(lenience) => check.any_tokens(*lenience),
            Self::All(all) => all.iter().try_for_each(|one| one.check(check)),
            Self::Any(any, lenience) => {
                let mut worst = Failure::Missing;
                for one in any {
                    let before = check.verified.len();
                    match one.check(check) {
                        Ok(()) => return Ok(()),
                        Err(failure) => worst = worst.max(failure),
                    }
                    check.verified.truncate(before);
                }
                match lenience {
                    Some(Lenience::MissingOrFailed) => Ok(()),
                    Some(Lenience::Missing) if worst == Failure::Missing => Ok(()),
                    _ => Err(worst),
                }
            }
        }
    }
}

impl Check<'_> {
    /// Every token at the places of the provider must be valid, so that the application sees no other.
    fn tokens_of(&mut self, at: usize, audiences: Option<&[Box<str>]>) -> Result<(), Failure> {
        let provider = &self.providers[at];
        let tokens = provider.tokens(&self.head);
        match tokens.len() {
            0 => return Err(Failure::Missing),
            many if many > MOST_TOKENS => return Err(Failure::TooMany),
            _ => {}
        }
        for token in tokens {
            let token = self.verify(at, &token, audiences)?;
            self.verified.push((at, token));
        }
        Ok(())
    }

    /// Each token is verified by the provider with its issuer, among those that have tokens at its place.
    fn any_tokens(&mut self, lenience: Lenience) -> Result<(), Failure> {
        let providers = self.providers;
        let mut tokens: Vec<(_, Vec<usize>)> = Vec::new();
        for (at, provider) in providers.iter().enumerate() {
            for token in provider.tokens(&self.head) {
                let known = tokens.iter().position(|(known, _)| *known == token);
                match known.and_then(|known| tokens.get_mut(known)) {
                    Some((_, of)) if of.contains(&at) => {}
                    Some((_, of)) => of.push(at),
                    None => tokens.push((token, vec![at])),
                }
            }
        }
        if tokens.len() > MOST_TOKENS {
            return lenience.of(Failure::TooMany);
        }
        for (token, of) in tokens {
            match self.by_issuer(&token, &of) {
                Ok((at, token)) => self.verified.push((at, token)),
                Err(failure) => lenience.of(failure)?,
            }
        }
        Ok(())
    }

    fn verify(
        &mut self,
        at: usize,
        text: &str,
        audiences: Option<&[Box<str>]>,
    ) -> Result<Arc<Token>, Failure> {
        let provider = &self.providers[at];
        provider.verify(text, audiences, self.now).inspect_err(|failure| {
            self.awaited.extend(provider.awaited(*failure).cloned());
        })
    }

    fn by_issuer(&mut self, text: &str, of: &[usize]) -> Result<(usize, Arc<Token>), Failure> {
        let claims = Compact::read(text)?.claims()?;
        let named = |at: &&usize| self.providers[**at].conditions.issuer.is_some();
        let fits = |at: &&usize| self.providers[**at].conditions.is_issuer(&claims);
        let (any, own): (Vec<&usize>, Vec<&usize>) = of.iter().filter(fits).partition(|at| !named(at));
        let at = *own.into_iter().chain(any).next().ok_or(Failure::UnknownIssuer)?;
        Ok((at, self.verify(at, text, None)?))
    }
}

impl Lenience {
    fn of(self, failure: Failure) -> Result<(), Failure> {
        if self == Self::MissingOrFailed { Ok(()) } else { Err(failure) }
    }
}
