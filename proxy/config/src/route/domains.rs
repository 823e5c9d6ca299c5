//! The virtual host of a request, by its authority (`envoy.config.route.v3.VirtualHost.domains`).
//!
//! Used by route tables. The cost of a look-up does not grow with the number of domains, but with the number of distinct
//! lengths of wildcard domains.

use std::borrow::Cow;

use foldhash::HashMap;
use outrigger_policy::field::Unusable;

/// Maps domains to indices of virtual hosts.
#[derive(Debug, Clone, Default)]
pub(super) struct Domains {
    exact: HashMap<Box<str>, usize>,
    /// `*.shop`, without the star.
    suffixes: Wildcards,
    /// `cart.*`, without the star.
    prefixes: Wildcards,
    any: Option<usize>,
    ignore_port: bool,
}

#[derive(Debug, Clone, Default)]
struct Wildcards {
    hosts: HashMap<Box<str>, usize>,
    /// The lengths of the keys, each once, longest first.
    lengths: Vec<usize>,
}

impl Domains {
    /// Creates an empty map. `ignore_port` is `RouteConfiguration.ignore_port_in_host_matching`.
    pub(super) fn new(ignore_port: bool) -> Self {
        Self { ignore_port, ..Self::default() }
    }

    /// Creates a map that has one virtual host for every authority.
    pub(super) fn any(host: usize) -> Self {
        Self { any: Some(host), ..Self::default() }
    }

    /// Returns the virtual host in Envoy's order: exact, longest suffix, longest prefix, any.
    pub(super) fn find(&self, authority: &str) -> Option<usize> {
        if self.exact.is_empty() && self.suffixes.hosts.is_empty() && self.prefixes.hosts.is_empty() {
            return self.any;
        }
        let host = if self.ignore_port { without_port(authority) } else { authority };
        let host = match host.bytes().any(|b| b.is_ascii_uppercase()) {
            true => Cow::Owned(host.to_ascii_lowercase()),
            false => Cow::Borrowed(host),
        };
        (self.exact.get(&*host).copied())
            .or_else(|| self.suffixes.longest(&host, |length| host.get(host.len() - length..)))
            .or_else(|| self.prefixes.longest(&host, |length| host.get(..length)))
            .or(self.any)
    }

    /// Adds a domain. Fails if it is none, or is there already.
    pub(super) fn add(&mut self, domain: &str, host: usize) -> Result<(), Unusable> {
        let domain = domain.to_ascii_lowercase();
        let wildcards = domain.bytes().filter(|b| *b == b'*').count();
        let known = match (wildcards, domain.strip_prefix('*'), domain.strip_suffix('*')) {
            (1, Some(""), _) => self.any.replace(host),
            (0, ..) if !domain.is_empty() => self.exact.insert(domain.as_str().into(), host),
            (1, Some(suffix), _) => self.suffixes.insert(suffix, host),
            (1, None, Some(prefix)) => self.prefixes.insert(prefix, host),
            _ => return Err(Unusable::new("", format_args!("{domain:?} is no domain"))),
        };
        match known {
            None => Ok(()),
            Some(_) => {
                Err(Unusable::new("", format_args!("{domain:?} is also a domain of another virtual host")))
            }
        }
    }
}

impl Wildcards {
    fn insert(&mut self, key: &str, host: usize) -> Option<usize> {
        if let Err(at) = self.lengths.binary_search_by(|length| key.len().cmp(length)) {
            self.lengths.insert(at, key.len());
        }
        self.hosts.insert(key.into(), host)
    }

    /// Returns the virtual host of the longest key that is a part of `host`. `part` returns the part of a length, which is
    /// less than that of `host`: a star stands for at least one character.
    fn longest<'a>(&self, host: &str, part: impl Fn(usize) -> Option<&'a str>) -> Option<usize> {
        let mut lengths = self.lengths.iter().filter(|length| **length < host.len());
        lengths.find_map(|length| self.hosts.get(part(*length)?).copied())
    }
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::*;

    /// Compares every domain.
    fn scan(domains: &[String], host: &str) -> Option<usize> {
        let longest = |matches: &dyn Fn(&str) -> bool| {
            let matching = domains.iter().enumerate().filter(|(_, domain)| matches(domain));
            matching.max_by_key(|(_, domain)| domain.len()).map(|(at, _)| at)
        };
        let starred = |domain: &str| domain.len() > 1 && host.len() >= domain.len();
        longest(&|domain| domain == host)
            .or_else(|| {
                longest(&|d| starred(d) && d.strip_prefix('*').is_some_and(|end| host.ends_with(end)))
            })
            .or_else(|| {
                longest(&|d| starred(d) && d.strip_suffix('*').is_some_and(|start| host.starts_with(start)))
            })
            .or_else(|| longest(&|domain| domain == "*"))
    }

    proptest! {
        #[test]
        fn look_ups_and_a_scan_find_the_same_host(
            domains in btree_set("\\*?[aé.]{1,4}|[aé.]{1,4}\\*|\\*", 0..40),
            hosts in vec("[aé.]{0,6}", 20),
        ) {
            let domains: Vec<_> = domains.into_iter().collect();
            let mut map = Domains::new(false);
            for (at, domain) in domains.iter().enumerate() {
                map.add(domain, at).unwrap();
            }
            for host in hosts {
                prop_assert_eq!(map.find(&host), scan(&domains, &host), "{}", host);
            }
        }
    }

    #[test]
    fn a_domain_is_added_once() {
        let mut domains = Domains::new(false);
        for domain in ["*", "a", "*a", "a*"] {
            assert!(domains.add(domain, 0).is_ok() && domains.add(domain, 1).is_err(), "{domain}");
        }
        for domain in ["", "a*a", "*a*"] {
            assert!(domains.add(domain, 0).is_err(), "{domain}");
        }
    }
}
