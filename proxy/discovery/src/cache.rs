//! The accepted resources, raw and with their versions: in memory, and saved for a restart without a control plane.
//!
//! One file, written by the supervisor on a blocking thread some time after a change. It holds what the wire held, so
//! that a restart reads it through the same decode as a response; a file that is torn, foreign or of another format is
//! left aside, and the proxy waits for the control plane.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::BufMut;
use outrigger_core::Name;
use outrigger_core::identity::SpiffeId;
use outrigger_proto::xds::discovery::{DeltaDiscoveryResponse, Resource};
use outrigger_proto::xds::protobuf;
use prost::Message;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::kind::{Kind, PerKind};
use crate::references::References;
use crate::stream::Changed;

/// File in the state directory.
pub(crate) const FILE: &str = "xds-cache";
/// First bytes of the file, with the number of its format.
const MAGIC: &[u8] = b"outrigger-xds-cache 2\n";
/// Bytes of a SHA-256.
const DIGEST: usize = 32;

/// A resource that was accepted.
#[derive(Debug, PartialEq)]
pub(crate) struct Held {
    pub(crate) aliases: Vec<String>,
    pub(crate) version: String,
    pub(crate) body: protobuf::Any,
    pub(crate) references: References,
}

impl Held {
    /// Whether both say the same, whatever their versions: a version is the server's word, the content is what counts.
    pub(crate) fn same(self: &Arc<Self>, other: &Arc<Self>) -> bool {
        Arc::ptr_eq(self, other) || (self.body == other.body && self.aliases == other.aliases)
    }
}

/// All that was accepted, by kind and name. Cloning shares the resources.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cache {
    held: PerKind<BTreeMap<Name, Arc<Held>>>,
}

impl Cache {
    /// Puts an accepted resource in the place of its last version.
    pub(crate) fn insert(&mut self, kind: Kind, changed: Changed, references: References) {
        let Changed { name, aliases, version, body } = changed;
        self.held[kind].insert(name.into(), Arc::new(Held { aliases, version, body, references }));
    }

    /// Puts a resource that another cache holds.
    pub(crate) fn share(&mut self, kind: Kind, name: &Name, held: &Arc<Held>) {
        self.held[kind].insert(name.clone(), Arc::clone(held));
    }

    /// The server says that it does not exist.
    pub(crate) fn remove(&mut self, kind: Kind, name: &str) {
        self.held[kind].remove(name);
    }

    /// Forgets what is no longer wanted. Returns whether there was any.
    pub(crate) fn retain(&mut self, kind: Kind, wanted: impl Fn(&str, &Held) -> bool) -> bool {
        let before = self.held[kind].len();
        self.held[kind].retain(|name, held| wanted(name, held));
        self.held[kind].len() != before
    }

    pub(crate) fn of(&self, kind: Kind) -> &BTreeMap<Name, Arc<Held>> {
        &self.held[kind]
    }

    /// Whether a resource of this name is held.
    pub(crate) fn contains(&self, kind: Kind, name: &str) -> bool {
        self.held[kind].contains_key(name)
    }

    /// Whether this very version with this very content is held. The version alone proves nothing: a server may send new
    /// content under the old one.
    pub(crate) fn holds(&self, kind: Kind, changed: &Changed) -> bool {
        let Changed { name, aliases, version, body } = changed;
        self.held[kind]
            .get(name.as_str())
            .is_some_and(|held| held.version == *version && held.body == *body && held.aliases == *aliases)
    }

    /// What a reconnect tells the server, so that it sends only what differs.
    pub(crate) fn versions(&self, kind: Kind) -> HashMap<String, String> {
        self.held[kind].iter().map(|(name, held)| (name.to_string(), held.version.clone())).collect()
    }

    /// The file's bytes: magic, digest of the rest, whose configuration it is, and one length-delimited response for each
    /// kind.
    pub(crate) fn to_bytes(&self, owner: &Owner) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.put_bytes(0, DIGEST);
        bytes.extend(owner.0.encode_length_delimited_to_vec());
        for (kind, held) in self.held.iter() {
            let resources = held.iter().map(|(name, held)| Resource {
                name: name.to_string(),
                aliases: held.aliases.clone(),
                version: held.version.clone(),
                resource: Some(held.body.clone()),
                ..Default::default()
            });
            let message = DeltaDiscoveryResponse {
                type_url: kind.type_url().into(),
                resources: resources.collect(),
                ..Default::default()
            };
            bytes.extend(message.encode_length_delimited_to_vec());
        }
        let (head, payload) = bytes.split_at_mut(MAGIC.len() + DIGEST);
        head[MAGIC.len()..].copy_from_slice(&Sha256::digest(payload));
        bytes
    }
}

/// Whose configuration it is: the workload's identity and its mode. What a name means and what is served inbound
/// depends on both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner(String);

