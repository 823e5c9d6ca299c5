//! Which names are wanted of each kind: the demands, and whatever they lead to.
//!
//! In on-demand mode a demand leads to a listener, that to its routes, those to their clusters, those to their endpoints;
//! what nothing leads to any more is no longer wanted. In wildcard mode the server chooses listeners and clusters. The
//! listeners that the proxy itself serves come under LDS's wildcard in both.

use std::collections::BTreeSet;

use outrigger_core::Name;

use crate::cache::{Cache, Held};
use crate::kind::{Kind, PerKind};
use crate::stream::WILDCARD;

/// Who chooses what the proxy gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The data path, destination by destination. Memory does not grow with the mesh.
    #[default]
    OnDemand,
    /// The server: every destination that the workload's namespace sees.
    Wildcard,
}

impl Mode {
    /// The node's metadata value for `OUTRIGGER_MODE`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::OnDemand => "on-demand",
            Self::Wildcard => "wildcard",
        }
    }
}

/// What is wanted, given the demands and what is held. `published` is what traffic uses at the moment, whose references
/// stay wanted until its successor is warm.
pub(crate) fn wanted(
    mode: Mode,
    demanded: &BTreeSet<Name>,
    accepted: &Cache,
    published: &Cache,
) -> PerKind<BTreeSet<String>> {
    let mut wanted: PerKind<BTreeSet<String>> = PerKind::default();
    wanted[Kind::Listener] = demanded.iter().map(Name::to_string).collect();
    wanted[Kind::Listener].insert(WILDCARD.to_owned());
    if mode == Mode::Wildcard {
        wanted[Kind::Cluster].insert(WILDCARD.to_owned());
    }
    for held in both(accepted, published, Kind::Listener, |name, held| {
        mode == Mode::Wildcard || !held.references.destination || demanded.contains(name)
    }) {
        add(&mut wanted[Kind::Route], &held.references.routes);
        add_clusters(mode, &mut wanted, held);
    }
    let routes = std::mem::take(&mut wanted[Kind::Route]);
    for held in both(accepted, published, Kind::Route, |name, _| routes.contains(&**name)) {
        add_clusters(mode, &mut wanted, held);
    }
    wanted[Kind::Route] = routes;
    let clusters = std::mem::take(&mut wanted[Kind::Cluster]);
    let every = mode == Mode::Wildcard;
    for held in both(accepted, published, Kind::Cluster, |name, _| every || clusters.contains(&**name)) {
        add(&mut wanted[Kind::Endpoints], held.references.endpoints.as_slice());
    }
    wanted[Kind::Cluster] = clusters;
    wanted
}

fn both<'a>(
    accepted: &'a Cache,
    published: &'a Cache,
    kind: Kind,
    wanted: impl Fn(&Name, &Held) -> bool,
) -> impl Iterator<Item = &'a Held> {
    let all = accepted.of(kind).iter().chain(published.of(kind));
    all.filter(move |(name, held)| wanted(name, held)).map(|(_, held)| &**held)
}

/// In wildcard mode the server sends the clusters, named or not.
fn add_clusters(mode: Mode, wanted: &mut PerKind<BTreeSet<String>>, held: &Held) {
    if mode == Mode::OnDemand {
        add(&mut wanted[Kind::Cluster], &held.references.clusters);
    }
}

fn add(names: &mut BTreeSet<String>, more: &[Name]) {
    for name in more {
        if !names.contains(&**name) {
            names.insert(name.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::xds;

    fn demanded<const N: usize>(names: [&str; N]) -> BTreeSet<Name> {
        names.into_iter().map(Into::into).collect()
    }

    fn names(names: &BTreeSet<String>) -> Vec<&str> {
        names.iter().map(String::as_str).collect()
    }

    fn shop() -> Cache {
        xds::cache([
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
    fn a_demand_leads_to_all_that_it_needs() {
        let none = Cache::default();
        let wanted = wanted(Mode::OnDemand, &demanded(["cart:80"]), &shop(), &none);
        assert_eq!(names(&wanted[Kind::Listener]), ["*", "cart:80"]);
        assert_eq!(names(&wanted[Kind::Route]), ["cart"]);
        assert_eq!(names(&wanted[Kind::Cluster]), ["inbound|app", "v1", "v2"]);
        assert_eq!(names(&wanted[Kind::Endpoints]), ["v1"], "v2 has not come yet");
    }

    #[test]
    fn what_nothing_leads_to_is_not_wanted() {
        let wanted = wanted(Mode::OnDemand, &demanded([]), &shop(), &Cache::default());
        assert_eq!(names(&wanted[Kind::Listener]), ["*"]);
        assert!(wanted[Kind::Route].is_empty() && wanted[Kind::Endpoints].is_empty());
        assert_eq!(names(&wanted[Kind::Cluster]), ["inbound|app"], "our own listener's");
    }

    #[test]
    fn what_traffic_still_uses_stays_wanted() {
        let published = shop();
        let next = xds::cache([
            (Kind::Listener, "cart:80", xds::destination("cart:80", "cart")),
            (Kind::Route, "cart", xds::route("cart", &["v3"])),
        ]);
        let wanted = wanted(Mode::OnDemand, &demanded(["cart:80"]), &next, &published);
        assert_eq!(names(&wanted[Kind::Cluster]), ["inbound|app", "v1", "v2", "v3"]);
        assert_eq!(names(&wanted[Kind::Endpoints]), ["v1"]);
    }

    #[test]
    fn in_wildcard_mode_the_server_chooses_listeners_and_clusters() {
        let wanted = wanted(Mode::Wildcard, &demanded(["cart:80"]), &shop(), &Cache::default());
        assert_eq!(names(&wanted[Kind::Listener]), ["*", "cart:80"]);
        assert_eq!(names(&wanted[Kind::Cluster]), ["*"]);
        assert_eq!(names(&wanted[Kind::Route]), ["cart"]);
        assert_eq!(names(&wanted[Kind::Endpoints]), ["stock", "v1"]);
    }
}
