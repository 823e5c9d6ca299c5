//! A request, from its head to its record: every stage in order.
//!
//! Called by the codec for each request of a connection. The future is dropped when the client goes away; whatever it
//! holds then gives itself back, and the journal says that the client left.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::LOCATION;
use http::uri::Authority;
use http::{HeaderValue, Method, StatusCode, Version};
use outrigger_config::cluster::Cluster as ClusterConfig;
use outrigger_config::http_manager::{HttpConnectionManager, HttpSettings};
use outrigger_config::route::{Attempts, Forward, Route, RouteAction};
use outrigger_config::snapshot::Snapshot;
use outrigger_core::error::{Failure, Reached, Side};
use outrigger_core::reason::Reason;
use outrigger_policy::header_match::Head;
use tokio::time::Instant;

use super::downstream::{Destination, Downstream};
use super::filters::{self, Admitted, Gate, OnResponse};
use super::forward::{Forwarding, Held, Reply};
use super::journal::Journal;
use super::limit::{Late, Limit};
use super::request_timeout::{RequestLimit, RequestTimeout};
use super::respond;
use super::rewritten::rewrite;
use super::trace_context::Trace;
use super::{forwarded, mirror, refusal, stalled, upgrade};
use crate::codec;
use crate::codec::body::Body;
use crate::codec::head::{RequestHead, ResponseHead};
use crate::codec::server::Responder;

/// Carries out one request.
pub(super) async fn handle(on: &Downstream, mut head: RequestHead, body: Body, mut responder: Responder) {
    let trace = Trace::begin(&mut head.headers, on.context.settings.sampling);
    forwarded::add(&mut head.headers, forwarded::Sender::from(&on.client));
    // HTTP/2 takes any 2xx to an extended CONNECT for an open tunnel (RFC 8441 section 5), gRPC's included.
    let opens_by_2xx = head.version == Version::HTTP_2 && head.upgrade.is_some();
    let grpc = !opens_by_2xx && respond::is_grpc(&head.headers);
    let mut journal = Journal::begin(&on.context.recorder, &on.client, &head, &trace, grpc);
    let body = body.counted(journal.received());
    if head.method == Method::CONNECT {
        return super::connect::handle(on, head, journal, responder).await;
    }
    match answer(on, head, body, &trace, &mut journal, &mut responder).await {
        Ok(Reply::Answer(head, ..)) if opens_by_2xx && head.status.is_success() => {
            let why = format!("a {} instead of the tunnel that was asked for", head.status.as_u16());
            fail(on, Failure::local(Reason::UpgradeRefused, why), grpc, journal, responder).await;
        }
        Ok(Reply::Answer(head, body, held)) => deliver(head, body, held, grpc, journal, responder).await,
        Ok(Reply::Tunnel(head, upstream, held)) => {
            upgrade::relay(head, upstream, held, journal, responder).await
        }
        Err(failure) => fail(on, failure, grpc, journal, responder).await,
    }
}

