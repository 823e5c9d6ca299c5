//! Secret, v1, with the label `outrigger.dev/api-keys: "true"`: API keys by client, for AuthenticationPolicies.
//!
//! Only the hashes of the keys are kept. An error names the entry, and has nothing of its value.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use outrigger_core::Name;
use serde_json::{Map, Value, json};

use super::api_key::{entry_of, hashes_of};
use super::metadata::{API_KEYS, Metadata};
use crate::model::diagnostic::Problem;

/// The maximum number of keys in a Secret: the key of a request is compared with each.
const MAX_KEYS: usize = 256;

/// The API keys of a Secret.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ApiKeySecret {
    /// Each client with the SHA-256 of a key of it, in hexadecimal digits.
    pub(crate) keys: Vec<(Name, Name)>,
    /// The clients without a key.
    pub(crate) without_keys: Vec<Name>,
    /// No version of the Secret was ever accepted: it has no clients.
    pub(crate) stands_in: bool,
    /// What is wrong with the current version, after the Secret's name: `is refused: data.acme: is not Base64`. The keys are then those of the
    /// last good one.
    pub(crate) problem: Option<String>,
}

impl ApiKeySecret {
    /// Decodes a Secret with the label.
    pub(super) fn decode(document: &Value) -> Result<Self, Problem> {
        let Value::Object(fields) = document else { return Err(Problem::new("", "is not an object")) };
        let known = ["apiVersion", "kind", "metadata", "type", "immutable", "data", "stringData"];
        if let Some(other) = fields.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(Problem::new(other, "unknown field"));
        }
        // Those of another type have entries with a meaning of their own, such as the key of a certificate.
        if fields.get("type").is_some_and(|kind| kind != "Opaque") {
            return Err(Problem::new("type", "is not Opaque, as that of a Secret with API keys is"));
        }
        let (mut keys, mut without_keys) = (Vec::new(), Vec::new());
        let mut clients: BTreeMap<&str, &str> = BTreeMap::new();
        for list in ["data", "stringData"] {
            for (client, value) in entries(fields, list)? {
                let at = format!("{list}.{client}");
                if let Some(other) = clients.insert(client, list) {
                    return Err(Problem::new(at, format!("is in {other} too")));
                }
                let hashes = hashes(list, client, value).map_err(|reason| Problem::new(&at, reason))?;
                if hashes.is_empty() {
                    without_keys.push(client.into());
                }
                for hash in hashes {
                    if let Some((other, _)) = keys.iter().find(|(_, known)| *known == hash) {
                        return Err(Problem::new(at, format!("has a key of client {other} again")));
                    }
                    keys.push((client.into(), hash));
                }
            }
        }
        match keys.len() {
            ..=MAX_KEYS => Ok(Self { keys, without_keys, stands_in: false, problem: None }),
            more => Err(Problem::new("data", format!("has {more} keys, of which it may have {MAX_KEYS}"))),
        }
    }

    /// Returns what stands for a Secret that is refused and has no good version.
    pub(super) fn stand_in(problem: &Problem) -> Self {
        let Problem { field, message, .. } = problem;
        Self::without_clients(format!("is refused: {field}: {message}"))
    }

    /// Returns what stands for a Secret of which no version was ever accepted.
    pub(super) fn without_clients(problem: String) -> Self {
        Self { keys: Vec::new(), without_keys: Vec::new(), stands_in: true, problem: Some(problem) }
    }

    /// Returns a document that has the same keys as hashes.
    pub(super) fn document(&self, metadata: &Metadata) -> Value {
        let without = self.without_keys.iter().map(|client| (&**client, Vec::new()));
        let mut by_client: BTreeMap<&str, Vec<&Name>> = without.collect();
        for (client, hash) in &self.keys {
            by_client.entry(client).or_default().push(hash);
        }
        let entries =
            by_client.into_iter().map(|(client, hashes)| (client.to_owned(), entry_of(hashes.into_iter())));
        let id = &metadata.id;
        let labels = json!({ API_KEYS: "true" });
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": &*id.name, "namespace": &*id.namespace, "labels": labels },
            "stringData": entries.collect::<BTreeMap<_, _>>(),
        })
    }
}

fn entries<'f>(
    fields: &'f Map<String, Value>,
    list: &str,
) -> Result<impl Iterator<Item = (&'f str, &'f Value)>, Problem> {
    let entries = match fields.get(list) {
        None => None,
        Some(Value::Object(entries)) => Some(entries),
        Some(_) => return Err(Problem::new(list, "is not an object")),
    };
    Ok(entries.into_iter().flatten().map(|(client, value)| (client.as_str(), value)))
}

/// Returns the hashes of the keys of a client.
fn hashes(list: &str, client: &str, value: &Value) -> Result<Vec<Name>, String> {
    // As Kubernetes does: what is a key of a Secret can be the value of a header.
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !matches!(client.len(), 1..=253) || !client.bytes().all(legal) {
        return Err("is not a name of a client: letters, digits, -, _ and . (253 at most)".into());
    }
    let Value::String(text) = value else { return Err("is not a string".into()) };
    if list == "stringData" {
        return hashes_of(text);
    }
    let bytes = STANDARD.decode(text).map_err(|_| "is not Base64")?;
    hashes_of(std::str::from_utf8(&bytes).map_err(|_| "is not UTF-8")?)
}

#[cfg(test)]
mod tests;
