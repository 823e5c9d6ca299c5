//! Route tables: virtual hosts by domain, each with its routes in order. The first matching route wins.

use std::sync::Arc;

use outrigger_core::Name;
use outrigger_policy::descriptor::DescriptorRule;
use outrigger_policy::direct_response::MAX_BODY;
use outrigger_policy::field::{Unusable, each, non_empty, number, unsupported_any};
use outrigger_policy::filter::overrides::FilterOverrides;
use outrigger_policy::header_match::Head;
use outrigger_policy::header_mutation::HeaderMutation;
use outrigger_policy::hedging;
use outrigger_policy::mirror::Mirror;
use outrigger_policy::retry::RetryPolicy;
use outrigger_policy::route_match::path;
use outrigger_proto::xds::route;

use super::Route;
use super::attempts::{Attempts, kept_bytes};
use super::decode::Outer;
use super::domains::Domains;
use super::index::{PathIndex, WORTHWHILE};

/// A route table.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    /// Its name: `cart.shop.svc.cluster.local:80`.
    pub name: Name,
    /// The virtual hosts, in order.
    pub hosts: Box<[VirtualHost]>,
    domains: Domains,
}

/// A virtual host: the routes of a set of domains.
#[derive(Debug, Clone)]
pub struct VirtualHost {
    /// Its name.
    pub name: Name,
    /// Its routes, in order.
    pub routes: Box<[Arc<Route>]>,
    /// `None` if there are few routes.
    index: Option<PathIndex>,
}

impl RouteTable {
    /// Creates a table with one virtual host that matches every domain.
    pub fn for_any_host(name: Name, routes: Vec<Arc<Route>>) -> Self {
        let hosts = Box::new([VirtualHost::new(name.clone(), routes)]);
        Self { name, hosts, domains: Domains::any(0) }
    }

    /// Returns the first route that matches the request. `sample` is uniform over `u32`.
    pub fn find(&self, head: &Head<'_>, sample: u32) -> Option<&Arc<Route>> {
        let host = self.hosts.get(self.domains.find(head.authority)?)?;
        host.find(head, sample)
    }
}

impl VirtualHost {
    fn new(name: Name, routes: Vec<Arc<Route>>) -> Self {
        let matchers = routes.iter().map(|route| &route.matcher);
        let index = (routes.len() >= WORTHWHILE).then(|| PathIndex::new(matchers));
        Self { name, routes: routes.into(), index }
    }

    fn find(&self, head: &Head<'_>, sample: u32) -> Option<&Arc<Route>> {
        let matches = |route: &&Arc<Route>| route.matcher.matches(head, sample);
        match &self.index {
            Some(index) => index.candidates(path(head)).filter_map(|at| self.routes.get(at)).find(matches),
            None => self.routes.iter().find(matches),
        }
    }
}