/// Destination, route, filters, forwarding, response policies: what the request is answered with.
async fn answer(
    on: &Downstream,
    mut head: RequestHead,
    body: Body,
    trace: &Trace,
    journal: &mut Journal,
    responder: &mut Responder,
) -> Result<Reply, Failure> {
    let (destination, snapshot) = on.destination(&head).await?;
    let manager = match destination {
        Destination::Manager(manager) => manager,
        Destination::Outside(asked) => {
            return pass_on(on, &asked, head, body, trace, journal, responder).await;
        }
    };
    if let Some(destination) = &manager.destination {
        journal.set_destination(destination.clone());
    }
    accept_http_10(&mut head, &manager.settings)?;
    let route = route(&manager, &snapshot, &head)?;
    journal.set_route(route.name.clone());
    head.upgrade = permitted(&head, &manager, &route)?;

    let (mut admitted, on_response) = match filters::pass(&manager.filters, &route, head, body) {
        Gate::Open(admitted, on_response) => (admitted, on_response),
        Gate::Answered(reason, head, body) => {
            journal.set_reason(reason);
            return Ok(Reply::Answer(head, body, None));
        }
    };
    let mut reply = match &route.action {
        RouteAction::Redirect(_) | RouteAction::Respond(_) => {
            journal.set_reason(Reason::DirectResponse);
            own_answer(&route, admitted.head(), respond::is_grpc(&admitted.head().headers))?
        }
        RouteAction::Forward(forward) => {
            let share = forward.clusters.pick(fastrand::u32(..));
            let Some(cluster) = snapshot.cluster(&share.cluster) else {
                journal.set_reason(Reason::NoClusterFound);
                let grpc = respond::is_grpc(&admitted.head().headers);
                let (mut head, body) =
                    respond::answer(Reason::NoClusterFound, forward.cluster_not_found, grpc);
                route.response_headers.apply(&mut head.headers);
                return Ok(Reply::Answer(head, body, None));
            };
            if manager.destination.is_none() {
                journal.set_destination(share.cluster.clone());
            }
            let timeout = forward.timeouts.for_request(&admitted.head().headers);
            rewrite(admitted.head_mut(), &route, forward, share)?;
            let admitted = mirror::copies(on, &snapshot, forward, admitted);
            let cluster = Arc::clone(cluster);
            drop(snapshot);
            let settings = &manager.settings;
            let mut reply =
                send(on, &cluster, forward, settings, timeout, admitted, trace, journal, responder).await?;
            share.response_headers.apply(reply.headers());
            reply
        }
    };
    finish_response(&mut reply, &route, &on_response);
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
    let view = Head {
        method: &head.method,
        scheme: head.scheme.as_str(),
        authority: head.authority.as_ref().map_or("", |authority| authority.as_str()),
        path: head.path.as_str(),
        headers: &head.headers,
    };
    table.find(&view, fastrand::u32(..)).map(Arc::clone).ok_or_else(|| none("no route matches"))
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

#[expect(clippy::too_many_arguments, reason = "one call site; a struct would only name them twice")]
async fn send(
    on: &Downstream,
    cluster: &Arc<ClusterConfig>,
    forward: &Forward,
    settings: &HttpSettings,
    timeout: Option<Duration>,
    admitted: Admitted,
    trace: &Trace,
    journal: &mut Journal,
    responder: &mut Responder,
) -> Result<Reply, Failure> {
    let limit = match (timeout, forward.timeouts.stream.or(settings.max_stream_duration)) {
        (Some(request), Some(stream)) => Some(request.min(stream)),
        (one, other) => one.or(other),
    };
    let head = admitted.head();
    let view = Head {
        method: &head.method,
        scheme: head.scheme.as_str(),
        authority: head.authority.as_ref().map_or("", |authority| authority.as_str()),
        path: head.path.as_str(),
        headers: &head.headers,
    };
    let forwarding = Forwarding {
        cluster: on.context.clusters.cluster(cluster),
        hosts: None,
        client: &on.client,
        retry: forward.retry.as_ref().filter(|retry| retry.applies_to(&view)),
        attempts: &forward.attempts,
        kept_bytes: &on.context.kept_bytes,
        limit: Limit {
            deadline: limit.map(|limit| journal.began() + limit),
            idle: forward.timeouts.idle.unwrap_or(settings.stream_idle_timeout),
        },
        trace,
    };
    let deadline = settings.request_timeout.map(|limit| journal.began() + limit);
    let (admitted, _clock) = awaited(on, &forwarding, admitted, deadline);
    forwarding.run(admitted, journal, responder).await
}

/// The request, whose client has a limited time for its body until the answer is there.
fn awaited(
    on: &Downstream,
    forwarding: &Forwarding<'_>,
    admitted: Admitted,
    deadline: Option<Instant>,
) -> (Admitted, Option<RequestTimeout>) {
    let limits = &on.limits;
    // Between messages a call may be quiet for a while before it is answered; nobody uploads a file like that.
    let grpc = respond::is_grpc(&admitted.head().headers);
    let stillness = if grpc { limits.stream_timeout } else { limits.body_timeout };
    let (cluster, key) = (Rc::clone(&forwarding.cluster), on.client.key.clone());
    let owe = move |waker: &_| cluster.peer(&key).owes(waker);
    let mut clock = None;
    let admitted = admitted.map_body(|body| {
        let (body, started) = RequestLimit { deadline, stillness }.start(body, owe);
        clock = started;
        body
    });
    (admitted, clock)
}

/// Sends a request to a destination outside the mesh, as it is: without retries, and without a limit of time on its answer,
/// since nobody said one and a stream may be quiet for as long as it likes. Peers that vanished are for the sockets to notice.
async fn pass_on(
    on: &Downstream,
    asked: &str,
    mut head: RequestHead,
    body: Body,
    trace: &Trace,
    journal: &mut Journal,
    responder: &mut Responder,
) -> Result<Reply, Failure> {
    if head.authority.is_none() {
        // HTTP/1.0 may leave the host out; the next hop wants one.
        head.authority = Authority::try_from(asked).ok();
    }
    let (cluster, hosts) = on.context.outside(asked).await?;
    journal.set_destination(cluster.name.clone());
    let forwarding = Forwarding {
        cluster,
        hosts: Some(hosts),
        client: &on.client,
        retry: None,
        attempts: &Attempts::DEFAULT,
        kept_bytes: &on.context.kept_bytes,
        limit: Limit::default(),
        trace,
    };
    let (admitted, _clock) = awaited(on, &forwarding, Admitted::outside(head, body), None);
    forwarding.run(admitted, journal, responder).await
}

/// A redirect or a direct response.
fn own_answer(route: &Route, asked: &RequestHead, grpc: bool) -> Result<Reply, Failure> {
    let mut head = ResponseHead::new(StatusCode::OK);
    let mut text = Bytes::new();
    match &route.action {
        RouteAction::Redirect(redirect) => {
            // The star of `OPTIONS *` stands in no URI (RFC 9110 section 7.1).
            let path = if asked.path == "*" { "/" } else { asked.path.as_str() };
            let authority = asked.authority.as_ref().map_or("", |authority| authority.as_str());
            let location = redirect
                .location(asked.scheme.as_str(), authority, path, route.matcher.matched(path))
                .ok_or_else(|| Failure::downstream(Reason::DownstreamProtocolError, "no legal location"))?;
            head.status = redirect.status;
            head.headers.insert(LOCATION, location);
        }
        RouteAction::Respond(response) => {
            head.status = response.status;
            text = Bytes::clone(&response.body);
        }
        RouteAction::Forward(_) => {}
    }
    let (head, body) = respond::own(head, text, grpc);
    Ok(Reply::Answer(head, body, None))
}

fn finish_response(reply: &mut Reply, route: &Route, on_response: &OnResponse) {
    on_response.apply(reply.headers());
    route.response_headers.apply(reply.headers());
}

/// Sends an answer to the client, within the time that the request has.
async fn deliver(
    head: ResponseHead,
    body: Body,
    held: Option<Held>,
    grpc: bool,
    mut journal: Journal,
    responder: Responder,
) {
    let in_head = if grpc { respond::grpc_status(&head.headers) } else { None };
    journal.set_status(head.status.as_u16(), in_head);
    let (body, in_trailers) = if grpc { respond::watch_trailers(body) } else { (body, None) };
    let still_since = responder.still_since();
    let delivery = responder.respond(head, body.counted(journal.sent()));
    let late = |what| Err(Failure::upstream(Reason::UpstreamRequestTimeout, Reached::ResponseStarted, what));
    let limit = held.as_ref().map_or(Limit::default(), |held| held.limit);
    let moved = || journal.received().get() + journal.sent().get();
    let delivered = {
        let limited = pin!(limit.run(delivery, moved));
        match &held {
            Some(held) => stalled::unless_cut(limited, still_since, |waker| held.owes(waker)).await,
            None => Some(limited.await),
        }
    };
    let outcome = match delivered {
        Some(Ok(delivery)) => delivery.outcome,
        Some(Err(Late::Still)) => late("no byte moved"),
        Some(Err(Late::Deadline)) => late("the response took longer than the request may"),
        None => Err(Failure::downstream(
            Reason::DownstreamTimeout,
            "the client takes nothing, and another needs its place",
        )),
    };
    if let Some(status) = in_trailers.and_then(|status| status.get()) {
        journal.set_grpc_status(status);
        held.iter().for_each(|held| held.ended(status));
    }
    if let Err(failure) = outcome {
        if let Some(held) = &held {
            held.broke_off(&failure);
            journal.try_failed(&failure);
        }
        journal.fail(&failure);
    }
    drop(held);
    journal.finish();
}

/// Says what went wrong, in the way from which the client can make the most.
async fn fail(on: &Downstream, mut failure: Failure, grpc: bool, mut journal: Journal, responder: Responder) {
    let untouched = failure.side == Side::Upstream && failure.reached == Reached::NotWritten;
    let of_endpoint = matches!(
        failure.reason,
        Reason::UpstreamConnectionFailure | Reason::UpstreamConnectionTermination | Reason::NoHealthyUpstream
    );
    // A bound of ours was reached, or the application itself refused the stream.
    let overloaded = failure.side == Side::Upstream
        && failure.never_processed()
        && matches!(failure.reason, Reason::UpstreamOverflow | Reason::UpstreamRemoteReset);
    let mut responder = responder;
    // The sidecar before this one may try elsewhere, a POST too: nothing of the request was written to anybody. This is
    // a promise between sidecars (the contract's REFUSED_STREAM), so that only an authenticated one gets it.
    if untouched && of_endpoint && on.client.peer.is_some() {
        if matches!(failure.reason, Reason::UpstreamConnectionFailure | Reason::UpstreamConnectionTermination)
        {
            failure.reason = Reason::ApplicationUnreachable;
        }
        journal.fail(&failure);
        if responder.version() == Version::HTTP_2 {
            match responder.refuse() {
                Ok(()) => return journal.finish(),
                Err(back) => responder = back,
            }
        }
    }
    journal.fail(&failure);
    let (mut head, body) = respond::failed(failure.reason, grpc);
    if overloaded && on.client.peer.is_some() {
        // It may be repeated elsewhere here too, but at the cost of its budget: overload is not for repeating.
        if let Some(credentials) = on.context.identity.credentials() {
            refusal::say(&mut head.headers, &credentials.identity);
        }
    }
    journal.set_status(head.status.as_u16(), respond::grpc_status(&head.headers));
    // The reason that is recorded stays the request's own, whether or not its client still hears it.
    let _ = responder.respond(head, body).await;
    journal.finish();
}
