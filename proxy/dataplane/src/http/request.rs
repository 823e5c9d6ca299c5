//! A request, from its head to its record: every stage in order.
//!
//! Called by the codec for each request of a connection. The future is dropped when the client goes away; whatever it
//! holds is then released, and the journal records that the client disconnected.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{LOCATION, SET_COOKIE};
use http::uri::Authority;
use http::{HeaderValue, Method, Version};
use outrigger_config::http_manager::{HttpConnectionManager, HttpSettings};
use outrigger_config::route::{Forward, Route, RouteAction};
use outrigger_config::snapshot::Snapshot;
use outrigger_core::error::{Failure, Reached, Side};
use outrigger_core::reason::Reason;
use outrigger_policy::header_mutation::HeaderMutation;
use outrigger_policy::redirect::Redirect;
use outrigger_policy::verdict::ResponseChanges;

use super::action::{Action, Chosen};
use super::downstream::{Destination, Downstream};
use super::filters::{self, Admitted, Gate};
use super::forward::Forwarding;
use super::journal::Journal;
use super::reply::{Reply, ResponseGuard};
use super::request_context::{RequestContext, failed_request};
use super::respond;
use super::rewritten::rewrite;
use super::time_limit::{TimeLimit, TimedOut};
use super::trace_context::{Spans, Trace};
use super::{client_certificate, connect, forwarded, mirror, paced, refusal, session, stalled, upgrade};
use crate::codec;
use crate::codec::body::Body;
use crate::codec::head::{RequestHead, ResponseHead};
use crate::codec::server::Responder;
use crate::upstream::cluster::Cluster;

/// Begins one request. The future carries it out.
pub(super) fn handle<'a>(
    on: &'a Downstream,
    mut head: RequestHead,
    body: Body,
    responder: Responder,
) -> impl Future<Output = ()> + use<'a> {
    let running = on.running(head.version);
    let spans = Spans::of(on.client.direction, on.context.recorder.exports_spans());
    let trace = Trace::begin(&mut head.headers, on.context.tracing, spans);
    forwarded::add(&mut head.headers, forwarded::Sender::from(&on.client));
    // HTTP/2 takes any 2xx to an extended CONNECT for an open tunnel (RFC 8441 section 5), gRPC's included.
    let opens_by_2xx = head.version == Version::HTTP_2 && head.upgrade.is_some();
    let grpc = !opens_by_2xx && respond::is_grpc(&head.headers);
    let journal = Journal::begin(&on.context.recorder, &on.client, &head, &trace, grpc);
    let body = body.counted(journal.received());
    // Moved into the future once, so that it has one place for them.
    let response_changes = ResponseChanges::default();
    let claims = Box::default();
    let mut cx = RequestContext { on, head, body, trace, grpc, claims, response_changes, journal, responder };
    async move {
        let _running = running;
        if cx.head.method == Method::CONNECT {
            // Boxed, so that it makes no other request larger.
            return Box::pin(connect::handle(cx)).await;
        }
        let mut replied = match answer(&mut cx).await {
            Ok(Reply::Response(head, ..)) if opens_by_2xx && head.status.is_success() => {
                let why = format!("a {} instead of the tunnel that was asked for", head.status.as_u16());
                Err(Failure::local(Reason::UpgradeRefused, why))
            }
            replied => replied,
        };
        if let Ok(reply) = &mut replied {
            cx.response_changes.apply(reply.headers());
        }
        let RequestContext { head, body, response_changes, responder, .. } = cx;
        drop(body);
        match replied {
            Ok(Reply::Response(response, body, guard)) => {
                // A response may last for days.
                head.give_back();
                let body = match response_changes.rate() {
                    None => body,
                    Some(rate) => paced::paced(body, rate),
                };
                deliver(response, body, guard, grpc, &mut cx.journal, responder).await;
            }
            Ok(Reply::Tunnel(response, upstream, guard)) => {
                drop(head);
                // Boxed, as tunnels and failures make no other request larger.
                Box::pin(upgrade::relay(response, upstream, guard, &mut cx.journal, responder)).await;
            }
            Err(failure) => {
                let failed = Failed { request: &head, failure, grpc, response_changes };
                Box::pin(fail(on, failed, &mut cx.journal, responder)).await;
            }
        }
        cx.journal.finish();
    }
}

