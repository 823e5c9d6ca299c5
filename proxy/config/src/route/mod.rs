//! Which route a request takes, and what the route says (`envoy.config.route.v3.RouteConfiguration`).
//!
//! Compiled once; finding a route allocates nothing for a request whose host is written in lower case.

mod table;
mod decode;
mod attempts;
mod matcher;

use std::sync::Arc;

use http::StatusCode;
use outrigger_core::Name;
use outrigger_policy::cors::CorsPolicy;
use outrigger_policy::direct_response::DirectResponse;
use outrigger_policy::header_mutation::HeaderMutation;
use outrigger_policy::mirror::Mirror;
use outrigger_policy::redirect::Redirect;
use outrigger_policy::retry::RetryPolicy;
use outrigger_policy::rewrite::Rewrite;
use outrigger_policy::timeout::Timeouts;
use outrigger_policy::upgrade::Upgrades;
use outrigger_policy::weighted_cluster::WeightedClusters;

pub use attempts::Attempts;
pub use matcher::RouteMatcher;
pub use table::{RouteTable, VirtualHost};

/// One route: what it takes and what it does.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its name: `httproute/shop/cart/0/0`.
    pub name: Name,
    /// Which requests it takes.
    pub matcher: RouteMatcher,
    /// What it does with them.
    pub action: RouteAction,
    /// Changes to a request before it is forwarded: route, then virtual host, then table. A chosen share's come first.
    pub request_headers: HeaderMutation,
    /// Changes to a response, the proxy's own answers included.
    pub response_headers: HeaderMutation,
    /// Who may call from another origin, where the manager has the CORS filter.
    pub cors: Option<Arc<CorsPolicy>>,
}

/// What a route does.
#[derive(Debug, Clone)]
pub enum RouteAction {
    /// Sends the request to a cluster.
    Forward(Box<Forward>),
    /// Sends the client elsewhere.
    Redirect(Redirect),
    /// Answers by itself.
    Respond(DirectResponse),
}

/// How a request is forwarded.
#[derive(Debug, Clone)]
pub struct Forward {
    /// Where to.
    pub clusters: WeightedClusters,
    /// The status when the chosen cluster does not exist.
    pub cluster_not_found: StatusCode,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// Whether it is tried again.
    pub retry: Option<RetryPolicy>,
    /// What is kept for that, and who is told of it.
    pub attempts: Attempts,
    /// How path and host change.
    pub rewrite: Rewrite,
    /// Which upgrades pass, before what its listener says.
    pub upgrades: Upgrades,
    /// Where copies go.
    pub mirrors: Box<[Mirror]>,
}
