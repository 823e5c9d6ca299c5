//! A message within a resource, and the effect on the resource of setting one of the message's fields.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_proto::xds::endpoint::lb_endpoint::HostIdentifier;
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::type_url;
use prost::Message;
use prost_reflect::{Cardinality, DynamicMessage, FieldDescriptor, Kind, MapKey, Value};

use super::descriptors::POOL;
use crate::fixture::*;

/// Embeds the encoded message in a resource. Returns the name of the resource and its body.
type Embed = Box<dyn Fn(&[u8]) -> (String, Any)>;

/// A message at one position in a resource.
pub struct Place {
    /// The title of its section: the message, and its position if that makes a difference.
    pub title: &'static str,
    /// The message's full name.
    pub message: &'static str,
    base: Vec<u8>,
    embed: Embed,
    /// Values to set instead of the made-up ones.
    probes: BTreeMap<&'static str, Vec<Vec<u8>>>,
    harmless: BTreeMap<&'static str, &'static str>,
    /// Fields that are refused as such, not because of a made-up value.
    refused: BTreeSet<&'static str>,
}

/// How a field is handled.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Honoured,
    /// Honoured, except for these values.
    HonouredBut(String),
    Refused,
    Harmless(&'static str),
    /// Harmless, except for values that are refused.
    HarmlessBut(&'static str, String),
}

/// The effect of one value.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Same,
    Differs,
    Refused(String),
}

impl Place {
    pub fn new<M: Message + Default + 'static>(
        title: &'static str,
        message: &'static str,
        base: M,
        embed: impl Fn(M) -> (String, Any) + 'static,
    ) -> Self {
        Self {
            title,
            message,
            base: base.encode_to_vec(),
            embed: Box::new(move |bytes| embed(M::decode(bytes).unwrap())),
            probes: BTreeMap::new(),
            harmless: BTreeMap::new(),
            refused: BTreeSet::new(),
        }
    }

    /// Adds a value to set.
    pub fn probe<M: Message + Default>(mut self, field: &'static str, set: impl Fn(&mut M)) -> Self {
        let mut message = M::decode(self.base.as_slice()).unwrap();
        set(&mut message);
        self.probes.entry(field).or_default().push(message.encode_to_vec());
        self
    }

    /// Adds fields that change nothing, and the reason why that is harmless.
    pub fn harmless(mut self, why: &'static str, fields: &[&'static str]) -> Self {
        self.harmless.extend(fields.iter().map(|field| (*field, why)));
        self
    }

    /// Adds fields that are refused with a reason other than "is not supported".
    pub fn refuses(mut self, fields: &[&'static str]) -> Self {
        self.refused.extend(fields);
        self
    }

    /// Returns every field with its verdict, or with an error.
    pub fn rows(&self) -> Vec<(FieldDescriptor, Result<Verdict, String>)> {
        let message = POOL.get_message_by_name(self.message).unwrap_or_else(|| panic!("no {}", self.message));
        let base = self.accepted(&self.base).unwrap_or_else(|refused| panic!("{}: {refused}", self.title));
        assert_eq!(Ok(&base), self.accepted(&self.base).as_ref(), "{} is not read twice alike", self.title);
        let unknown = self.harmless.keys().chain(self.probes.keys()).chain(&self.refused);
        for field in unknown {
            assert!(message.get_field_by_name(field).is_some(), "{} has no field {field}", self.title);
        }
        message.fields().map(|field| (field.clone(), self.verdict(&field, &base))).collect()
    }

    fn accepted(&self, bytes: &[u8]) -> Result<String, String> {
        let (name, body) = (self.embed)(bytes);
        let mut builder = Mesh::default();
        let kind = body.type_url.clone();
        if kind == type_url::CLUSTER_LOAD_ASSIGNMENT {
            let mut cluster = super::clusters::by_locality();
            cluster.name.clone_from(&name);
            accept(&mut builder, &name, "1", cluster_body(cluster));
        }
        if let Some(refused) = apply(&mut builder, &name, "1", body) {
            return Err(refused.to_string());
        }
        if kind == type_url::CLUSTER {
            let mut wire = assignment(&name, &["10.0.0.7:8080"]);
            wire.endpoints[0].load_balancing_weight = number(3);
            if let Some(HostIdentifier::Endpoint(of)) = &mut wire.endpoints[0].lb_endpoints[0].host_identifier
            {
                of.hostname = "cart-0".into();
            }
            accept(&mut builder, &name, "1", packed(type_url::CLUSTER_LOAD_ASSIGNMENT, &wire));
        }
        Ok(format!("{:?}", build(&mut builder)))
    }

    /// Returns false if a `BoolValue` is refused whatever its value is. One of the two values is the default, and a server may send
    /// every default.
    fn takes_a_default(&self, field: &FieldDescriptor) -> bool {
        let is_flag =
            matches!(field.kind(), Kind::Message(of) if of.full_name() == "google.protobuf.BoolValue");
        if !is_flag || field.is_list() || field.containing_oneof().is_some() {
            return true;
        }
        let message = POOL.get_message_by_name(self.message).unwrap();
        let mut with = DynamicMessage::decode(message, self.base.as_slice()).unwrap();
        [false, true].into_iter().any(|value| {
            let Kind::Message(of) = field.kind() else { return false };
            let mut flag = DynamicMessage::new(of);
            flag.set_field_by_name("value", Value::Bool(value));
            with.set_field(field, Value::Message(flag));
            self.accepted(&with.encode_to_vec()).is_ok()
        })
    }

    fn verdict(&self, field: &FieldDescriptor, base: &str) -> Result<Verdict, String> {
        if !self.takes_a_default(field) {
            return Err("is refused whatever it says".into());
        }
        let mut outcomes = Vec::new();
        for (label, bytes, cleared) in self.values(field) {
            let outcome = match self.accepted(&bytes) {
                Ok(same) if same == base => Outcome::Same,
                Ok(_) => Outcome::Differs,
                // Its absence is refused, so the field is read.
                Err(_) if cleared => Outcome::Differs,
                Err(text) => {
                    if !text.contains(field.name()) {
                        return Err(format!("the refusal does not name it: {text}"));
                    }
                    if !text.contains("not supported") && !self.refused.contains(field.name()) {
                        return Err(format!("needs a better value: {text}"));
                    }
                    Outcome::Refused(text)
                }
            };
            outcomes.push((label, outcome));
        }
        let of = |wanted: fn(&Outcome) -> bool| {
            let labels =
                outcomes.iter().filter(move |(_, outcome)| wanted(outcome)).map(|(label, _)| label.as_str());
            labels.collect::<Vec<_>>().join(", ")
        };
        let any = |wanted: fn(&Outcome) -> bool| outcomes.iter().any(|(_, outcome)| wanted(outcome));
        let refused = |outcome: &Outcome| matches!(outcome, Outcome::Refused(_));
        let reason = self.harmless.get(field.name()).copied();
        match (any(|o| *o == Outcome::Differs), any(refused), any(|o| *o == Outcome::Same)) {
            (true, false, false) if reason.is_none() => Ok(Verdict::Honoured),
            (true, true, false) if reason.is_none() => {
                Ok(Verdict::HonouredBut(format!("{} refused", of(refused))))
            }
            (false, true, false) if reason.is_none() => Ok(Verdict::Refused),
            (false, false, true) => {
                reason.map(Verdict::Harmless).ok_or("changes nothing, and nobody says why".into())
            }
            (false, true, true) => {
                let refused = format!("{} refused", of(refused));
                reason
                    .map(|why| Verdict::HarmlessBut(why, refused))
                    .ok_or("some values change nothing".into())
            }
            (true, _, true) => {
                let same = of(|outcome| *outcome == Outcome::Same);
                let why = reason.ok_or_else(|| format!("{same} change nothing, and nobody says why"))?;
                Ok(Verdict::HonouredBut(format!("{same} {why}")))
            }
            _ => Err(format!("is said to be harmless ({reason:?}), but is {outcomes:?}")),
        }
    }

    /// Returns the values to set: a label, the encoded message, and true if the field is cleared instead.
    fn values(&self, field: &FieldDescriptor) -> Vec<(String, Vec<u8>, bool)> {
        if let Some(probes) = self.probes.get(field.name()) {
            return probes.iter().map(|bytes| ("a value".into(), bytes.clone(), false)).collect();
        }
        let message = POOL.get_message_by_name(self.message).unwrap();
        let base = DynamicMessage::decode(message, self.base.as_slice()).unwrap();
        let structured = field.is_list() || field.is_map() || matches!(field.kind(), Kind::Message(_));
        if structured && base.has_field(field) {
            let mut without = base;
            without.clear_field(field);
            return vec![("absence".into(), without.encode_to_vec(), true)];
        }
        made_up(field, &base)
            .into_iter()
            .map(|(label, value)| {
                let mut with = base.clone();
                with.set_field(field, value);
                (label, with.encode_to_vec(), false)
            })
            .collect()
    }
}

