//! A destination's name as telemetry shows it: the same on both sides of a hop.

/// The canonical name. The control plane names the managers of inbound chains `inbound|<canonical>`, so that they differ
/// from the outbound ones; in logs, metrics and spans the direction has a field of its own.
pub(crate) fn canonical(name: &str) -> &str {
    name.strip_prefix("inbound|").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_a_hop_name_it_alike() {
        let name = "cart.shop.svc.cluster.local:80";
        assert_eq!(canonical("inbound|cart.shop.svc.cluster.local:80"), name);
        assert_eq!(canonical(name), name);
    }
}
