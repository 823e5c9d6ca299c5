//! Routes: their matching and their actions (`envoy.config.route.v3.RouteConfiguration`).
//!
//! Tables are compiled once. Finding a route does not allocate if the request's host is in lower case.

mod table;
mod domains;
mod index;
mod decode;
mod attempts;

use http::StatusCode;
use outrigger_core::Name;
use outrigger_policy::descriptor::RouteDescriptors;
use outrigger_policy::direct_response::DirectResponse;
use outrigger_policy::filter::overrides::FilterOverrides;
use outrigger_policy::hash_policy::HashPolicies;
use outrigger_policy::header_mutation::HeaderMutation;
use outrigger_policy::mirror::Mirror;
use outrigger_policy::redirect::Redirect;
use outrigger_policy::retry::RetryPolicy;
use outrigger_policy::rewrite::Rewrite;
use outrigger_policy::timeout::Timeouts;
use outrigger_policy::upgrade::Upgrades;
use outrigger_policy::weighted_cluster::WeightedClusters;

pub use attempts::Attempts;
pub use outrigger_policy::route_match::RouteMatcher;
pub use table::{RouteTable, VirtualHost};

/// A route: the requests that it matches, and its action.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its name: `httproute/shop/cart/0/0`.
    pub name: Name,
    /// The path that it matches, for telemetry ([`RouteMatcher::template`]).
    pub template: Option<Name>,
    /// The requests that it matches.
    pub matcher: RouteMatcher,
    /// What to do with them.
    pub action: RouteAction,
    /// Changes to a request before it is forwarded: route, then virtual host, then table. Those of the chosen weighted
    /// cluster come first.
    pub request_headers: HeaderMutation,
    /// Changes to a response, including the proxy's own.
    pub response_headers: HeaderMutation,
    /// Its configuration of the manager's filters.
    pub filters: FilterOverrides,
}

/// The action of a route.
#[derive(Debug, Clone)]
pub enum RouteAction {
    /// Forwards the request to a cluster.
    Forward(Box<Forward>),
    /// Redirects the client.
    Redirect(Redirect),
    /// Answers with a direct response.
    Respond(DirectResponse),
}

/// How a request is forwarded.
#[derive(Debug, Clone)]
pub struct Forward {
    /// The clusters to choose from.
    pub clusters: WeightedClusters,
    /// The status of the answer if the chosen cluster does not exist.
    pub cluster_not_found: StatusCode,
    /// The timeouts.
    pub timeouts: Timeouts,
    /// The retry policy; `None` is no retries.
    pub retry: Option<RetryPolicy>,
    /// Body buffering for retries, and attempt counts in headers.
    pub attempts: Attempts,
    /// Changes of path and host.
    pub rewrite: Rewrite,
    /// The upgrades that are accepted; overrides the listener's setting.
    pub upgrades: Upgrades,
    /// The hashes of requests, for clusters that pick endpoints by them.
    pub hash_policies: HashPolicies,
    /// Where copies of requests are sent.
    pub mirrors: Box<[Mirror]>,
    /// How requests are described to rate limits.
    pub descriptors: RouteDescriptors,
}
