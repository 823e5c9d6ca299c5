//! What a route does with one request: chosen once, before the filters, which may be configured for the chosen cluster.

use outrigger_config::http_manager::HttpConnectionManager;
use outrigger_config::route::{Forward, Route, RouteAction};
use outrigger_config::snapshot::Snapshot;
use outrigger_policy::direct_response::DirectResponse;
use outrigger_policy::redirect::Redirect;
use outrigger_policy::weighted_cluster::Share;
use tokio::time::Instant;

use super::filters::Routed;
use super::request_context::RequestContext;
use super::session;

/// What a route does with one request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Action<'r> {
    Forward(Chosen<'r>),
    Redirect(&'r Redirect),
    Respond(&'r DirectResponse),
}

/// Where and how one request is forwarded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chosen<'r> {
    pub(super) forward: &'r Forward,
    /// The cluster, and what is particular to it.
    pub(super) share: &'r Share,
    /// When its response must be complete.
    pub(super) deadline: Option<Instant>,
}

impl<'r> Action<'r> {
    /// Chooses a cluster if the route forwards: that of the request's session, or else one by weight.
    pub(super) fn of(
        route: &'r Route,
        manager: &HttpConnectionManager,
        snapshot: &Snapshot,
        cx: &RequestContext<'_>,
    ) -> Self {
        let forward = match &route.action {
            RouteAction::Forward(forward) => forward,
            RouteAction::Redirect(redirect) => return Self::Redirect(redirect),
            RouteAction::Respond(response) => return Self::Respond(response),
        };
        let timeouts = [
            forward.timeouts.for_request(&cx.head.headers),
            forward.timeouts.stream.or(manager.settings.max_stream_duration),
        ];
        let deadline = timeouts.into_iter().flatten().min().map(|longest| cx.journal.began() + longest);
        let share = session::share(manager, route, forward, snapshot, &cx.head)
            .unwrap_or_else(|| forward.clusters.pick(fastrand::u32(..)));
        Self::Forward(Chosen { forward, share, deadline })
    }

    /// Returns what filters need to know of it.
    pub(super) fn routed(&self, route: &'r Route, snapshot: &'r Snapshot) -> Routed<'r> {
        let of_route =
            Routed { overrides: &route.filters, cluster: None, descriptors: None, deadline: None, snapshot };
        let Self::Forward(Chosen { forward, share, deadline }) = *self else { return of_route };
        Routed {
            overrides: share.filters.as_ref().unwrap_or(of_route.overrides),
            cluster: Some(&share.cluster),
            descriptors: Some(&forward.descriptors),
            deadline,
            snapshot,
        }
    }
}
