//! CONNECT: a tunnel to the destination that it names (RFC 9110 section 9.3.6).
//!
//! Opaque destinations are dialled before the client is told that the tunnel stands. One that may speak HTTP is told at
//! once, and what comes through the tunnel is then served like a connection to that destination. Over HTTP/2 the tunnel
//! is one stream (RFC 9113 section 8.5), beside others.

use http::StatusCode;
use outrigger_config::listener::{Handler, UnknownDestination};
use outrigger_core::Name;
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use outrigger_core::record::Protocol;

use super::downstream::{Downstream, Finder, ServeTunnel, Tunnel, asked_by, find};
use super::journal::Journal;
use super::request_context::RequestContext;
use super::respond;
use super::upgrade::side;
use crate::codec::head::{RequestHead, ResponseHead};
use crate::codec::server::Responder;
use crate::tcp::copy::{Lasting, Side, copy_both};
use crate::tcp::dial::{self, Opened};
use crate::tcp::relay::lasting;

/// Answers a CONNECT.
pub(super) async fn handle(cx: RequestContext<'_>) {
    let RequestContext { on, head, mut journal, responder, .. } = cx;
    match open(on, &head, &mut journal).await {
        Ok(Way::Opened(opened, lasting)) => relay(*opened, lasting, journal, responder).await,
        Ok(Way::HandUp(asked, unknown, tunnels)) => {
            hand_up(tunnels, asked, unknown, journal, responder).await;
        }
        Err(failure) => {
            journal.fail(&failure);
            let (head, body) = respond::failed(failure.reason, false);
            journal.set_status(head.status.as_u16(), None);
            let _ = responder.respond(head, body).await;
            journal.finish();
        }
    }
}

enum Way {
    /// The destination is opaque and answers.
    Opened(Box<Opened>, Lasting),
    /// Whoever serves connections goes on.
    HandUp(Name, UnknownDestination, ServeTunnel),
}

async fn open(on: &Downstream, head: &RequestHead, journal: &mut Journal) -> Result<Way, Failure> {
    let Finder::Authority(unknown, tunnels) = &on.finder else {
        return Err(Failure::downstream(
            Reason::NoRouteFound,
            "CONNECT is for proxies; this is a destination",
        ));
    };
    let asked = asked_by(head)?;
    let (found, snapshot) = find(&on.context, &on.client, &asked, *unknown).await?;
    match found.as_deref().map(|found| &found.handler) {
        None => {
            let opened = dial::outside(&on.context, &asked, &on.client).await?;
            Ok(Way::Opened(Box::new(opened), Lasting::default()))
        }
        Some(Handler::Tcp(proxy)) => {
            if let Some(destination) = &proxy.destination {
                journal.set_destination(destination.clone());
            }
            let opened = dial::open(&on.context, &snapshot, proxy, &on.client).await?;
            Ok(Way::Opened(Box::new(opened), lasting(proxy)))
        }
        Some(Handler::Http(_) | Handler::Detect { .. }) => {
            Ok(Way::HandUp(asked.into(), *unknown, tunnels.clone()))
        }
    }
}

async fn relay(opened: Opened, lasting: Lasting, mut journal: Journal, responder: Responder) {
    journal.set_status(200, None);
    journal.set_protocol(Protocol::Tcp);
    match responder.upgrade(ResponseHead::new(StatusCode::OK)).await {
        Ok(client) => {
            let upstream = Side { stream: opened.stream, read: bytes::Bytes::new() };
            let copied = copy_both(side(client), upstream, lasting).await;
            journal.count(copied.received, copied.sent);
            if let Some(failure) = copied.failure() {
                journal.fail(&failure);
            }
        }
        Err(failure) => journal.fail(&failure),
    }
    journal.finish();
}

async fn hand_up(
    tunnels: ServeTunnel,
    asked: Name,
    unknown: UnknownDestination,
    mut journal: Journal,
    responder: Responder,
) {
    journal.set_status(200, None);
    match responder.upgrade(ResponseHead::new(StatusCode::OK)).await {
        Ok(connection) => {
            // The requests in it have records of their own.
            journal.finish();
            tunnels.serve(Tunnel { connection, asked, unknown }).await;
        }
        Err(failure) => {
            journal.fail(&failure);
            journal.finish();
        }
    }
}