impl Owner {
    /// Of a workload whose certificate names `identity`; nobody in particular where there is none yet.
    pub(crate) fn new(identity: Option<&SpiffeId>, mode: &str) -> Self {
        Self(format!("{mode} {}", identity.map_or("", |identity| identity.as_str())))
    }

    /// Whether one may use what the other saved: an identity that is not known is no other's.
    fn fits(&self, saved: &Self) -> bool {
        let unknown = |owner: &Self| owner.0.ends_with(' ');
        let mode = |owner: &Self| owner.0.split(' ').next().map(str::to_owned);
        self == saved || ((unknown(self) || unknown(saved)) && mode(self) == mode(saved))
    }
}

/// Reads a saved file: responses as a server would send them, none of them judged yet.
pub(crate) fn responses(bytes: &[u8], owner: &Owner) -> Result<Vec<DeltaDiscoveryResponse>, CacheError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(CacheError::Foreign)?;
    let (digest, mut payload) = rest.split_at_checked(DIGEST).ok_or(CacheError::Torn)?;
    if Sha256::digest(payload).as_slice() != digest {
        return Err(CacheError::Torn);
    }
    let saved = String::decode_length_delimited(&mut payload).map_err(|_| CacheError::Torn)?;
    if !owner.fits(&Owner(saved)) {
        return Err(CacheError::OfAnother);
    }
    let mut messages = Vec::new();
    while !payload.is_empty() {
        let message = DeltaDiscoveryResponse::decode_length_delimited(&mut payload);
        messages.push(message.map_err(|_| CacheError::Torn)?);
    }
    Ok(messages)
}

/// Why a saved file is left aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum CacheError {
    #[error("not a cache of this version")]
    Foreign,
    #[error("torn or changed: its digest does not fit")]
    Torn,
    #[error("of another workload or mode")]
    OfAnother,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::xds;

    fn cache() -> Cache {
        let mut cache = Cache::default();
        for (kind, name, body) in [
            (Kind::Cluster, "cart", xds::cluster("cart")),
            (Kind::Listener, "cart:80", xds::destination("cart:80", "cart")),
            (Kind::Route, "cart", xds::route("cart", &["cart"])),
        ] {
            let references = References::of(kind, &body);
            let changed = Changed { name: name.into(), aliases: vec!["a".into()], version: "7".into(), body };
            cache.insert(kind, changed, references);
        }
        cache
    }

    fn identity(account: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/{account}")).unwrap()
    }

    fn owner() -> Owner {
        Owner::new(Some(&identity("cart")), "on-demand")
    }

    #[test]
    fn what_another_workload_saved_is_left_aside() {
        let saved = cache().to_bytes(&owner());
        for (identity, mode, usable) in [
            (Some(identity("cart")), "on-demand", true),
            (None, "on-demand", true),
            (Some(identity("web")), "on-demand", false),
            (Some(identity("cart")), "wildcard", false),
            (None, "wildcard", false),
        ] {
            let read = responses(&saved, &Owner::new(identity.as_ref(), mode));
            assert_eq!(read.is_ok(), usable, "{identity:?} {mode:?}: {:?}", read.err());
        }
    }

    #[test]
    fn what_is_saved_comes_back_as_it_was() {
        let (saved, mut again) = (cache(), Cache::default());
        for message in responses(&saved.to_bytes(&owner()), &owner()).unwrap() {
            let kind = Kind::of_type_url(&message.type_url).unwrap();
            for Resource { name, aliases, version, resource, .. } in message.resources {
                let body = resource.unwrap();
                let references = References::of(kind, &body);
                again.insert(kind, Changed { name, aliases, version, body }, references);
            }
        }
        for kind in Kind::ALL {
            assert_eq!(again.of(kind), saved.of(kind));
        }
    }

    #[test]
    fn a_torn_or_foreign_file_is_left_aside() {
        let bytes = cache().to_bytes(&owner());
        for end in 0..bytes.len() {
            assert!(responses(&bytes[..end], &owner()).is_err(), "cut at {end}");
        }
        for at in (0..bytes.len()).step_by(7) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(responses(&changed, &owner()).is_err(), "changed at {at}");
        }
        assert_eq!(responses(b"", &owner()), Err(CacheError::Foreign));
    }

    #[test]
    fn a_resource_is_held_by_its_content_and_not_by_its_version_alone() {
        let cache = cache();
        let again = |version: &str, alias: &str, body| Changed {
            name: "cart".into(),
            aliases: vec![alias.into()],
            version: version.into(),
            body,
        };
        assert!(cache.holds(Kind::Cluster, &again("7", "a", xds::cluster("cart"))));
        assert!(!cache.holds(Kind::Cluster, &again("7", "a", xds::static_cluster("cart"))));
        assert!(!cache.holds(Kind::Cluster, &again("7", "b", xds::cluster("cart"))));
        assert!(!cache.holds(Kind::Cluster, &again("8", "a", xds::cluster("cart"))));
    }
}
