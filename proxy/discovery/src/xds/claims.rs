//! Assigns addresses to the listeners of a response: no two listeners can have the same address.
//!
//! As in Envoy, a removed listener frees its address for an added one, and of two listeners with one address the older has it.
//! A listener whose move is refused keeps its address.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;

use outrigger_config::resources::Resources;
use outrigger_core::Name;
use outrigger_proto::kind::Kind;

use crate::xds::store::Validated;

/// The listeners that have an address.
pub(crate) type Claims = BTreeMap<Name, SocketAddr>;

/// Refuses listeners whose address is taken. Returns the claims before and after the response.
pub(crate) fn settle_claims(accepted: &Resources, validated: &mut Validated) -> (Claims, Claims) {
    let listeners = accepted.of(Kind::Listener).iter();
    let held: Claims = listeners.filter_map(|(name, of)| Some((name.clone(), of.address()?))).collect();
    let removed: HashSet<_> = validated.removed.iter().map(String::as_str).collect();
    let mut wanted = held.clone();
    wanted.retain(|name, _| !removed.contains(&**name));
    // A listener that moves or is removed frees its address first; a refused one takes it back.
    let mut moves = Vec::new();
    for listener in &validated.good {
        let name = &listener.raw().name;
        if listener.address() != held.get(name).copied() {
            wanted.remove(name);
            moves.extend(listener.address().map(|address| (name.clone(), address)));
        }
    }
    let mut owners: HashMap<SocketAddr, Name> =
        wanted.iter().filter(|(_, at)| at.port() != 0).map(|(name, at)| (*at, name.clone())).collect();
    let mut refused = BTreeMap::new();
    for (name, address) in moves {
        let Some(other) = owners.get(&address).filter(|_| address.port() != 0) else {
            owners.insert(address, name.clone());
            wanted.insert(name, address);
            continue;
        };
        refused.insert(name.clone(), taken(address, other));
        // The refused listener returns to its address; a listener that took it meanwhile returns to its own, and so on.
        let mut back = name;
        while let Some(address) = held.get(&back).copied() {
            wanted.insert(back.clone(), address);
            let Some(next) = owners.insert(address, back.clone()).filter(|_| address.port() != 0) else {
                break;
            };
            if refused.insert(next.clone(), taken(address, &back)).is_some() {
                break;
            }
            wanted.remove(&next);
            back = next;
        }
    }
    validated.refuse(&refused);
    (held, wanted)
}

fn taken(address: SocketAddr, by: &Name) -> String {
    format!("address: {address} is that of listener {by:?}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::xds;

    fn validated(good: &[(&str, &str)], removed: &[&str]) -> Validated {
        let good = good.iter().map(|(name, address)| {
            let body = xds::listener_at(name, address, "app");
            Arc::new(xds::compiled(Kind::Listener, name, "2", body, None))
        });
        Validated {
            kind: Kind::Listener,
            good: good.collect(),
            removed: removed.iter().map(|name| (*name).into()).collect(),
            refused: vec![],
        }
    }

    /// Returns the refused names, where `a` and `b` listen on ports 1 and 2.
    fn refused(good: &[(&str, &str)], removed: &[&str]) -> Vec<String> {
        let accepted = xds::resources([
            (Kind::Listener, "a", xds::listener_at("a", "127.0.0.1:1", "app")),
            (Kind::Listener, "b", xds::listener_at("b", "127.0.0.1:2", "app")),
            (Kind::Listener, "cart:80", xds::destination("cart:80", "cart")),
        ]);
        let mut validated = validated(good, removed);
        let (_, claims) = settle_claims(&accepted, &mut validated);
        for listener in &validated.good {
            assert_eq!(claims.get(&listener.raw().name).copied(), listener.address());
        }
        validated.refused.into_iter().map(|refused| refused.name).collect()
    }

    #[test]
    fn the_older_listener_keeps_the_address() {
        assert_eq!(refused(&[("c", "127.0.0.1:1")], &[]), ["c"]);
        assert_eq!(refused(&[("c", "127.0.0.1:1"), ("a", "127.0.0.1:1")], &[]), ["c"], "sent again");
        assert_eq!(refused(&[("c", "127.0.0.1:3"), ("d", "127.0.0.1:3")], &[]), ["d"]);
        assert_eq!(refused(&[("b", "127.0.0.1:1")], &[]), ["b"]);
        assert_eq!(refused(&[("c", "127.0.0.2:1"), ("b", "127.0.0.1:2")], &[]), [""; 0]);
        assert_eq!(refused(&[("c", "127.0.0.1:0"), ("d", "127.0.0.1:0")], &[]), [""; 0]);
    }

    #[test]
    fn what_is_removed_or_moves_frees_its_address() {
        assert_eq!(refused(&[("c", "127.0.0.1:1")], &["a"]), [""; 0]);
        assert_eq!(refused(&[("a", "127.0.0.1:2"), ("b", "127.0.0.1:1")], &[]), [""; 0]);
        assert_eq!(refused(&[("c", "127.0.0.1:1"), ("a", "127.0.0.1:3")], &[]), [""; 0]);
    }

    #[test]
    fn what_is_refused_keeps_its_address() {
        // `a` cannot have port 2 and stays on port 1, which `c` therefore cannot have.
        assert_eq!(refused(&[("c", "127.0.0.1:1"), ("a", "127.0.0.1:2")], &[]), ["a", "c"]);
        // `d` has port 3 first, so `b` stays on 2, so `a` stays on 1, so `c` gets nothing.
        let chain = [("c", "127.0.0.1:1"), ("a", "127.0.0.1:2"), ("d", "127.0.0.1:3"), ("b", "127.0.0.1:3")];
        assert_eq!(refused(&chain, &[]), ["a", "b", "c"]);
    }
}