/// Destination, route, filters, forwarding, response policies: what the request is answered with.
async fn answer(cx: &mut RequestContext<'_>) -> Result<Reply, Failure> {
    let (destination, snapshot) = cx.on.destination(&cx.head, &mut cx.journal).await?;
    let manager = match destination {
        Destination::Manager(manager) => manager,
        Destination::Passthrough(asked) => return Box::pin(forward_passthrough(cx, &asked)).await,
    };
    if let Some(destination) = &manager.destination {
        cx.journal.set_destination(destination.clone());
    }
    accept_http_10(&mut cx.head, &manager.settings)?;
    // Before anything reads the field: a client may have sent it.
    let (mode, own) = (manager.settings.client_certificate, &cx.on.context.identity);
    client_certificate::apply(mode, &mut cx.head.headers, &cx.on.client, own);
    let route = route(&manager, &snapshot, &cx.head)?;
    cx.journal.set_route(&route);
    cx.head.upgrade = permitted(&cx.head, &manager, &route)?;

    let action = Action::of(&route, &manager, &snapshot, cx);
    let admitted = match filters::pass(&manager.filters, action.routed(&route, &snapshot), cx).await? {
        Gate::Open(admitted) => admitted,
        Gate::Answered(reply) => return Ok(*reply),
    };
    let mut reply = match action {
        Action::Redirect(redirect) => redirected(admitted, redirect, &route)?,
        Action::Respond(response) => {
            own_reply(admitted, ResponseHead::new(response.status), Bytes::clone(&response.body))
        }
        Action::Forward(chosen) => forwarded_by(admitted, &manager, snapshot, &route, chosen).await?,
    };
    route.response_headers.apply(reply.headers());
    Ok(reply)
}

/// HTTP/1.0 is served where the listener says so, and its host may be left out where the listener says it
/// (`accept_http_10`, `default_host_for_http_10`); the next hop wants one (RFC 9112 section 3.2).
fn accept_http_10(head: &mut RequestHead, settings: &HttpSettings) -> Result<(), Failure> {
    if head.version != Version::HTTP_10 {
        return Ok(());
    }
    if !settings.accept_http_10 {
        return Err(Failure::downstream(Reason::Http10Refused, "the listener serves no HTTP/1.0"));
    }
    if head.authority.is_none() {
        head.authority.clone_from(&settings.default_host_for_http_10);
    }
    if head.authority.is_none() {
        return Err(Failure::downstream(Reason::DownstreamProtocolError, "the request names no host"));
    }
    Ok(())
}

/// The codec refused a request and has answered it; no head of it is known.
pub(super) fn refused(on: &Downstream, failure: &Failure) {
    Journal::refused(&on.context.recorder, &on.client, failure).finish();
}

fn route(
    manager: &HttpConnectionManager,
    snapshot: &Snapshot,
    head: &RequestHead,
) -> Result<Arc<Route>, Failure> {
    let none = |why| Failure::local(Reason::NoRouteFound, why);
    let table = snapshot.table(&manager.routes).ok_or_else(|| none("the route table is not here"))?;
    table.find(&head.view(), fastrand::u32(..)).map(Arc::clone).ok_or_else(|| none("no route matches"))
}

/// What of the upgrade that a client offers is offered on: the protocols that the route lets pass, or else the listener.
///
/// Over HTTP/1 the rest is passed over, as a server may (RFC 9110 section 7.8): clients offer upgrades with plain requests,
/// which must not fail for it. An extended CONNECT asks for a tunnel and nothing else, and is refused.
fn permitted(
    head: &RequestHead,
    manager: &HttpConnectionManager,
    route: &Route,
) -> Result<Option<HeaderValue>, Failure> {
    let Some(offered) = &head.upgrade else { return Ok(None) };
    let of_route = |protocol: &HeaderValue| match &route.action {
        RouteAction::Forward(forward) => forward.upgrades.allow(protocol),
        RouteAction::Redirect(_) | RouteAction::Respond(_) => None,
    };
    let may = |protocol: &HeaderValue| {
        of_route(protocol).or_else(|| manager.upgrades.allow(protocol)) == Some(true)
    };
    match codec::upgrade::retain(offered, may) {
        None if head.version == Version::HTTP_2 => {
            Err(Failure::downstream(Reason::UpgradeRefused, format!("upgrades to {offered:?} do not pass")))
        }
        left => Ok(left),
    }
}

