//! xDS resources as JSON, by the API's own field names, for `/config_dump`.
//!
//! [`Renderer::new`] reads the descriptors, which takes several megabytes, so it exists only while a page is made. Content that
//! cannot be read is marked by `@error` and does not fail the page.
//!
//! Secrets are replaced as Envoy does: fields with `udpa.annotations.sensitive`, such as private keys and passwords. In addition,
//! everything that TLS messages and key sets of tokens hold inline, and the values of headers, query parameters and metadata whose names indicate
//! credentials.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use outrigger_proto::xds::protobuf::Any;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage as _, SerializeOptions,
    Value,
};
use serde_json::{Map, Value as Json, json};

/// Replaces a secret.
const REDACTED: &str = "[redacted]";
/// Parts of the names of headers, query parameters and metadata whose values are secret.
const CREDENTIALS: [&str; 12] = [
    "authorization",
    "cookie",
    "token",
    "secret",
    "password",
    "credential",
    "api-key",
    "api_key",
    "apikey",
    "signature",
    "accesskey",
    "jwt",
];
/// Names of secret values of which other names may have a part.
const CREDENTIAL_NAMES: [&str; 1] = ["sig"];
/// The messages with a name that shows whether their value is secret, and the field of the name.
const NAMED_VALUES: [(&str, &str); 3] = [
    ("envoy.config.core.v3.HeaderValue", "key"),
    ("envoy.config.route.v3.HeaderMatcher", "name"),
    ("envoy.config.route.v3.QueryParameterMatcher", "name"),
];
/// The package of TLS settings.
const TLS: &str = "envoy.extensions.transport_sockets.tls.";
/// Keys of tokens, which may be secret ones.
const KEY_SET: &str = "envoy.extensions.filters.http.jwt_authn.v3.JwtProvider.local_jwks";
/// Content that is inline or in a file.
const DATA_SOURCE: &str = "envoy.config.core.v3.DataSource";
/// Maximum number of `Any` messages within each other.
const MAX_DEPTH: u8 = 16;

/// Renders resources.
pub(crate) struct Renderer {
    pool: DescriptorPool,
    sensitive: HashSet<&'static str>,
}

/// The position in a message.
#[derive(Clone, Copy)]
struct Position {
    /// Whether values are redacted.
    secret: bool,
    /// Number of `Any` messages around it.
    depth: u8,
}

impl Renderer {
    pub(crate) fn new() -> Self {
        let pool = DescriptorPool::decode(outrigger_proto::XDS_DESCRIPTORS).unwrap_or_default();
        Self { pool, sensitive: outrigger_proto::XDS_SENSITIVE_FIELDS.lines().collect() }
    }

    /// Renders a message with its type.
    pub(crate) fn render(&self, any: &Any) -> Json {
        self.any(&any.type_url, &any.value, Position { secret: false, depth: 0 })
    }

    fn any(&self, type_url: &str, bytes: &[u8], at: Position) -> Json {
        let mut object = Map::from_iter([("@type".to_owned(), json!(type_url))]);
        let name = type_url.rsplit('/').next().unwrap_or_default();
        let read = match self.pool.get_message_by_name(name) {
            _ if at.depth >= MAX_DEPTH => Err("nested too deeply".to_owned()),
            Some(descriptor) => DynamicMessage::decode(descriptor, bytes)
                .map_err(|error| format!("cannot be decoded: {error}")),
            None if bytes.is_empty() => return Json::Object(object),
            None => Err(format!("unknown type, {} bytes", bytes.len())),
        };
        match read.map(|message| self.message(&message, Position { depth: at.depth + 1, ..at })) {
            Ok(Json::Object(fields)) => object.extend(fields),
            // A well-known type with a JSON form of its own, such as a duration.
            Ok(value) => drop(object.insert("value".to_owned(), value)),
            Err(problem) => drop(object.insert("@error".to_owned(), json!(problem))),
        }
        Json::Object(object)
    }