/// Returns made-up values of a field.
fn made_up(field: &FieldDescriptor, base: &DynamicMessage) -> Vec<(String, Value)> {
    let one = |value: Value| match field.cardinality() {
        Cardinality::Repeated if !field.is_map() => Value::List(vec![value]),
        _ => value,
    };
    let plain = |value: Value| vec![("a value".to_owned(), one(value))];
    if field.is_map() {
        let Kind::Message(entry) = field.kind() else { unreachable!() };
        let value = match entry.map_entry_value_field().kind() {
            Kind::Message(of) => Value::Message(DynamicMessage::new(of)),
            _ => Value::String("probe".into()),
        };
        let map = [(MapKey::String("probe".into()), value)].into_iter().collect();
        return vec![("a value".into(), Value::Map(map))];
    }
    match field.kind() {
        Kind::Bool => plain(Value::Bool(base.get_field(field).as_bool() != Some(true))),
        Kind::String => plain(Value::String("probe".into())),
        Kind::Bytes => plain(Value::Bytes("probe".into())),
        Kind::Double => plain(Value::F64(7.0)),
        Kind::Float => plain(Value::F32(7.0)),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => plain(Value::I32(7)),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => plain(Value::I64(7)),
        Kind::Uint32 | Kind::Fixed32 => plain(Value::U32(7)),
        Kind::Uint64 | Kind::Fixed64 => plain(Value::U64(7)),
        Kind::Enum(of) => {
            let current = base.get_field(field).as_enum_number();
            let others = of.values().filter(|value| Some(value.number()) != current);
            others
                .map(|value| (format!("`{}`", value.name()), one(Value::EnumNumber(value.number()))))
                .collect()
        }
        Kind::Message(of) => {
            let mut message = DynamicMessage::new(of.clone());
            let inner = match of.full_name() {
                "google.protobuf.BoolValue" => Some(Value::Bool(true)),
                "google.protobuf.UInt32Value" => Some(Value::U32(7)),
                "google.protobuf.UInt64Value" => Some(Value::U64(7)),
                "google.protobuf.StringValue" => Some(Value::String("probe".into())),
                "google.protobuf.DoubleValue" => Some(Value::F64(7.0)),
                "google.protobuf.Duration" => {
                    message.set_field_by_name("seconds", Value::I64(7));
                    None
                }
                _ => None,
            };
            if let Some(value) = inner {
                message.set_field_by_name("value", value);
            }
            plain(Value::Message(message))
        }
    }
}
