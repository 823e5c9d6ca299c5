//! Which names a service of the mesh can have. Other names are forwarded without asking the control plane.

use hickory_proto::rr::Name;

/// Returns the host of a queried name, in lower case and without trailing dot, if it may be of the mesh: `cart`, `cart.shop`,
/// `cart.shop.svc` and `cart.shop.svc.<cluster domain>`, and before the last two the hostname of an instance.
///
/// `localhost` never is (RFC 6761 section 6.3).
pub(super) fn mesh_host(name: &Name, cluster_domain: &str) -> Option<String> {
    let mut host = String::new();
    for label in name.iter() {
        let legal = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-';
        let label = std::str::from_utf8(label).ok().filter(|label| label.bytes().all(|b| legal(&b)))?;
        if !host.is_empty() {
            host.push('.');
        }
        host.push_str(label);
    }
    host.make_ascii_lowercase();
    let of_cluster = host.strip_suffix(cluster_domain).and_then(|rest| rest.strip_suffix(".svc."));
    let labels = |text: &str| text.split('.').count();
    let is_mesh = match of_cluster.or_else(|| host.strip_suffix(".svc")) {
        Some(rest) => matches!(labels(rest), 2 | 3),
        None => labels(&host) <= 2 && !host.is_empty() && host.rsplit('.').next() != Some("localhost"),
    };
    is_mesh.then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> Option<String> {
        mesh_host(&Name::from_ascii(name).unwrap(), "cluster.local")
    }

    #[test]
    fn names_of_services_and_instances_may_be_of_the_mesh() {
        for name in [
            "cart",
            "cart.shop",
            "cart.shop.svc",
            "cart.shop.svc.cluster.local",
            "db-0.db.shop.svc",
            "db-0.db.shop.svc.cluster.local",
        ] {
            assert_eq!(host(name).as_deref(), Some(name));
            assert_eq!(host(&format!("{}.", name.to_uppercase())).as_deref(), Some(name));
        }
    }

    #[test]
    fn other_names_are_forwarded() {
        for name in [
            ".",
            "www.example.com",
            "db-0.db.shop",
            "a.b.c.d.svc.cluster.local",
            "svc.cluster.local",
            "cart.svc.cluster.local",
            "cart.shop.pod.cluster.local",
            "cart.shop.svc.example.com",
            "_http._tcp.cart.shop.svc.cluster.local",
            "_http.cart",
            "localhost",
            "x.localhost",
            "5.0.0.10.in-addr.arpa",
        ] {
            assert_eq!(host(name), None, "{name}");
        }
        assert_eq!(mesh_host(&Name::from_labels([&b"c\0t"[..]]).unwrap(), "cluster.local"), None);
        assert_eq!(mesh_host(&Name::from_labels([&b"a.b"[..]]).unwrap(), "cluster.local"), None, "one label");
    }
}