/// Sends a request to the cluster that its route chooses.
async fn forwarded_by(
    mut admitted: Admitted<'_, '_>,
    manager: &HttpConnectionManager,
    snapshot: Arc<Snapshot>,
    route: &Route,
    chosen: Chosen<'_>,
) -> Result<Reply, Failure> {
    let cx = admitted.context();
    let Chosen { forward, share, deadline } = chosen;
    let Some(cluster) = snapshot.cluster(&share.cluster) else {
        cx.journal.set_reason(Reason::NoClusterFound);
        let request = failed_request(&cx.head, &cx.journal);
        let (head, body) =
            respond::answer(Reason::NoClusterFound, forward.cluster_not_found, request, cx.grpc);
        return Ok(Reply::Response(head, body, None));
    };
    if manager.destination.is_none() {
        cx.journal.set_destination(share.cluster.clone());
    }
    let settings = &manager.settings;
    let (cluster, began) = (cx.on.context.clusters.cluster(cluster), cx.journal.began());
    // Before the rewrites, as in Envoy.
    let (hash, session) = (hash(&cluster, forward, cx), session::of(manager, route, share, &cx.head.view()));
    rewrite(&mut cx.head, route, forward, share)?;
    let forwarding = Forwarding {
        cluster,
        hosts: None,
        hash,
        session,
        retry: forward.retry.as_ref().filter(|retry| retry.applies_to(&cx.head.view())),
        attempts: &forward.attempts,
        limit: TimeLimit { deadline, idle: forward.timeouts.idle.unwrap_or(settings.stream_idle_timeout) },
        body_deadline: settings.request_timeout.map(|limit| began + limit),
    };
    mirror::copies(&snapshot, forward, &mut admitted);
    drop(snapshot);
    let mut reply = forwarding.run(admitted).await?;
    share.response_headers.apply(reply.headers());
    Ok(reply)
}

/// Returns the hash of a request, if its cluster picks endpoints by hashes. Its response gets the cookies that are generated for it.
fn hash(cluster: &Cluster, forward: &Forward, cx: &mut RequestContext<'_>) -> Option<u64> {
    let (head, source) = (cx.head.view(), cx.on.client.source());
    let set_cookie = |line| {
        let mut fields = HeaderMutation::default();
        fields.append(SET_COOKIE, line);
        cx.response_changes.mutate(fields);
    };
    cluster.hash(&forward.hash_policies, |policies| policies.of_request(&head, &source, set_cookie))
}

/// Sends a request to a destination outside the mesh, as it is: without retries, and without a limit of time on its answer,
/// since none is configured and a stream may be idle. TCP keepalive detects peers that vanished.
async fn forward_passthrough(cx: &mut RequestContext<'_>, asked: &str) -> Result<Reply, Failure> {
    if cx.head.authority.is_none() {
        // HTTP/1.0 may leave the host out; the next hop wants one.
        cx.head.authority = Authority::try_from(asked).ok();
    }
    client_certificate::remove(&mut cx.head.headers);
    let (cluster, hosts) = cx.on.context.passthrough(asked).await?;
    cx.journal.set_destination(cluster.name.clone());
    Forwarding::passthrough(cluster, hosts).run(Admitted::passthrough(cx)).await
}

fn redirected(mut admitted: Admitted<'_, '_>, redirect: &Redirect, route: &Route) -> Result<Reply, Failure> {
    let asked = &admitted.context().head;
    // The star of `OPTIONS *` stands in no URI (RFC 9110 section 7.1).
    let path = if asked.path == "*" { "/" } else { asked.path.as_str() };
    let authority = asked.authority.as_ref().map_or("", |authority| authority.as_str());
    let location = redirect
        .location(asked.scheme.as_str(), authority, path, route.matcher.matched(path))
        .ok_or_else(|| Failure::downstream(Reason::DownstreamProtocolError, "no legal location"))?;
    let mut head = ResponseHead::new(redirect.status);
    head.headers.insert(LOCATION, location);
    Ok(own_reply(admitted, head, Bytes::new()))
}

/// The reply that the route itself makes.
fn own_reply(admitted: Admitted<'_, '_>, head: ResponseHead, text: Bytes) -> Reply {
    let cx = admitted.into_context();
    cx.journal.set_reason(Reason::DirectResponse);
    let (head, body) = respond::own(Reason::DirectResponse, head, text, cx.grpc);
    Reply::Response(head, body, None)
}