impl RouteTable {
    /// Decodes a route configuration.
    pub(crate) fn decode(wire: route::RouteConfiguration) -> Result<Self, Unusable> {
        let route::RouteConfiguration {
            name,
            virtual_hosts,
            vhds,
            internal_only_headers,
            response_headers_to_add,
            response_headers_to_remove,
            request_headers_to_add,
            request_headers_to_remove,
            most_specific_header_mutations_wins,
            // Whether Envoy rejects a table that names an unknown cluster. Here warming waits for the clusters for a limited
            // time, and a missing one is answered with the route's status.
            validate_clusters: _,
            max_direct_response_body_size_bytes,
            cluster_specifier_plugins,
            request_mirror_policies,
            ignore_port_in_host_matching,
            vhost_header,
            ignore_path_parameters_in_path_matching,
            typed_per_filter_config,
            metadata: _, // for other filters; ours read none
            route_specifiers,
        } = wire;
        unsupported_any(&[
            ("vhds", vhds.is_some()),
            ("internal_only_headers", !internal_only_headers.is_empty()),
            ("most_specific_header_mutations_wins", most_specific_header_mutations_wins),
            ("cluster_specifier_plugins", !cluster_specifier_plugins.is_empty()),
            ("vhost_header", !vhost_header.is_empty()),
            ("ignore_path_parameters_in_path_matching", ignore_path_parameters_in_path_matching),
            ("route_specifiers", !route_specifiers.is_empty()),
        ])?;
        let outer = Outer {
            request_headers: HeaderMutation::decode(
                "request",
                request_headers_to_add,
                request_headers_to_remove,
            )?,
            response_headers: HeaderMutation::decode(
                "response",
                response_headers_to_add,
                response_headers_to_remove,
            )?,
            filters: FilterOverrides::decode(typed_per_filter_config, &FilterOverrides::default())?,
            retry: None,
            attempts: Attempts::default(),
            mirrors: each("request_mirror_policies", request_mirror_policies, Mirror::decode)?,
            descriptors: Arc::default(),
            max_body: number(max_direct_response_body_size_bytes).map_or(MAX_BODY, |bytes| bytes as usize),
        };
        let mut domains = Domains::new(ignore_port_in_host_matching);
        let mut at = 0;
        let hosts = each("virtual_hosts", virtual_hosts, |host| {
            let host = VirtualHost::decode(host, &outer, |domain| domains.add(domain, at))?;
            at += 1;
            Ok(host)
        })?;
        Ok(Self { name: name.into(), hosts: hosts.into(), domains })
    }

    /// Returns every cluster that a route may forward or mirror to.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = &Name> {
        self.hosts.iter().flat_map(|host| &host.routes).flat_map(|route| route.clusters())
    }
}

