//! Matches that never apply because an earlier one in the same table matches the same requests.
//!
//! A table is in order of precedence, in which more specific matches come first. So an earlier match includes a later one only
//! if the two are equal, or if the earlier one is a regular expression that every path matches.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use crate::model::diagnostic::{Code, Problem};
use crate::model::mesh::Mesh;
use crate::model::resource::{Kind, ResourceId};
use crate::model::route::{PathMatch, Route, RouteMatch, RouteTable, ValueMatch};

/// Returns the matches of all tables that never apply: one problem for a route that never applies at all.
pub(super) fn shadowed(mesh: &Mesh) -> Vec<Finding> {
    let mut found = BTreeMap::new();
    for (key, entry) in mesh.services() {
        for (port, routes) in &entry.routes.ports {
            for table in routes.producer.iter().chain(routes.consumers.values()) {
                let RouteTable::Http(table) = &**table else { continue };
                let on = format!("port {port} of Service {}/{}", key.namespace, key.name);
                for finding in of_table(table, &on) {
                    found.entry((finding.resource.clone(), finding.problem.field.clone())).or_insert(finding);
                }
            }
        }
    }
    found.into_values().collect()
}

fn of_table(table: &[Route], on: &str) -> Vec<Finding> {
    let mut shadowed: BTreeMap<ResourceId, Vec<(MatchId, MatchId)>> = BTreeMap::new();
    let mut total: BTreeMap<ResourceId, usize> = BTreeMap::new();
    for (at, route) in table.iter().enumerate() {
        let Some(own) = MatchId::parse(&route.id) else { continue };
        *total.entry(own.route.clone()).or_default() += 1;
        let earlier = table[..at].iter().find(|earlier| includes(&earlier.matches, &route.matches));
        if let Some(earlier) = earlier.and_then(|earlier| MatchId::parse(&earlier.id)) {
            shadowed.entry(own.route.clone()).or_default().push((own, earlier));
        }
    }
    let mut findings = Vec::new();
    for (resource, matches) in shadowed {
        let others: BTreeSet<_> = matches.iter().map(|(_, earlier)| earlier.route.to_string()).collect();
        let by_others = matches.iter().all(|(_, earlier)| earlier.route != resource);
        if by_others && total.get(&resource) == Some(&matches.len()) {
            let others: Vec<_> = others.into_iter().collect();
            let message =
                format!("never applies on {on}: {} matches the same requests first", others.join(", "));
            let problem = Problem::of(Code::ShadowedRoute, "spec.rules", message)
                .help("of equal matches, that of the older route applies, then by name");
            findings.push(Finding { resource, problem });
            continue;
        }
        for (own, earlier) in matches {
            let by = if earlier.route == resource { String::new() } else { format!(" of {}", earlier.route) };
            let message =
                format!("never applies on {on}: rules[{}]{by} matches the same requests first", earlier.rule);
            let field = format!("spec.rules[{}].matches[{}]", own.rule, own.at);
            let problem = Problem::of(Code::ShadowedMatch, field, message);
            findings.push(Finding { resource: resource.clone(), problem });
        }
    }
    findings
}

/// Returns true if every request that `later` matches is matched by `earlier`, which precedes it.
fn includes(earlier: &RouteMatch, later: &RouteMatch) -> bool {
    let every_path = matches!(&earlier.path, PathMatch::Regex(all) if [".*", "/.*", "^/.*", "^.*$", "^/.*$"].contains(&&**all));
    let all_in = |some: &[ValueMatch], all: &[ValueMatch]| some.iter().all(|one| all.contains(one));
    (every_path || earlier.path == later.path)
        && earlier.method.as_ref().is_none_or(|method| later.method.as_ref() == Some(method))
        && all_in(&earlier.headers, &later.headers)
        && all_in(&earlier.query, &later.query)
        && (!earlier.grpc || later.grpc)
}

/// A match, by the ID of its route in a table: `httproute/<namespace>/<name>/<rule>/<match>`.
struct MatchId {
    route: ResourceId,
    rule: usize,
    at: usize,
}

impl MatchId {
    fn parse(id: &str) -> Option<Self> {
        let [kind, namespace, name, rule, at] = *id.split('/').collect::<Vec<_>>() else { return None };
        let kind = if kind == "grpcroute" { Kind::GrpcRoute } else { Kind::HttpRoute };
        let route = ResourceId { kind, namespace: namespace.into(), name: name.into() };
        Some(Self { route, rule: rule.parse().ok()?, at: at.parse().ok()? })
    }
}
