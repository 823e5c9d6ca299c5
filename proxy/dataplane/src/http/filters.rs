//! Passes a request through the HTTP filters of its listener, in their order, before it is forwarded.
//!
//! Filters decide ([`outrigger_policy::filter`]), and this file carries out what they decide. Only this file makes an
//! [`Admitted`], and only an [`Admitted`] is forwarded.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use outrigger_policy::filter::overrides::FilterOverrides;
use outrigger_policy::filter::{FilterConfig, HttpFilter};
use outrigger_policy::verdict::{FilterRequest, Refusal, Verdict};
use tokio::time::{Instant, sleep_until};

use super::reply::Reply;
use super::request_context::{RequestContext, failed_request};
use super::respond;
use crate::codec::body::Body;
use crate::codec::head::ResponseHead;

/// A request that every filter admitted.
#[derive(Debug)]
pub(super) struct Admitted<'r, 'a>(&'r mut RequestContext<'a>);

/// The result of the filters.
#[derive(Debug)]
pub(super) enum Gate<'r, 'a> {
    /// The request may be forwarded.
    Open(Admitted<'r, 'a>),
    /// A filter answers it.
    Answered(Box<Reply>),
}

/// What filters need to know of the route of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Routed<'a> {
    /// The route's configuration of filters.
    pub(super) overrides: &'a FilterOverrides,
    /// The chosen cluster, or `None` if the route answers itself.
    pub(super) cluster: Option<&'a str>,
    /// When the request must have been answered.
    pub(super) deadline: Option<Instant>,
}

/// Passes a request through `filters`. What they do to its response is in its context afterwards.
///
/// Returns an error if the deadline passes while it waits.
pub(super) async fn pass<'r, 'a>(
    filters: &[HttpFilter],
    routed: Routed<'_>,
    cx: &'r mut RequestContext<'a>,
) -> Result<Gate<'r, 'a>, Failure> {
    for filter in filters {
        let Some(config) = routed.overrides.resolve(filter) else { continue };
        let mut verdict = decide(config, routed, cx);
        loop {
            match verdict {
                Verdict::Admit => break,
                Verdict::Answer(fields) => return Ok(answered(fields, cx)),
                Verdict::Refuse(refusal) => return Ok(refused(refusal, cx)),
                Verdict::Wait(time, then) => {
                    // Boxed, as a wait makes no other request larger.
                    Box::pin(wait(time, routed.deadline)).await?;
                    verdict = *then;
                }
            }
        }
    }
    Ok(Gate::Open(Admitted(cx)))
}

fn decide(config: &FilterConfig, routed: Routed<'_>, cx: &mut RequestContext<'_>) -> Verdict {
    let (head, source) = (cx.head.view(), cx.on.client.source());
    if let FilterConfig::Rbac(rbac) = config {
        // The record has the names of policies, which a verdict does not.
        let decision = rbac.decide(&source, Some(&head));
        cx.journal.authorized(decision);
        return decision.verdict();
    }
    let request = FilterRequest { head, source, cluster: routed.cluster, random: || fastrand::u32(..) };
    config.decide(&request, &mut cx.response_changes)
}

async fn wait(time: Duration, deadline: Option<Instant>) -> Result<(), Failure> {
    let now = Instant::now();
    // A time that overflows the clock never passes.
    let until = now.checked_add(time);
    match (until, deadline) {
        (Some(until), None) => sleep_until(until).await,
        (Some(until), Some(deadline)) if until < deadline => sleep_until(until).await,
        (_, Some(deadline)) => {
            sleep_until(deadline).await;
            return Err(Failure::local(Reason::UpstreamRequestTimeout, "a filter delays the request"));
        }
        (None, None) => std::future::pending().await,
    }
    Ok(())
}

fn answered<'r, 'a>(fields: HeaderMap, cx: &mut RequestContext<'a>) -> Gate<'r, 'a> {
    cx.journal.set_reason(Reason::DirectResponse);
    let mut head = ResponseHead::new(StatusCode::OK);
    head.headers = fields;
    head.headers.insert(respond::REASON, HeaderValue::from_static(Reason::DirectResponse.name()));
    Gate::Answered(Box::new(Reply::Response(head, Body::empty(), None)))
}

fn refused<'r, 'a>(refusal: Refusal, cx: &mut RequestContext<'a>) -> Gate<'r, 'a> {
    let Refusal { reason, status, grpc_status } = refusal;
    cx.journal.set_reason(reason);
    let (mut head, body) = respond::answer(reason, status, failed_request(&cx.head, &cx.journal), cx.grpc);
    if let (true, Some(code)) = (cx.grpc, grpc_status) {
        head.headers.insert(respond::GRPC_STATUS, HeaderValue::from(u16::from(code)));
    }
    Gate::Answered(Box::new(Reply::Response(head, body, None)))
}

impl<'r, 'a> Admitted<'r, 'a> {
    /// A request to a destination outside the mesh, where no listener has filters.
    pub(super) fn passthrough(cx: &'r mut RequestContext<'a>) -> Self {
        Self(cx)
    }

    pub(super) fn context(&mut self) -> &mut RequestContext<'a> {
        self.0
    }

    pub(super) fn into_context(self) -> &'r mut RequestContext<'a> {
        self.0
    }
}
