//! The file of the published resources, for a restart without a control plane.
//!
//! Written by the supervisor, on a blocking thread, shortly after a change. It contains the resources as received, so that a
//! restart decodes them like a response. A file that is corrupt, of another workload or of another format is ignored, and the
//! proxy waits for the control plane.

use bytes::BufMut;
use outrigger_config::compiled::Raw;
use outrigger_config::resources::Resources;
use outrigger_core::Name;
use outrigger_core::identity::SpiffeId;
use outrigger_proto::kind::Kind;
use outrigger_proto::xds::discovery::{DeltaDiscoveryResponse, Resource};
use prost::Message;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Name of the file in the state directory.
pub(crate) const FILE: &str = "xds-cache";
/// First bytes of the file, including the format version.
const MAGIC: &[u8] = b"outrigger-xds-cache 2\n";
/// Size of a SHA-256 digest.
const DIGEST: usize = 32;

/// Encodes the file: magic, digest of the rest, owner, and one length-delimited response per kind.
pub(crate) fn to_bytes(resources: &Resources, owner: &Owner) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.put_bytes(0, DIGEST);
    bytes.extend(owner.0.encode_length_delimited_to_vec());
    for kind in Kind::ALL {
        let resources = resources.of(kind).values().map(|resource| {
            let Raw { name, aliases, version, body } = resource.raw();
            Resource {
                name: name.to_string(),
                aliases: aliases.iter().map(Name::to_string).collect(),
                version: version.clone(),
                resource: Some(body.clone()),
                ..Default::default()
            }
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

/// The workload's identity and mode that a configuration belongs to. Destinations and inbound listeners depend on both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner(String);

impl Owner {
    /// Returns the owner with this identity. None matches any identity.
    pub(crate) fn new(identity: Option<&SpiffeId>, mode: &str) -> Self {
        Self(format!("{mode} {}", identity.map_or("", |identity| identity.as_str())))
    }

    /// Returns true if the configuration that `saved` owns can be used. An unknown identity matches any.
    fn fits(&self, saved: &Self) -> bool {
        let unknown = |owner: &Self| owner.0.ends_with(' ');
        let mode = |owner: &Self| owner.0.split(' ').next().map(str::to_owned);
        self == saved || ((unknown(self) || unknown(saved)) && mode(self) == mode(saved))
    }
}

/// Decodes a saved file into responses, as a server would send them. They are not validated yet.
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

/// Why a saved file is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum CacheError {
    #[error("not a cache of this version")]
    Foreign,
    #[error("corrupt: its digest does not match")]
    Torn,
    #[error("of another workload or mode")]
    OfAnother,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::xds;

    fn resources() -> Resources {
        xds::resources([
            (Kind::Cluster, "cart", xds::cluster("cart")),
            (Kind::Listener, "cart:80", xds::destination("cart:80", "cart")),
            (Kind::Route, "cart", xds::route("cart", &["cart"])),
        ])
    }

    fn identity(account: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/{account}")).unwrap()
    }

    fn owner() -> Owner {
        Owner::new(Some(&identity("cart")), "on-demand")
    }

    #[test]
    fn a_file_of_another_workload_is_not_used() {
        let saved = to_bytes(&resources(), &owner());
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
    fn saved_resources_are_restored_unchanged() {
        let saved = resources();
        let mut again = Vec::new();
        for message in responses(&to_bytes(&saved, &owner()), &owner()).unwrap() {
            for Resource { name, aliases, version, resource, .. } in message.resources {
                let aliases = aliases.into_iter().map(Into::into).collect();
                again.push(Raw { name: name.into(), aliases, version, body: resource.unwrap() });
            }
        }
        let saved = Kind::ALL.into_iter().flat_map(|kind| saved.of(kind).values());
        assert_eq!(again, saved.map(|resource| resource.raw().clone()).collect::<Vec<_>>());
    }

    #[test]
    fn a_corrupt_or_foreign_file_is_not_used() {
        let bytes = to_bytes(&resources(), &owner());
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
}
