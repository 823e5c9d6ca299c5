//! The session of a request: which endpoint, and which of several clusters, an earlier response has bound it to.
//!
//! Called for requests of listeners that have the filter for sessions; other requests only check whether the listener has it.

use std::net::SocketAddr;
use std::time::SystemTime;

use outrigger_config::endpoint::HealthStatus;
use outrigger_config::http_manager::HttpConnectionManager;
use outrigger_config::route::{Forward, Route};
use outrigger_config::snapshot::Snapshot;
use outrigger_policy::filter::FilterConfig;
use outrigger_policy::filter::overrides::FilterOverrides;
use outrigger_policy::header_match::Head;
use outrigger_policy::stateful_session::Session;
use outrigger_policy::weighted_cluster::Share;

use crate::codec::head::RequestHead;
use crate::metrics::ClusterSeries;

/// Returns the session of a request that goes to the cluster of `share`. `None` if it can have none.
pub(super) fn of<'a>(
    manager: &'a HttpConnectionManager,
    route: &'a Route,
    share: &'a Share,
    head: &Head<'_>,
) -> Option<Box<Session<'a>>> {
    // Boxed, as most requests have none.
    if has_filter(manager) { find(manager, overrides(route, share), head).map(Box::new) } else { None }
}

/// Returns the share that the session of a request is bound to, if the route has several: that of its endpoint, whatever its weight is. If the
/// endpoint has gone, the session stays with its cluster as long as that has other endpoints and a weight.
pub(super) fn share<'r>(
    manager: &HttpConnectionManager,
    route: &'r Route,
    forward: &'r Forward,
    snapshot: &Snapshot,
    head: &RequestHead,
) -> Option<&'r Share> {
    if !forward.clusters.are_several() || !has_filter(manager) {
        return None;
    }
    let head = head.view();
    let mut without_endpoint = None;
    for share in forward.clusters.shares() {
        let Some(session) = find(manager, overrides(route, share), &head) else { continue };
        let (Some(pinned), Some(cluster)) = (session.pinned(), snapshot.cluster(&share.cluster)) else {
            continue;
        };
        let (is_own, endpoints) = (session.is_of(&share.cluster), cluster.endpoints.load());
        if is_own == Some(false) {
            continue;
        }
        let found = endpoints.at(pinned.address).and_then(|at| endpoints.list.get(at));
        if found.is_some_and(|endpoint| cluster.session_statuses.contains(endpoint.health)) {
            return Some(share);
        }
        let serves = || endpoints.list.iter().any(|of| of.health == HealthStatus::Healthy);
        if is_own == Some(true) && share.weight > 0 && serves() {
            without_endpoint = Some(share);
        }
    }
    without_endpoint
}

/// Counts a response by the endpoint at this address, for the cluster that it is of.
pub(super) fn count(session: &Session<'_>, answered_by: SocketAddr, series: &ClusterSeries) {
    match session.pinned() {
        None => series.sessions_new.increment(),
        Some(pinned) if pinned.address == answered_by => series.sessions_kept.increment(),
        Some(_) => series.sessions_moved.increment(),
    }
}

fn has_filter(manager: &HttpConnectionManager) -> bool {
    manager.filters.iter().any(|filter| matches!(filter.config, FilterConfig::StatefulSession(_)))
}

fn overrides<'a>(route: &'a Route, share: &'a Share) -> &'a FilterOverrides {
    share.filters.as_ref().unwrap_or(&route.filters)
}

/// Returns the session by the first filter that gives the request one.
fn find<'a>(
    manager: &'a HttpConnectionManager,
    overrides: &'a FilterOverrides,
    head: &Head<'_>,
) -> Option<Session<'a>> {
    manager.filters.iter().find_map(|filter| match overrides.resolve(filter)? {
        FilterConfig::StatefulSession(Some(of)) => of.of_request(head, SystemTime::now()),
        _ => None,
    })
}
