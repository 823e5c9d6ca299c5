//! Strict decoding: every error has a path, and unknown fields are errors.

use std::fmt::Display;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error, IntoDeserializer, Visitor};
use serde::{Serialize, forward_to_deserialize_any};
use serde_json::Value;

use crate::model::diagnostic::Problem;
use crate::model::similar::did_you_mean;

/// Separates the field from the reason in the text of an error, since serde's errors cannot carry a path.
const FIELD_END: char = '\u{1f}';

/// Returns the text of an error about a field of the value that is decoded: an error of `path.value` is found once `path` is
/// decoded as a whole. `field` may be a path itself.
pub(super) fn at(field: impl Display, reason: impl Display) -> String {
    format!("{field}{FIELD_END}{reason}")
}

/// Decodes a value whose types refuse unknown fields themselves. `root` is the path of the value.
pub(super) fn parse<T: DeserializeOwned>(value: &Value, root: &str) -> Result<T, Problem> {
    serde_path_to_error::deserialize(Strict(value)).map_err(|error| {
        let path = match error.path().to_string().as_str() {
            "." => root.to_owned(),
            path if root.is_empty() => path.to_owned(),
            path if path.starts_with('[') => format!("{root}{path}"),
            path => format!("{root}.{path}"),
        };
        let text = error.into_inner().to_string();
        match text.rsplit_once(FIELD_END) {
            None => problem(path, &text),
            Some((field, reason)) => {
                let field = field.replace(FIELD_END, ".");
                let dot = if path.is_empty() { "" } else { "." };
                Problem::new(format!("{path}{dot}{field}"), reason)
            }
        }
    })
}

/// Makes a problem of serde's message. The names that serde expects become the next step.
fn problem(path: String, text: &str) -> Problem {
    let unknown = |what: &str, all: &str| {
        let (name, expected) = text.strip_prefix(what)?.strip_prefix(" `")?.split_once("`, expected ")?;
        let expected: Vec<_> = expected.split('`').skip(1).step_by(2).collect();
        let known = || format!("{all} are {}", expected.join(", "));
        Some((name, did_you_mean(name, expected.iter().copied()).unwrap_or_else(known)))
    };
    if let Some((_, help)) = unknown("unknown field", "the fields") {
        return Problem::new(path, "unknown field").help(help);
    }
    if let Some((name, help)) = unknown("unknown variant", "the values") {
        return Problem::new(path, format!("unknown value {name:?}")).help(help);
    }
    match text.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected ")) {
        Some((given, expected)) => {
            let expected = match expected {
                "i32" | "i64" | "u16" | "u32" => "an integer",
                "a sequence" => "a list",
                expected => expected,
            };
            Problem::new(path, format!("invalid type: {given}, expected {expected}"))
        }
        None => Problem::new(path, text),
    }
}

/// A value that is read as a struct only if it is an object. serde's derived types also accept a list of the fields'
/// values in order, which no API server does.
#[derive(Clone, Copy)]
struct Strict<'de>(&'de Value);

impl<'de> Deserializer<'de> for Strict<'de> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Array(items) => SeqDeserializer::new(items.iter().map(Strict)).deserialize_any(visitor),
            Value::Object(fields) => {
                let fields = fields.iter().map(|(name, value)| (name.as_str(), Strict(value)));
                MapDeserializer::new(fields).deserialize_any(visitor)
            }
            scalar => scalar.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Object(_) => self.deserialize_any(visitor),
            _ => Err(Error::custom("is not an object")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, serde_json::Error> for Strict<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// Decodes a value with the types of k8s-openapi, which ignore unknown fields: a field is unknown if it is missing when the
/// result is encoded again.
pub(super) fn decode<T: DeserializeOwned + Serialize>(value: &Value) -> Result<T, Problem> {
    decode_at(value, "")
}

/// Like [`decode`], for a value inside a document.
pub(super) fn decode_at<T: DeserializeOwned + Serialize>(value: &Value, root: &str) -> Result<T, Problem> {
    let decoded = parse(value, root)?;
    let again = serde_json::to_value(&decoded).map_err(|error| Problem::new(root, error.to_string()))?;
    match unknown_field(value, &again) {
        None => Ok(decoded),
        Some(path) => {
            let path = path.trim_start_matches('.');
            let dot = if root.is_empty() { "" } else { "." };
            Err(Problem::new(format!("{root}{dot}{path}"), "unknown field"))
        }
    }
}

/// The path of the first field of `given` that `kept` does not have.
fn unknown_field(given: &Value, kept: &Value) -> Option<String> {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => given.iter().find_map(|(name, value)| {
            let Some(kept) = kept.get(name) else { return Some(format!(".{name}")) };
            unknown_field(value, kept).map(|rest| format!(".{name}{rest}"))
        }),
        (Value::Array(given), Value::Array(kept)) => {
            given.iter().zip(kept).enumerate().find_map(|(at, (given, kept))| {
                unknown_field(given, kept).map(|rest| format!("[{at}]{rest}"))
            })
        }
        _ => None,
    }
}

/// Removes fields that are null: an API server treats them as absent.
pub(super) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
