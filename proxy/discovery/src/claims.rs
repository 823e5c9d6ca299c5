//! Which listeners claim which address once a response is applied: two of them cannot have the same.
//!
//! As in Envoy, what a response removes frees its address for what it adds, and of two that want one address the one that was there
//! first has it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use outrigger_core::Name;

use crate::cache::Cache;
use crate::kind::Kind;
use crate::store::Judged;

/// Every listener that will have an address, and which.
pub(crate) fn claims(accepted: &Cache, judged: &Judged) -> BTreeMap<Name, SocketAddr> {
    let held = accepted.of(Kind::Listener).iter();
    let mut claims: BTreeMap<Name, SocketAddr> =
        held.filter_map(|(name, held)| Some((name.clone(), held.references.address?))).collect();
    for name in &judged.removed {
        claims.remove(name.as_str());
    }
    for (changed, references) in &judged.good {
        let name = Name::from(changed.name.as_str());
        match references.address {
            Some(address) => drop(claims.insert(name, address)),
            None => drop(claims.remove(&name)),
        }
    }
    claims
}

/// Refuses listeners whose address another one has.
pub(crate) fn refuse_doubles(accepted: &Cache, judged: &mut Judged) {
    // One at a time: of what is refused the version before stays, with its address.
    while let Some((name, reason)) = double(&claims(accepted, judged), judged) {
        judged.refuse(&name, reason);
    }
}

/// The last listener of the response whose address is claimed by another, and why it cannot have it.
fn double(claims: &BTreeMap<Name, SocketAddr>, judged: &Judged) -> Option<(Name, String)> {
    judged.good.iter().rev().find_map(|(changed, _)| {
        let (name, address) = claims.get_key_value(changed.name.as_str())?;
        // Port 0 picks a free one for each.
        let same =
            |(other, of): &(&Name, &SocketAddr)| *of == address && *other != name && address.port() != 0;
        let (other, _) = claims.iter().find(same)?;
        Some((name.clone(), format!("address: {address} is that of listener {other:?}", other = &**other)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::references::References;
    use crate::stream::Changed;
    use crate::testing::xds;

    fn judged(good: &[(&str, &str)], removed: &[&str]) -> Judged {
        let good = good.iter().map(|(name, address)| {
            let body = xds::listener_at(name, address, "app");
            let references = References::of(Kind::Listener, &body);
            (Changed { name: (*name).into(), aliases: vec![], version: "2".into(), body }, references)
        });
        Judged {
            kind: Kind::Listener,
            good: good.collect(),
            settled: vec![],
            removed: removed.iter().map(|name| (*name).into()).collect(),
            refused: vec![],
        }
    }

    /// Names of the refused, where `a` and `b` listen on ports 1 and 2.
    fn refused(good: &[(&str, &str)], removed: &[&str]) -> Vec<String> {
        let accepted = xds::cache([
            (Kind::Listener, "a", xds::listener_at("a", "127.0.0.1:1", "app")),
            (Kind::Listener, "b", xds::listener_at("b", "127.0.0.1:2", "app")),
            (Kind::Listener, "cart:80", xds::destination("cart:80", "cart")),
        ]);
        let mut judged = judged(good, removed);
        refuse_doubles(&accepted, &mut judged);
        judged.refused.into_iter().map(|refused| refused.name).collect()
    }

    #[test]
    fn the_one_that_was_there_first_has_the_address() {
        assert_eq!(refused(&[("c", "127.0.0.1:1")], &[]), ["c"]);
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
    }
}