    fn message(&self, message: &DynamicMessage, at: Position) -> Json {
        let descriptor = message.descriptor();
        let name = descriptor.full_name();
        if name == "google.protobuf.Any" {
            let text = message.get_field_by_name("type_url");
            let bytes = message.get_field_by_name("value");
            let text = text.as_ref().and_then(|value| value.as_str()).unwrap_or_default();
            let bytes = bytes.as_ref().and_then(|value| value.as_bytes()).map_or(&[][..], |bytes| bytes);
            return self.any(text, bytes, at);
        }
        if name.starts_with("google.protobuf.") {
            return well_known(message, at);
        }
        let named = NAMED_VALUES.iter().find(|(of, _)| *of == name).map(|(_, field)| *field);
        let names_credential = named
            .and_then(|field| message.get_field_by_name(field))
            .is_some_and(|value| value.as_str().is_some_and(is_credential));
        let mut object = Map::new();
        for (field, value) in message.fields() {
            let secret = self.is_secret(&field) || (names_credential && named != Some(field.name()));
            let at = Position { secret: at.secret || secret, ..at };
            object.insert(field.name().to_owned(), self.field(&field, value, at));
        }
        let unknown: Vec<_> = message.unknown_fields().map(|field| field.number()).collect();
        if !unknown.is_empty() {
            object.insert("@error".to_owned(), json!(format!("unknown fields {unknown:?}")));
        }
        Json::Object(object)
    }

    fn is_secret(&self, field: &FieldDescriptor) -> bool {
        let inline = || field.kind().as_message().is_some_and(|of| of.full_name() == DATA_SOURCE);
        self.sensitive.contains(field.full_name())
            || field.full_name() == KEY_SET
            || (field.full_name().starts_with(TLS) && inline())
    }

    fn field(&self, field: &FieldDescriptor, value: &Value, at: Position) -> Json {
        match value {
            Value::List(values) => values.iter().map(|value| self.value(&field.kind(), value, at)).collect(),
            Value::Map(entries) => {
                let kind = match field.kind() {
                    Kind::Message(entry) if entry.is_map_entry() => entry.map_entry_value_field().kind(),
                    other => other,
                };
                let entries =
                    entries.iter().map(|(key, value)| (key_text(key), self.value(&kind, value, at)));
                Json::Object(entries.collect())
            }
            one => self.value(&field.kind(), one, at),
        }
    }

    /// Renders one value by the JSON mapping of protocol buffers: 64-bit integers are strings, bytes are base64.
    fn value(&self, kind: &Kind, value: &Value, at: Position) -> Json {
        match value {
            Value::Message(message) => self.message(message, at),
            Value::String(_) if at.secret => json!(REDACTED),
            Value::Bytes(_) if at.secret => json!(BASE64.encode(REDACTED)),
            _ if at.secret => Json::Null,
            Value::Bool(value) => json!(value),
            Value::I32(value) => json!(value),
            Value::U32(value) => json!(value),
            Value::I64(value) => json!(value.to_string()),
            Value::U64(value) => json!(value.to_string()),
            Value::F32(value) => json!(value),
            Value::F64(value) => json!(value),
            Value::String(value) => json!(value),
            Value::Bytes(value) => json!(BASE64.encode(value)),
            Value::EnumNumber(number) => match kind.as_enum().and_then(|of| of.get_value(*number)) {
                Some(value) => json!(value.name()),
                None => json!(number),
            },
            // Neither holds another of them.
            Value::List(_) | Value::Map(_) => Json::Null,
        }
    }
}

/// Renders a well-known type: a wrapper, duration, timestamp or `Struct`.
fn well_known(message: &DynamicMessage, at: Position) -> Json {
    if at.secret {
        return json!(REDACTED);
    }
    let options = SerializeOptions::new();
    match message.serialize_with_options(serde_json::value::Serializer, &options) {
        Ok(mut json) => {
            redact(&mut json);
            json
        }
        Err(error) => json!({ "@error": error.to_string() }),
    }
}

/// Redacts the entries of a `Struct` that are credentials by name.
fn redact(json: &mut Json) {
    match json {
        Json::Object(entries) => {
            for (key, value) in entries {
                match is_credential(key) {
                    true => *value = json!(REDACTED),
                    false => redact(value),
                }
            }
        }
        Json::Array(values) => values.iter_mut().for_each(redact),
        _ => {}
    }
}

fn is_credential(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    CREDENTIAL_NAMES.contains(&name.as_str()) || CREDENTIALS.iter().any(|part| name.contains(part))
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

#[cfg(test)]
mod tests;
