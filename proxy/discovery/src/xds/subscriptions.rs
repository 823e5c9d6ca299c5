//! Computes the wanted names of each kind: the requested destinations, and everything they refer to.
//!
//! In on-demand mode a demand leads to a listener, its routes, their clusters and their endpoints; names that no such chain
//! reaches are not subscribed. In wildcard mode the server chooses listeners and clusters. Inbound listeners come under LDS's
//! wildcard in both modes.

use std::collections::BTreeSet;

use outrigger_config::compiled::Compiled;
use outrigger_config::resources::Resources;
use outrigger_core::Name;
use outrigger_proto::kind::{Kind, PerKind};
use outrigger_proto::xds::node;

use crate::xds::stream::WILDCARD;

/// How destinations are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// By the data path, one destination at a time. Memory does not grow with the mesh.
    #[default]
    OnDemand,
    /// By the server: every destination that is visible to the workload's namespace.
    Wildcard,
}

impl Mode {
    /// Returns the node metadata value of `OUTRIGGER_MODE`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::OnDemand => node::ON_DEMAND,
            Self::Wildcard => node::WILDCARD,
        }
    }
}

/// Returns the wanted names, given the requested destinations and the accepted resources. References of `published`, which traffic
/// uses, stay wanted until a successor is warm.
pub(crate) fn wanted(
    mode: Mode,
    destinations: &BTreeSet<Name>,
    accepted: &Resources,
    published: &Resources,
) -> PerKind<BTreeSet<String>> {
    let mut wanted: PerKind<BTreeSet<String>> = PerKind::default();
    wanted[Kind::Listener] = destinations.iter().map(Name::to_string).collect();
    wanted[Kind::Listener].insert(WILDCARD.to_owned());
    if mode == Mode::Wildcard {
        wanted[Kind::Cluster].insert(WILDCARD.to_owned());
    }
    for listener in both(accepted, published, Kind::Listener, |name, listener| {
        mode == Mode::Wildcard || !listener.is_destination() || destinations.contains(name)
    }) {
        add(mode, &mut wanted, listener);
    }
    let routes = std::mem::take(&mut wanted[Kind::Route]);
    for route in both(accepted, published, Kind::Route, |name, _| routes.contains(&**name)) {
        add(mode, &mut wanted, route);
    }
    wanted[Kind::Route] = routes;
    let clusters = std::mem::take(&mut wanted[Kind::Cluster]);
    let every = mode == Mode::Wildcard;
    for cluster in both(accepted, published, Kind::Cluster, |name, _| every || clusters.contains(&**name)) {
        add(mode, &mut wanted, cluster);
    }
    wanted[Kind::Cluster] = clusters;
    wanted
}

fn both<'a>(
    accepted: &'a Resources,
    published: &'a Resources,
    kind: Kind,
    wanted: impl Fn(&Name, &Compiled) -> bool,
) -> impl Iterator<Item = &'a Compiled> {
    let all = accepted.of(kind).iter().chain(published.of(kind));
    all.filter(move |(name, resource)| wanted(name, resource)).map(|(_, resource)| &**resource)
}

/// Adds the references of a resource. In wildcard mode the server sends clusters without a subscription by name.
fn add(mode: Mode, wanted: &mut PerKind<BTreeSet<String>>, resource: &Compiled) {
    for (kind, name) in resource.references() {
        let by_name = kind != Kind::Cluster || mode == Mode::OnDemand;
        if by_name && !wanted[kind].contains(&**name) {
            wanted[kind].insert(name.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::xds;

    fn destinations<const N: usize>(names: [&str; N]) -> BTreeSet<Name> {
        names.into_iter().map(Into::into).collect()
    }

    fn names(names: &BTreeSet<String>) -> Vec<&str> {
        names.iter().map(String::as_str).collect()
    }

    fn shop() -> Resources {
        xds::resources([
            (Kind::Listener, "cart:80", xds::destination("cart:80", "cart")),
            (Kind::Listener, "stock:9000", xds::tcp_destination("stock:9000", "stock")),
            (Kind::Listener, "inbound|a", xds::inbound("inbound|a", "inbound|app")),
            (Kind::Route, "cart", xds::route("cart", &["v1", "v2"])),
            (Kind::Cluster, "v1", xds::cluster("v1")),
            (Kind::Cluster, "stock", xds::cluster("stock")),
            (Kind::Cluster, "inbound|app", xds::static_cluster("inbound|app")),
        ])
    }

    #[test]
    fn a_requested_destination_leads_to_everything_it_refers_to() {
        let none = Resources::default();
        let wanted = wanted(Mode::OnDemand, &destinations(["cart:80"]), &shop(), &none);
        assert_eq!(names(&wanted[Kind::Listener]), ["*", "cart:80"]);
        assert_eq!(names(&wanted[Kind::Route]), ["cart"]);
        assert_eq!(names(&wanted[Kind::Cluster]), ["inbound|app", "v1", "v2"]);
        assert_eq!(names(&wanted[Kind::Endpoints]), ["v1"], "v2 has not come yet");
    }

    #[test]
    fn unreferenced_resources_are_not_wanted() {
        let wanted = wanted(Mode::OnDemand, &destinations([]), &shop(), &Resources::default());
        assert_eq!(names(&wanted[Kind::Listener]), ["*"]);
        assert!(wanted[Kind::Route].is_empty() && wanted[Kind::Endpoints].is_empty());
        assert_eq!(names(&wanted[Kind::Cluster]), ["inbound|app"], "our own listener's");
    }

    #[test]
    fn what_traffic_still_uses_stays_wanted() {
        let published = shop();
        let next = xds::resources([
            (Kind::Listener, "cart:80", xds::destination("cart:80", "cart")),
            (Kind::Route, "cart", xds::route("cart", &["v3"])),
        ]);
        let wanted = wanted(Mode::OnDemand, &destinations(["cart:80"]), &next, &published);
        assert_eq!(names(&wanted[Kind::Cluster]), ["inbound|app", "v1", "v2", "v3"]);
        assert_eq!(names(&wanted[Kind::Endpoints]), ["v1"]);
    }

    #[test]
    fn in_wildcard_mode_the_server_chooses_listeners_and_clusters() {
        let wanted = wanted(Mode::Wildcard, &destinations(["cart:80"]), &shop(), &Resources::default());
        assert_eq!(names(&wanted[Kind::Listener]), ["*", "cart:80"]);
        assert_eq!(names(&wanted[Kind::Cluster]), ["*"]);
        assert_eq!(names(&wanted[Kind::Route]), ["cart"]);
        assert_eq!(names(&wanted[Kind::Endpoints]), ["stock", "v1"]);
    }
}
