//! The addresses of all pods of a cluster, with and without a sidecar.

use std::net::IpAddr;

use outrigger_core::Name;

use super::address_index::AddressIndex;

/// The pods that have an address; those with a sidecar by their keys.
#[derive(Debug, Clone)]
pub(super) struct PodIndex<K: Ord> {
    claims: AddressIndex<IpAddr, PodClaim<K>>,
    /// False on plain Linux, where there are no pods.
    in_cluster: bool,
}

/// A pod that has an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PodClaim<K> {
    Sidecar(K),
    /// Namespace and name of a pod without a sidecar.
    Plain(Name, Name),
    /// Namespace and name of a pod in the network of its node, whose address it shares.
    HostNetwork(Name, Name),
}

impl<K> PodClaim<K> {
    /// Returns the key of a pod with a sidecar.
    pub(super) fn sidecar(&self) -> Option<&K> {
        match self {
            Self::Sidecar(key) => Some(key),
            Self::Plain(..) | Self::HostNetwork(..) => None,
        }
    }
}

/// On plain Linux.
impl<K: Ord> Default for PodIndex<K> {
    fn default() -> Self {
        Self { claims: AddressIndex::default(), in_cluster: false }
    }
}

impl<K: Ord + Clone> PodIndex<K> {
    pub(super) fn of_cluster() -> Self {
        Self { claims: AddressIndex::default(), in_cluster: true }
    }

    /// Adds or removes an address of a pod.
    pub(super) fn set(&mut self, ip: IpAddr, claim: PodClaim<K>, present: bool) {
        match present {
            true => self.claims.insert(ip, claim),
            false => self.claims.remove(&ip, &claim),
        }
    }

    /// Returns the pods that have this address.
    pub(super) fn claims(&self, ip: &IpAddr) -> impl Iterator<Item = &PodClaim<K>> {
        self.claims.of(ip)
    }

    /// Returns true if there are pods.
    pub(super) fn in_cluster(&self) -> bool {
        self.in_cluster
    }

    /// Returns the addresses whose pods differ from those of an older version.
    pub(super) fn changes<'a>(&'a self, old: &'a Self) -> impl Iterator<Item = IpAddr> + 'a {
        self.claims.changes(&old.claims).copied()
    }
}
