//! Where a claim of a verified token is, for the filters after the one that verifies it: conditions and rate limits.

use std::sync::Arc;

use outrigger_core::Name;
use serde_json::{Map, Value};

use crate::field::{Unusable, required};

/// The name of the filter whose claims can be used, as Envoy calls it whatever its name in the listener is.
const OF_TOKENS: &str = "envoy.filters.http.jwt_authn";

/// Claims of a verified token, or its header, under the name that its provider gives them (`payload_in_metadata`,
/// `header_in_metadata`). Of two with one name, the last one counts.
pub type NamedClaims = (Name, Arc<Map<String, Value>>);

/// The names that lead to a claim.
#[derive(Debug, Clone)]
pub(crate) struct ClaimPath {
    /// Under which the claims of a provider are.
    name: Name,
    /// At least one.
    path: Box<[Box<str>]>,
}

impl ClaimPath {
    /// Creates the path of metadata that a filter leaves. Returns an error at the field `filter` for a filter that leaves none, and at the field
    /// `path` for one that is too short.
    pub(crate) fn new(
        (filter_field, filter): (&str, &str),
        (path_field, path): (&str, Vec<String>),
    ) -> Result<Self, Unusable> {
        if filter != OF_TOKENS {
            let why = format_args!("{filter:?} leaves nothing that can be read: only {OF_TOKENS} does");
            return Err(Unusable::new(filter_field, why));
        }
        let mut path = path.into_iter();
        let name = required(path_field, path.next())?.as_str().into();
        let path: Box<[_]> = path.map(String::into_boxed_str).collect();
        if path.is_empty() {
            return Err(Unusable::new(path_field, "names no claim: it needs two segments"));
        }
        Ok(Self { name, path })
    }

    /// Returns the claim, or `None` if it is not there.
    pub(crate) fn find<'a>(&self, claims: &'a [NamedClaims]) -> Option<&'a Value> {
        let (_, claims) = claims.iter().rev().find(|(name, _)| *name == self.name)?;
        let (first, rest) = self.path.split_first()?;
        rest.iter().try_fold(claims.get(&**first)?, |value, name| value.get(&**name))
    }
}
