//! Encoded resources, with the hash of their content as version.
//!
//! A resource is encoded once and shared by all streams that send it. The version is the same on every replica and after
//! every restart, so that a proxy that reconnects is not sent what it already has.

use std::fmt;
use std::sync::Arc;

use outrigger_core::Name;
pub use outrigger_proto::kind::Kind;
use outrigger_proto::xds::protobuf::Any;
use prost::Message;
use sha2::{Digest, Sha256};

use super::map_order::sort_maps;

/// The first 8 bytes of the SHA-256 of an encoded resource, displayed as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(u64);

impl Version {
    /// Returns the version of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let digest = Sha256::digest(bytes);
        Self(digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// Parses what [`fmt::Display`] wrote. Returns None for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let ours = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        ours.then(|| u64::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An encoded resource.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its name, as the client requested it.
    pub name: Name,
    /// The hash of its content.
    pub version: Version,
    /// Its kind.
    pub kind: Kind,
    /// Other names of the resource (`Resource.aliases`).
    pub aliases: Vec<Name>,
    bytes: Vec<u8>,
}

impl Resource {
    /// Encodes a message.
    pub fn new(kind: Kind, name: &str, message: &impl Message) -> Arc<Self> {
        Self::with_aliases(kind, name, message, Vec::new())
    }

    /// Encodes a message with aliases. They are part of the version, so that a change of them is sent.
    pub fn with_aliases(kind: Kind, name: &str, message: &impl Message, aliases: Vec<Name>) -> Arc<Self> {
        let mut bytes = message.encode_to_vec();
        // The others have no map with more than one entry.
        if let Kind::Listener | Kind::Route = kind {
            let name = kind.type_url().rsplit('/').next().unwrap_or_default();
            sort_maps(name, &mut bytes);
        }
        let mut content = bytes.clone();
        aliases.iter().for_each(|alias| content.extend_from_slice(alias.as_bytes()));
        Arc::new(Self { name: name.into(), version: Version::of(&content), kind, aliases, bytes })
    }

    /// Returns the resource as it is in a response.
    pub fn to_any(&self) -> Any {
        Any { type_url: self.kind.type_url().into(), value: self.bytes.clone() }
    }

    /// Returns the size of the encoded message, in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Decodes the message, for tests.
    #[cfg(test)]
    pub(crate) fn decode<M: Message + Default>(&self) -> M {
        M::decode(self.bytes.as_slice()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_survives_the_wire_and_nothing_else_is_one() {
        let version = Version::of(b"bytes");
        assert_eq!(Version::parse(&version.to_string()), Some(version));
        for foreign in ["", "1", "0123456789ABCDEF", "+123456789abcdef", "0123456789abcdef0"] {
            assert_eq!(Version::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn other_aliases_are_another_version() {
        let made = |aliases: &[&str]| {
            let aliases = aliases.iter().map(|alias| Name::from(*alias)).collect();
            Resource::with_aliases(Kind::Listener, "a", &String::from("x"), aliases).version
        };
        assert_eq!(made(&[]), Resource::new(Kind::Listener, "a", &String::from("x")).version);
        assert_ne!(made(&[]), made(&["10.0.0.1:80"]));
    }
}
