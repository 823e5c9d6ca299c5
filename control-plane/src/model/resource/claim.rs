//! A claim of a token, by its name or by the names that lead to it.

use outrigger_core::Name;
use schemars::JsonSchema;
use serde::Deserialize;

use super::value::{List, Text};
use crate::model::authorization::ClaimMatch;

/// A condition on a claim: the texts that it may be.
#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "WireClaim")]
#[schemars(with = "WireClaim")]
pub(super) struct OneClaim(pub(super) ClaimMatch);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireClaim {
    name: Option<Text<256>>,
    path: Option<List<Text<256>, 1, 8>>,
    values: List<Text<2048>, 1, 64>,
}

impl TryFrom<WireClaim> for OneClaim {
    type Error = String;

    fn try_from(WireClaim { name, path, values: List(values) }: WireClaim) -> Result<Self, String> {
        let values = values.into_iter().map(|Text(value)| value).collect();
        Ok(Self(ClaimMatch { path: claim_path(name, path)?, values }))
    }
}

/// Returns the path of a claim that is named by one of `name` and `path`. A dot in a name is part of it.
pub(super) fn claim_path(
    name: Option<Text<256>>,
    path: Option<List<Text<256>, 1, 8>>,
) -> Result<Vec<Name>, String> {
    match (name, path) {
        (Some(Text(name)), None) => Ok(vec![name]),
        (None, Some(List(path))) => Ok(path.into_iter().map(|Text(name)| name).collect()),
        _ => Err("needs one of name and path".into()),
    }
}
