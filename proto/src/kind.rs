//! The four xDS resource types that the control plane serves and a proxy subscribes to, as a closed set.
//!
//! They are in push order for additions (make before break; xDS protocol, "Eventual consistency considerations").
//! Removals go in the opposite order.

use std::fmt;

use crate::xds::type_url;

/// A resource type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// CDS: `envoy.config.cluster.v3.Cluster`.
    Cluster,
    /// EDS: `envoy.config.endpoint.v3.ClusterLoadAssignment`.
    Endpoints,
    /// LDS: `envoy.config.listener.v3.Listener`.
    Listener,
    /// RDS: `envoy.config.route.v3.RouteConfiguration`.
    Route,
}

impl Kind {
    /// Every kind, in push order.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Endpoints, Self::Listener, Self::Route];

    /// Returns the type URL of the resources and of their discovery requests.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => type_url::CLUSTER,
            Self::Endpoints => type_url::CLUSTER_LOAD_ASSIGNMENT,
            Self::Listener => type_url::LISTENER,
            Self::Route => type_url::ROUTE_CONFIGURATION,
        }
    }

    /// Returns the kind with this type URL, or `None` if it is none of them.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// Returns the short name of its discovery service.
    pub fn service(self) -> &'static str {
        match self {
            Self::Cluster => "cds",
            Self::Endpoints => "eds",
            Self::Listener => "lds",
            Self::Route => "rds",
        }
    }

    /// Returns true if a client can subscribe to all resources of this kind with `*`: the protocol defines that for LDS and CDS.
    pub fn has_wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "cluster",
            Self::Endpoints => "endpoints",
            Self::Listener => "listener",
            Self::Route => "route",
        })
    }
}

/// One value per kind.
#[derive(Debug, Clone, Default)]
pub struct PerKind<T>([T; 4]);

impl<T> PerKind<T> {
    /// Creates each value from its kind.
    pub fn from_fn(make: impl Fn(Kind) -> T) -> Self {
        Self(Kind::ALL.map(make))
    }

    /// Iterates over the values with their kinds, in push order.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &T)> {
        Kind::ALL.into_iter().zip(&self.0)
    }

    /// Iterates over the values, in push order.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut()
    }
}

impl<T> std::ops::Index<Kind> for PerKind<T> {
    type Output = T;
    fn index(&self, kind: Kind) -> &T {
        &self.0[kind as usize]
    }
}

impl<T> std::ops::IndexMut<Kind> for PerKind<T> {
    fn index_mut(&mut self, kind: Kind) -> &mut T {
        &mut self.0[kind as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_url_names_the_kind_that_has_it() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_type_url(kind.type_url()), Some(kind));
        }
        assert_eq!(Kind::from_type_url("type.googleapis.com/unknown"), None);
    }

    #[test]
    fn values_are_kept_by_kind() {
        let mut names = PerKind::from_fn(Kind::service);
        names[Kind::Route] = "routes";
        assert_eq!(Kind::ALL.map(|kind| names[kind]), ["cds", "eds", "lds", "routes"]);
    }
}
