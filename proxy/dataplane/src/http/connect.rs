//! CONNECT: a tunnel to the destination that it names (RFC 9110 section 9.3.6).
//!
//! An opaque destination is dialled before the client gets its 200. For one that may speak HTTP the client gets it at once,
//! and the tunnel is served like a connection to that destination. Over HTTP/2 the tunnel is one stream (RFC 9113 section
//! 8.5), beside others.

use http::StatusCode;
use outrigger_config::listener::{Handler, UnknownDestination};
use outrigger_core::Name;
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;

use super::downstream::{DestinationLookup, Downstream, Tunnel, TunnelHandler, find, requested_name};
use super::journal::Journal;
use super::request_context::{RequestContext, failed_request};
use super::respond;
use super::upgrade::side;
use crate::codec::head::{RequestHead, ResponseHead};
use crate::codec::server::Responder;
use crate::context::PASSTHROUGH_CLUSTER;
use crate::tcp::copy::{CopyLimits, Side, copy_both};
use crate::tcp::dial::{self, UpstreamConnection};
use crate::tcp::relay::copy_limits;

/// Answers a CONNECT.
pub(super) async fn handle(cx: RequestContext<'_>) {
    let RequestContext { on, head, mut journal, responder, .. } = cx;
    match open(on, &head, &mut journal).await {
        Ok(ConnectTarget::Opaque(opened, limits)) => relay(*opened, limits, journal, responder).await,
        Ok(ConnectTarget::Http(requested, unknown, tunnels)) => {
            serve_tunnel(tunnels, requested, unknown, journal, responder).await;
        }
        Err(failure) => {
            journal.fail(&failure);
            let (head, body) = respond::failed(failure.reason, failed_request(&head, &journal), false);
            journal.set_status(head.status.as_u16(), None);
            let _ = responder.respond(head, body.counted(journal.sent())).await;
            journal.finish();
        }
    }
}

enum ConnectTarget {
    /// An opaque destination, which is connected.
    Opaque(Box<UpstreamConnection>, CopyLimits),
    /// A destination that may speak HTTP: the tunnel is served as a connection to it.
    Http(Name, UnknownDestination, TunnelHandler),
}

async fn open(on: &Downstream, head: &RequestHead, journal: &mut Journal) -> Result<ConnectTarget, Failure> {
    let DestinationLookup::Authority(unknown, tunnels) = &on.lookup else {
        return Err(Failure::downstream(
            Reason::NoRouteFound,
            "CONNECT is for proxies; this is a destination",
        ));
    };
    let requested = requested_name(head)?;
    let (found, snapshot) = find(&on.context, &on.client, &requested, *unknown).await?;
    match found.as_deref().map(|found| &found.handler) {
        None => {
            journal.set_destination(PASSTHROUGH_CLUSTER.into());
            let opened = dial::passthrough(&on.context, &requested, &on.client).await?;
            Ok(ConnectTarget::Opaque(Box::new(opened), CopyLimits::default()))
        }
        Some(Handler::Tcp(proxy)) => {
            if let Some(destination) = &proxy.destination {
                journal.set_destination(destination.clone());
            }
            let opened = dial::open(&on.context, &snapshot, proxy, &on.client).await?;
            Ok(ConnectTarget::Opaque(Box::new(opened), copy_limits(proxy)))
        }
        Some(Handler::Http(_) | Handler::Detect { .. }) => {
            Ok(ConnectTarget::Http(requested.into(), *unknown, tunnels.clone()))
        }
    }
}

async fn relay(opened: UpstreamConnection, limits: CopyLimits, mut journal: Journal, responder: Responder) {
    journal.set_status(200, None);
    journal.tunnel_opened(&opened);
    match responder.upgrade(ResponseHead::new(StatusCode::OK)).await {
        Ok(client) => {
            let upstream = Side { stream: opened.stream, read: bytes::Bytes::new() };
            let copied = copy_both(side(client), upstream, limits, None).await;
            journal.count(copied.received, copied.sent);
            if let Some(failure) = copied.failure() {
                journal.fail(&failure);
            }
        }
        Err(failure) => journal.fail(&failure),
    }
    journal.finish();
}

async fn serve_tunnel(
    tunnels: TunnelHandler,
    requested: Name,
    unknown: UnknownDestination,
    mut journal: Journal,
    responder: Responder,
) {
    journal.set_status(200, None);
    match responder.upgrade(ResponseHead::new(StatusCode::OK)).await {
        Ok(connection) => {
            // The requests in it have records of their own.
            journal.has_no_span();
            journal.finish();
            tunnels.serve(Tunnel { connection, requested, unknown }).await;
        }
        Err(failure) => {
            journal.fail(&failure);
            journal.finish();
        }
    }
}