/// Sends an answer to the client, within the time that the request has. The future does not hold the head.
fn deliver<'a>(
    head: ResponseHead,
    body: Body,
    guard: Option<ResponseGuard>,
    grpc: bool,
    journal: &'a mut Journal,
    responder: Responder,
) -> impl Future<Output = ()> + use<'a> {
    let in_head = if grpc { respond::grpc_status(&head.headers) } else { None };
    journal.set_status(head.status.as_u16(), in_head);
    let (body, in_trailers) = if grpc { respond::watch_trailers(body) } else { (body, None) };
    let still_since = responder.still_since();
    let late = |what| Err(Failure::upstream(Reason::UpstreamRequestTimeout, Reached::ResponseStarted, what));
    let limit = guard.as_ref().map_or(TimeLimit::default(), |guard| guard.limit);
    let bytes = journal.bytes();
    let delivery = responder.respond(head, body.counted(journal.sent()));
    let mut limited = limit.run(delivery, move || bytes.moved());
    async move {
        let delivered = match &guard {
            Some(guard) => stalled::unless_cut(&mut limited, still_since, |waker| guard.owes(waker)).await,
            None => Some((&mut limited).await),
        };
        // The body is dropped, and with it the exchange that it comes from.
        drop(limited);
        let outcome = match delivered {
            Some(Ok(outcome)) => outcome,
            Some(Err(TimedOut::Idle)) => late("no byte moved"),
            Some(Err(TimedOut::Deadline)) => late("the response took longer than the request may"),
            None => Err(Failure::downstream(
                Reason::DownstreamTimeout,
                "the client takes nothing, and another needs its place",
            )),
        };
        if let Some(status) = in_trailers.and_then(|watched| watched.status()) {
            journal.set_grpc_status(status);
            guard.iter().for_each(|guard| guard.ended(status));
        }
        if let Err(failure) = outcome {
            if let Some(guard) = &guard {
                guard.broke_off(&failure);
                journal.attempt_failed(&failure);
            }
            journal.fail(&failure);
        }
    }
}

/// A request that failed.
struct Failed<'a> {
    request: &'a RequestHead,
    failure: Failure,
    grpc: bool,
    response_changes: ResponseChanges,
}

/// Answers a failed request in the form that lets the client recover.
async fn fail(on: &Downstream, failed: Failed<'_>, journal: &mut Journal, responder: Responder) {
    let Failed { request, mut failure, grpc, response_changes } = failed;
    let untouched = failure.side == Side::Upstream && failure.reached == Reached::NotWritten;
    let of_endpoint = matches!(
        failure.reason,
        Reason::UpstreamConnectionFailure | Reason::UpstreamConnectionTermination | Reason::NoHealthyUpstream
    );
    // A bound of ours was reached, or the application itself or the sidecar behind this proxy refused the stream.
    let overloaded = failure.side == Side::Upstream
        && failure.never_processed()
        && matches!(
            failure.reason,
            Reason::UpstreamOverflow
                | Reason::Overloaded
                | Reason::UpstreamRemoteReset
                | Reason::ApplicationUnreachable
        );
    let mut responder = responder;
    // The sidecar before this one may send it elsewhere, a POST too: nothing of the request was written to an application. This
    // is a promise between sidecars (the contract's REFUSED_STREAM), so that only an authenticated one gets it.
    if untouched && of_endpoint && on.client.peer.is_some() {
        if matches!(failure.reason, Reason::UpstreamConnectionFailure | Reason::UpstreamConnectionTermination)
        {
            failure.reason = Reason::ApplicationUnreachable;
        }
        journal.fail(&failure);
        if responder.version() == Version::HTTP_2 {
            match responder.refuse() {
                Ok(()) => return,
                Err(back) => responder = back,
            }
        }
    }
    journal.fail(&failure);
    let (mut head, body) = respond::failed(failure.reason, failed_request(request, journal), grpc);
    if overloaded && on.client.peer.is_some() {
        // It may be repeated elsewhere here too, but at the cost of its budget: overload is not for repeating.
        if let Some(credentials) = on.context.identity.credentials() {
            refusal::mark(&mut head.headers, &credentials.identity);
        }
    }
    response_changes.apply(&mut head.headers);
    journal.set_status(head.status.as_u16(), respond::grpc_status(&head.headers));
    // The reason that is recorded stays the request's own, whether or not its client still receives the response.
    let _ = responder.respond(head, body.counted(journal.sent())).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of the future that a function of four arguments returns, in bytes.
    fn size_of_future<A, B, C, D, F: Future>(_: impl FnOnce(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_request_fits_in_three_kib() {
        let size = size_of_future(handle);
        assert!(size <= 3 * 1024, "a request takes {size} bytes");
    }
}