impl VirtualHost {
    #[allow(deprecated)] // the deprecated CORS field must be rejected, not overlooked
    fn decode(
        wire: route::VirtualHost,
        table: &Outer,
        mut add_domain: impl FnMut(&str) -> Result<(), Unusable>,
    ) -> Result<Self, Unusable> {
        let route::VirtualHost {
            name,
            domains,
            routes,
            matcher,
            require_tls,
            virtual_clusters: _, // statistics by pattern: ours are by route
            rate_limits,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            cors,
            typed_per_filter_config,
            include_request_attempt_count,
            include_attempt_count_in_response,
            retry_policy,
            retry_policy_typed_config,
            hedge_policy,
            include_is_timeout_retry_header,
            per_request_buffer_limit_bytes,
            request_body_buffer_limit,
            request_mirror_policies,
            metadata: _, // for other filters; ours read none
            route_specifiers,
        } = wire;
        unsupported_any(&[
            ("matcher", matcher.is_some()),
            ("require_tls", require_tls != 0),
            ("cors", cors.is_some()),
            ("retry_policy_typed_config", retry_policy_typed_config.is_some()),
            ("include_is_timeout_retry_header", include_is_timeout_retry_header),
            ("route_specifiers", !route_specifiers.is_empty()),
        ])?;
        if domains.is_empty() {
            return Err(Unusable::new("domains", "must not be empty"));
        }
        each("domains", domains, |domain| add_domain(&domain))?;
        let retry =
            retry_policy.map(|wire| RetryPolicy::decode(wire).map_err(|bad| bad.within("retry_policy")));
        let mirrors = each("request_mirror_policies", request_mirror_policies, Mirror::decode)?;
        let kept = kept_bytes(per_request_buffer_limit_bytes, request_body_buffer_limit)?;
        let hedges = hedging::on_per_try_timeout(hedge_policy).map_err(|bad| bad.within("hedge_policy"))?;
        let outer = Outer {
            request_headers: HeaderMutation::decode(
                "request",
                request_headers_to_add,
                request_headers_to_remove,
            )?
            .then(&table.request_headers),
            response_headers: HeaderMutation::decode(
                "response",
                response_headers_to_add,
                response_headers_to_remove,
            )?
            .then(&table.response_headers),
            filters: FilterOverrides::decode(typed_per_filter_config, &table.filters)?,
            retry: retry.transpose()?,
            attempts: Attempts {
                kept_bytes: kept.unwrap_or(table.attempts.kept_bytes),
                count_in_request: include_request_attempt_count,
                count_in_response: include_attempt_count_in_response,
                hedge_on_per_try_timeout: hedges.unwrap_or_default(),
            },
            mirrors: if mirrors.is_empty() { table.mirrors.clone() } else { mirrors },
            descriptors: each("rate_limits", rate_limits, DescriptorRule::decode)?.into(),
            max_body: table.max_body,
        };
        let routes = each("routes", routes, |wire| Route::decode(wire, &outer).map(Arc::new))?;
        Ok(Self::new(non_empty("name", name)?.into(), routes))
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;

    fn host(name: &str, domains: &[&str]) -> route::VirtualHost {
        let path = Some(route::route_match::PathSpecifier::Prefix("/".into()));
        let action = Some(route::route::Action::DirectResponse(route::DirectResponseAction {
            status: 200,
            ..Default::default()
        }));
        route::VirtualHost {
            name: name.into(),
            domains: domains.iter().map(|domain| (*domain).into()).collect(),
            routes: vec![route::Route {
                name: name.into(),
                r#match: Some(route::RouteMatch { path_specifier: path, ..Default::default() }),
                action,
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn the_first_of_many_routes_wins() {
        let mut host = host("many", &["*"]);
        let Some(mut last) = host.routes.pop() else { panic!("has one") };
        host.routes.extend((0..100).map(|at| {
            let mut route = last.clone();
            route.name = at.to_string();
            let prefix = route::route_match::PathSpecifier::Prefix(format!("/{}/", at % 50));
            route.r#match = Some(route::RouteMatch { path_specifier: Some(prefix), ..Default::default() });
            route
        }));
        last.name = "last".into();
        host.routes.push(last);
        let table = route::RouteConfiguration { virtual_hosts: vec![host], ..Default::default() };
        let table = RouteTable::decode(table).unwrap();
        for (path, expected) in [("/49/a?b", "49"), ("/4/", "4"), ("/4", "last"), ("*", "last")] {
            let headers = HeaderMap::new();
            let head = Head { method: &Method::GET, scheme: "http", authority: "a", path, headers: &headers };
            assert_eq!(table.find(&head, 0).map(|route| &*route.name), Some(expected), "{path}");
        }
    }

    fn found(table: &RouteTable, authority: &str) -> Option<String> {
        let headers = HeaderMap::new();
        let head = Head { method: &Method::GET, scheme: "http", authority, path: "/", headers: &headers };
        table.find(&head, 0).map(|route| route.name.to_string())
    }

    #[test]
    fn domains_are_searched_in_envoys_order() {
        let virtual_hosts = vec![
            host("any", &["*"]),
            host("suffix", &["*.example"]),
            host("longer", &["*.shop.example", "*-x.example"]),
            host("prefix", &["cart.*"]),
            host("exact", &["cart.shop.example", "Cart:80"]),
        ];
        let table =
            RouteTable::decode(route::RouteConfiguration { virtual_hosts, ..Default::default() }).unwrap();
        for (authority, expected) in [
            ("cart.shop.example", "exact"),
            ("CART:80", "exact"),
            ("web.shop.example", "longer"),
            ("a-x.example", "longer"),
            (".example", "any"),
            ("a.example", "suffix"),
            ("cart.example", "suffix"),
            ("cart.elsewhere", "prefix"),
            ("cart", "any"),
        ] {
            assert_eq!(found(&table, authority).as_deref(), Some(expected), "{authority}");
        }
    }

    #[test]
    fn ports_can_be_ignored() {
        let wire = route::RouteConfiguration { virtual_hosts: vec![host("a", &["a"])], ..Default::default() };
        let strict = RouteTable::decode(wire.clone()).unwrap();
        let loose = route::RouteConfiguration { ignore_port_in_host_matching: true, ..wire };
        let loose = RouteTable::decode(loose).unwrap();
        assert_eq!((found(&strict, "a:80"), found(&loose, "a:80")), (None, Some("a".into())));
    }
}
