//! Where requests have a credential: headers, query parameters, cookies.

use outrigger_core::Name;
use outrigger_core::tchar::is_tchar;
use schemars::JsonSchema;
use serde::Deserialize;

use super::header_changes::NOT_MODIFIABLE;
use super::strict::at;
use super::value::{HeaderName, List, Text};
use crate::model::authentication::CredentialPlace;

/// Places, at least one.
#[derive(Deserialize, JsonSchema)]
#[serde(from = "List<OnePlace, 1, 8>")]
#[schemars(with = "List<OnePlace, 1, 8>")]
pub(super) struct Places(pub(super) Vec<CredentialPlace>);

impl From<List<OnePlace, 1, 8>> for Places {
    fn from(List(all): List<OnePlace, 1, 8>) -> Self {
        Self(all.into_iter().map(|OnePlace(place)| place).collect())
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "WirePlace")]
#[schemars(with = "WirePlace")]
struct OnePlace(CredentialPlace);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WirePlace {
    header: Option<HeaderName>,
    prefix: Option<Text<64>>,
    query: Option<Text<256>>,
    cookie: Option<Text<256>>,
}

impl TryFrom<WirePlace> for OnePlace {
    type Error = String;

    fn try_from(WirePlace { header, prefix, query, cookie }: WirePlace) -> Result<Self, String> {
        if prefix.is_some() && header.is_none() {
            return Err(at("prefix", "is for a header"));
        }
        Ok(Self(match (header, query, cookie) {
            (Some(header), None, None) => {
                let name = header.lower();
                let prefix = match prefix {
                    Some(Text(prefix)) if !prefix.bytes().all(|b| b.is_ascii_graphic() || b == b' ') => {
                        return Err(at("prefix", "has a character that no header may have"));
                    }
                    Some(Text(prefix)) => prefix,
                    None if *name == *"authorization" => "Bearer ".into(),
                    None => "".into(),
                };
                CredentialPlace::Header { name, prefix }
            }
            (None, Some(Text(name)), None) => CredentialPlace::Query(name),
            (None, None, Some(Text(name))) if name.bytes().all(is_tchar) => CredentialPlace::Cookie(name),
            (None, None, Some(_)) => return Err(at("cookie", "is not a cookie name")),
            _ => return Err("needs one of header, query and cookie".into()),
        }))
    }
}

impl Places {
    /// Returns the index of a place that an API key cannot have, and why.
    pub(super) fn check_for_keys(&self) -> Result<(), (usize, String)> {
        for (index, place) in self.0.iter().enumerate() {
            let CredentialPlace::Header { name, prefix } = place else { continue };
            if NOT_MODIFIABLE.contains(&&**name) {
                return Err((index, cannot_be_set(name)));
            }
            if !matches!(&**prefix, "" | "Bearer ") {
                return Err((index, "has no prefix: a key stands alone, or after Bearer".into()));
            }
        }
        Ok(())
    }
}

/// Returns the name in lower case of a header that a filter may set.
pub(super) fn settable(header: &HeaderName) -> Result<Name, String> {
    let name = header.lower();
    if NOT_MODIFIABLE.contains(&&*name) { Err(cannot_be_set(&name)) } else { Ok(name) }
}

fn cannot_be_set(name: &str) -> String {
    format!("{name:?} may not be set: it frames a message or names its destination")
}
