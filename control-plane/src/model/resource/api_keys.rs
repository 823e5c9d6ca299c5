//! The field `apiKeys` of an AuthenticationPolicy: clients with their keys, in the policy or in Secrets.

use outrigger_core::Name;
use schemars::JsonSchema;
use serde::Deserialize;

use super::api_key::{hash_of, is_hash};
use super::credential_place::{Places, settable};
use super::value::{HeaderName, HeaderValue, List, NamespaceName, ObjectName, Text, is_subdomain};
use crate::model::authentication::{ApiKeys, SecretRef};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct WireApiKeys {
    clients: Option<List<WireClient, 1, 256>>,
    secrets: Option<List<WireSecret, 1, 8>>,
    from: Places,
    client_header: Option<HeaderName>,
    #[serde(default)]
    forward: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireClient {
    name: HeaderValue,
    key: Option<HeaderValue>,
    sha256: Option<Text<64>>,
}

/// The fields are those of Gateway API's `SecretObjectReference`, whose group and kind have one value here.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireSecret {
    namespace: Option<NamespaceName>,
    name: ObjectName,
}

impl TryFrom<WireApiKeys> for ApiKeys {
    type Error = (String, String);

    fn try_from(wire: WireApiKeys) -> Result<Self, (String, String)> {
        let WireApiKeys { clients, secrets, from, client_header, forward } = wire;
        if clients.is_none() && secrets.is_none() {
            return Err(("clients".to_owned(), "is missing: write clients, secrets or both".into()));
        }
        let mut hashed: Vec<(Name, Name)> = Vec::new();
        for (index, WireClient { name, key, sha256 }) in
            clients.map_or_else(Vec::new, |list| list.0).into_iter().enumerate()
        {
            let bad = |inner: &str, reason: &str| (format!("clients[{index}]{inner}"), reason.to_owned());
            let hash = match (key, sha256) {
                (Some(HeaderValue(key)), None) => hash_of(&key),
                (None, Some(Text(digits))) if is_hash(&digits) => digits,
                (None, Some(_)) => return Err(bad(".sha256", "is not 64 hexadecimal digits in lower case")),
                _ => return Err(bad("", "needs one of key and sha256")),
            };
            if hashed.iter().any(|(_, other)| *other == hash) {
                return Err(bad("", "has the key of another client"));
            }
            hashed.push((name.0, hash));
        }
        let mut named: Vec<SecretRef> = Vec::new();
        for (index, WireSecret { namespace, name }) in
            secrets.map_or_else(Vec::new, |list| list.0).into_iter().enumerate()
        {
            let bad = |inner: &str, reason: &str| (format!("secrets[{index}]{inner}"), reason.to_owned());
            if !is_subdomain(&name.0) {
                return Err(bad(".name", "is not the name of a Secret"));
            }
            let secret = SecretRef { namespace: namespace.map(|namespace| namespace.0), name: name.0 };
            if named.contains(&secret) {
                return Err(bad("", "is the same as another one"));
            }
            named.push(secret);
        }
        let client_header = client_header
            .map(|header| settable(&header))
            .transpose()
            .map_err(|reason| ("clientHeader".to_owned(), reason))?;
        from.check_for_keys().map_err(|(index, reason)| (format!("from[{index}]"), reason))?;
        Ok(Self { clients: hashed, secrets: named, places: from.0, client_header, forwards: forward })
    }
}
