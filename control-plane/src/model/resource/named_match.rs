//! A match of a name and a value: of a header, or of a query parameter.

use std::marker::PhantomData;

use outrigger_core::Name;
use schemars::JsonSchema;
use serde::Deserialize;

use super::strict::at;
use super::value::{HeaderName, List, check_regex, refuse_repeated};
use crate::model::route::{ValueMatch, ValuePattern};

/// A match whose value was read with the limits of `V`.
#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "Fields<V>", bound = "V: Deserialize<'de> + Into<Name>")]
#[schemars(with = "Fields<V>", bound = "V: JsonSchema")]
pub(super) struct NamedMatch<V> {
    of: ValueMatch,
    limits: PhantomData<V>,
}

impl<V> NamedMatch<V> {
    pub(super) fn into_inner(self) -> ValueMatch {
        self.of
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields<V> {
    #[serde(default)]
    r#type: ValueType,
    name: HeaderName,
    value: V,
}

impl<V: Into<Name>> TryFrom<Fields<V>> for NamedMatch<V> {
    type Error = String;

    fn try_from(Fields { r#type, name, value }: Fields<V>) -> Result<Self, String> {
        let value = r#type.pattern(value.into())?;
        Ok(Self { of: ValueMatch { name: name.0, value }, limits: PhantomData })
    }
}

/// Refuses duplicate header names, as the CRD does. Names that differ only in case are one header, and "only the first entry
/// with an equivalent name MUST be considered for a match" (`HTTPHeaderMatch.name`).
pub(super) fn first_of_each_name<V, const MIN: usize, const MAX: usize>(
    List(headers): List<NamedMatch<V>, MIN, MAX>,
) -> Result<Vec<ValueMatch>, String> {
    refuse_repeated(headers.iter().map(|header| &header.of.name)).map_err(|reason| at("headers", reason))?;
    let mut all: Vec<ValueMatch> = Vec::new();
    for header in headers.into_iter().map(NamedMatch::into_inner) {
        let name: Name = header.name.to_ascii_lowercase().into();
        if all.iter().all(|other| other.name != name) {
            all.push(ValueMatch { name, value: header.value });
        }
    }
    Ok(all)
}

/// How the values of headers, parameters and gRPC methods are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, JsonSchema)]
pub(super) enum ValueType {
    #[default]
    Exact,
    RegularExpression,
}

impl ValueType {
    /// Returns the pattern, or an error if the expression is invalid.
    pub(super) fn pattern(self, value: Name) -> Result<ValuePattern, String> {
        Ok(match self {
            Self::Exact => ValuePattern::Exact(value),
            Self::RegularExpression => {
                check_regex(&value).map_err(|reason| at("value", reason))?;
                ValuePattern::Regex(value)
            }
        })
    }
}
