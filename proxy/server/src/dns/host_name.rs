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
    let is_mesh = match within_services(&host, cluster_domain) {
        Some(rest) => matches!(labels(rest), 2 | 3),
        None => labels(&host) <= 2 && !host.is_empty() && host.rsplit('.').next() != Some("localhost"),
    };
    is_mesh.then_some(host)
}

/// Returns the host of the service that a host may be an instance of: `db.shop.svc` for `db-0.db.shop.svc`.
pub(super) fn service_of<'a>(host: &'a str, cluster_domain: &str) -> Option<&'a str> {
    let is_instance = within_services(host, cluster_domain).is_some_and(|rest| labels(rest) == 3);
    host.split_once('.').filter(|_| is_instance).map(|(_, service)| service)
}

/// Returns what precedes `.svc` or `.svc.<cluster domain>`.
fn within_services<'a>(host: &'a str, cluster_domain: &str) -> Option<&'a str> {
    let of_cluster = host.strip_suffix(cluster_domain).and_then(|rest| rest.strip_suffix(".svc."));
    of_cluster.or_else(|| host.strip_suffix(".svc"))
}

fn labels(text: &str) -> usize {
    text.split('.').count()
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
    fn an_instance_is_of_the_service_that_its_name_ends_with() {
        for (host, expected) in [
            ("db-0.db.shop.svc", Some("db.shop.svc")),
            ("db-0.db.shop.svc.cluster.local", Some("db.shop.svc.cluster.local")),
            ("db.shop.svc", None),
            ("db.shop.svc.cluster.local", None),
            ("db.shop", None),
            ("db", None),
        ] {
            assert_eq!(service_of(host, "cluster.local"), expected, "{host}");
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
