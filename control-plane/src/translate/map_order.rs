//! Puts the map entries of encoded messages into one order.
//!
//! A `HashMap` iterates in a random order, so a message that has one is encoded to other bytes every time, while the version of a resource
//! is a hash of its bytes. Protobuf leaves the order of map entries open ("Map fields" of its language guide).

use std::ops::Range;
use std::sync::LazyLock;

use outrigger_proto::XDS_DESCRIPTORS;
use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};

static XDS: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(XDS_DESCRIPTORS).ok());

/// Sorts the entries of every map in the encoded message `name` (such as `envoy.config.route.v3.RouteConfiguration`) by their bytes, also in the
/// values of `Any`. Messages without a descriptor are left as they are.
pub(super) fn sort_maps(name: &str, bytes: &mut [u8]) {
    if let Some(message) = XDS.as_ref().and_then(|xds| xds.get_message_by_name(name)) {
        sort(&message, bytes);
    }
}

/// Sorts what is within one message. Stops at bytes that are no field.
fn sort(message: &MessageDescriptor, bytes: &mut [u8]) {
    if message.full_name() == "google.protobuf.Any" {
        return sort_any(bytes);
    }
    let mut entries = Entries::default();
    let mut at = 0;
    while let Some(field) = Field::at(bytes, at) {
        at = field.whole.end;
        let descriptor = message.get_field(field.number);
        let nested = descriptor.as_ref().map(prost_reflect::FieldDescriptor::kind);
        if let (Some(Kind::Message(nested)), Some(content)) = (nested, field.content) {
            sort(&nested, &mut bytes[content]);
        }
        match descriptor.is_some_and(|descriptor| descriptor.is_map()) {
            true => entries.push(bytes, field.number, field.whole),
            false => entries.finish(bytes),
        }
    }
    entries.finish(bytes);
}

/// An `Any`: field 1 is the URL of the type, field 2 the message.
fn sort_any(bytes: &mut [u8]) {
    let (mut name, mut value) = (String::new(), None);
    let mut at = 0;
    while let Some(field) = Field::at(bytes, at) {
        at = field.whole.end;
        match (field.number, field.content) {
            (1, Some(content)) => {
                let url = String::from_utf8_lossy(&bytes[content]);
                name = url.rsplit('/').next().unwrap_or_default().to_owned();
            }
            (2, content) => value = content,
            _ => {}
        }
    }
    if let Some(value) = value {
        sort_maps(&name, &mut bytes[value]);
    }
}

/// The entries of one map, which an encoder writes one after the other.
#[derive(Default)]
struct Entries {
    number: u32,
    found: Vec<Range<usize>>,
}

impl Entries {
    fn push(&mut self, bytes: &mut [u8], number: u32, entry: Range<usize>) {
        if self.number != number {
            self.finish(bytes);
            self.number = number;
        }
        self.found.push(entry);
    }

    fn finish(&mut self, bytes: &mut [u8]) {
        if let [first, .., last] = &self.found[..] {
            let all = first.start..last.end;
            let mut sorted: Vec<&[u8]> = self.found.iter().map(|entry| &bytes[entry.clone()]).collect();
            sorted.sort_unstable();
            let sorted = sorted.concat();
            bytes[all].copy_from_slice(&sorted);
        }
        self.found.clear();
    }
}

/// Where a field is in the bytes of its message.
struct Field {
    number: u32,
    whole: Range<usize>,
    /// The content of one that is length-delimited.
    content: Option<Range<usize>>,
}

impl Field {
    /// Returns the field that begins at `start`, or None if the message ends there.
    fn at(bytes: &[u8], start: usize) -> Option<Self> {
        let mut rest = bytes.get(start..).filter(|rest| !rest.is_empty())?;
        let key = prost::encoding::decode_varint(&mut rest).ok()?;
        let begin = |rest: &[u8]| bytes.len() - rest.len();
        let (end, content) = match key & 7 {
            0 => {
                prost::encoding::decode_varint(&mut rest).ok()?;
                (begin(rest), None)
            }
            1 => (begin(rest) + 8, None),
            2 => {
                let length = usize::try_from(prost::encoding::decode_varint(&mut rest).ok()?).ok()?;
                let end = begin(rest).checked_add(length)?;
                (end, Some(begin(rest)..end))
            }
            5 => (begin(rest) + 4, None),
            _ => return None,
        };
        let number = u32::try_from(key >> 3).ok()?;
        (end <= bytes.len()).then_some(Self { number, whole: start..end, content })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use outrigger_proto::xds::core::Metadata;
    use outrigger_proto::xds::protobuf::{Any, Struct, Value, value};
    use outrigger_proto::xds::route::{Route, RouteConfiguration, VirtualHost};
    use prost::Message;

    use super::*;

    const NAMES: [&str; 6] = ["c", "a", "f", "b", "e", "d"];

    /// Creates the route with new maps, so that their entries have another order.
    fn configuration() -> RouteConfiguration {
        let text = |name: &str| Value { kind: Some(value::Kind::StringValue(name.into())) };
        let fields: HashMap<_, _> = NAMES.iter().map(|name| ((*name).into(), text(name))).collect();
        let metadata =
            Metadata { filter_metadata: [("x".into(), Struct { fields })].into(), ..Default::default() };
        let type_url = "type.googleapis.com/envoy.config.core.v3.Metadata".to_owned();
        let any = |name: &&str| {
            ((*name).into(), Any { type_url: type_url.clone(), value: metadata.encode_to_vec() })
        };
        let route = Route {
            name: "route".into(),
            typed_per_filter_config: NAMES.iter().map(any).collect(),
            ..Default::default()
        };
        let host =
            VirtualHost { name: "host".into(), routes: vec![route.clone(), route], ..Default::default() };
        RouteConfiguration { name: "routes".into(), virtual_hosts: vec![host], ..Default::default() }
    }

    fn sorted(configuration: &RouteConfiguration) -> Vec<u8> {
        let mut bytes = configuration.encode_to_vec();
        sort_maps("envoy.config.route.v3.RouteConfiguration", &mut bytes);
        bytes
    }

    #[test]
    fn maps_are_encoded_to_the_same_bytes_every_time() {
        let first = sorted(&configuration());
        for _ in 0..10 {
            let other = configuration();
            assert_eq!(sorted(&other), first);
        }
        let decoded = RouteConfiguration::decode(&first[..]).unwrap();
        let route = &decoded.virtual_hosts[0].routes[1];
        assert_eq!((route.name.as_str(), route.typed_per_filter_config.len()), ("route", NAMES.len()));
        let metadata = Metadata::decode(&route.typed_per_filter_config["a"].value[..]).unwrap();
        assert_eq!(metadata.filter_metadata["x"].fields.len(), NAMES.len());
    }

    #[test]
    fn bytes_that_are_no_message_stay_as_they_are() {
        for foreign in
            [&b"\xff\xff"[..], b"\x0a\x7f", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0f"]
        {
            let mut bytes = foreign.to_vec();
            sort_maps("envoy.config.route.v3.RouteConfiguration", &mut bytes);
            assert_eq!(bytes, foreign);
        }
    }
}
