//! Virtual hosts by domain and routes in order: the first that matches wins.

use std::borrow::Cow;
use std::sync::Arc;

use foldhash::HashMap;
use outrigger_core::Name;
use outrigger_policy::header_match::Head;

use super::Route;

/// A table of routes.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    /// Its name: `cart.shop.svc.cluster.local:80`.
    pub name: Name,
    /// The hosts, in their order.
    pub hosts: Box<[VirtualHost]>,
    pub(super) domains: Domains,
}

/// The routes for some domains.
#[derive(Debug, Clone)]
pub struct VirtualHost {
    /// Its name.
    pub name: Name,
    /// Its routes, in order.
    pub routes: Box<[Arc<Route>]>,
}

/// Which host a domain belongs to, as an index.
#[derive(Debug, Clone, Default)]
pub(super) struct Domains {
    pub(super) exact: HashMap<Box<str>, usize>,
    /// `*.shop`, without the star; longest first.
    pub(super) suffixes: Vec<(Box<str>, usize)>,
    /// `cart.*`, without the star; longest first.
    pub(super) prefixes: Vec<(Box<str>, usize)>,
    pub(super) any: Option<usize>,
    pub(super) ignore_port: bool,
}

impl RouteTable {
    /// A table of one host, which takes every domain.
    pub fn for_any_host(name: Name, routes: Vec<Arc<Route>>) -> Self {
        let hosts = Box::new([VirtualHost { name: name.clone(), routes: routes.into() }]);
        Self { name, hosts, domains: Domains { any: Some(0), ..Domains::default() } }
    }

    /// The route that a request takes, if there is one. `sample` is uniform over `u32`.
    pub fn find(&self, head: &Head<'_>, sample: u32) -> Option<&Arc<Route>> {
        let host = self.hosts.get(self.domains.find(head.authority)?)?;
        host.routes.iter().find(|route| route.matcher.matches(head, sample))
    }
}

impl Domains {
    /// Envoy's order: exact, longest suffix, longest prefix, any.
    fn find(&self, authority: &str) -> Option<usize> {
        if self.exact.is_empty() && self.suffixes.is_empty() && self.prefixes.is_empty() {
            return self.any;
        }
        let host = if self.ignore_port { without_port(authority) } else { authority };
        let host = match host.bytes().any(|b| b.is_ascii_uppercase()) {
            true => Cow::Owned(host.to_ascii_lowercase()),
            false => Cow::Borrowed(host),
        };
        // A star stands for at least one character.
        let suffix =
            |(suffix, _): &&(Box<str>, usize)| host.len() > suffix.len() && host.ends_with(&**suffix);
        let prefix =
            |(prefix, _): &&(Box<str>, usize)| host.len() > prefix.len() && host.starts_with(&**prefix);
        (self.exact.get(&*host).copied())
            .or_else(|| self.suffixes.iter().find(suffix).map(|(_, host)| *host))
            .or_else(|| self.prefixes.iter().find(prefix).map(|(_, host)| *host))
            .or(self.any)
    }
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}
