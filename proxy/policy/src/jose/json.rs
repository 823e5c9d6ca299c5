//! JSON objects in which no name occurs twice.
//!
//! Programs read a duplicate differently, so that one of them could check a value that another does not use (RFC 7519 section 4, RFC 8725
//! section 2.4). RFC 7515 section 4 lets a reader refuse it. Depth is bounded by `serde_json` (128 levels).

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Reads one object. Returns an error for anything else and for an object with duplicates, at any depth.
pub(super) fn object(bytes: &[u8]) -> Result<Map<String, Value>, serde_json::Error> {
    match serde_json::from_slice(bytes)? {
        Strict(Value::Object(members)) => Ok(members),
        Strict(_) => Err(Error::custom("not an object")),
    }
}

/// A value in which no object has duplicates.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(Strict(element)) = from.next_element()? {
            elements.push(element);
        }
        Ok(Value::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some((name, Strict(value))) = from.next_entry::<String, Strict>()? {
            if members.contains_key(&name) {
                return Err(A::Error::custom(format_args!("the name {name:?} occurs twice")));
            }
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_serde_json_reads_them() {
        let text = r#"{"a":[1,-1,1.5,null,true,"x\n"],"b":{"a":18446744073709551615}}"#;
        let plain: Value = serde_json::from_str(text).unwrap();
        assert_eq!(Value::Object(object(text.as_bytes()).unwrap()), plain);
    }

    #[test]
    fn what_programs_read_differently_is_refused() {
        for (text, why) in [
            (r#"{"a":1,"a":2}"#, "the name \"a\" occurs twice"),
            (r#"{"a":1,"\u0061":2}"#, "the name \"a\" occurs twice"),
            (r#"{"b":[{"a":1,"a":2}]}"#, "the name \"a\" occurs twice"),
            ("[]", "not an object"),
            ("{} {}", "trailing characters"),
            ("{\"a\":1", "EOF"),
            ("<html>", "expected value"),
        ] {
            let bad = object(text.as_bytes()).unwrap_err().to_string();
            assert!(bad.contains(why), "{text}: {bad}");
        }
        let deep = [r#"{"a":"#.repeat(1000), "1".into(), "}".repeat(1000)].concat();
        assert!(object(deep.as_bytes()).unwrap_err().to_string().contains("recursion limit"));
        assert!(object(b"{\"a\":\"\xff\"}").is_err());
    }
}
