//! Passes a request through the HTTP filters of its listener, in their order, before it is forwarded.
//!
//! Filters decide ([`outrigger_policy::filter`]), and this file carries out what they decide. Only this file makes an
//! [`Admitted`], and only an [`Admitted`] is forwarded.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, StatusCode};
use outrigger_config::snapshot::Snapshot;
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use outrigger_policy::descriptor::RouteDescriptors;
use outrigger_policy::filter::overrides::FilterOverrides;
use outrigger_policy::filter::{FilterConfig, HttpFilter};
use outrigger_policy::rbac::Asked;
use outrigger_policy::verdict::{FilterRequest, Heard, Refusal, RequestChanges, Response, Verdict};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::reply::Reply;
use super::request_context::{RequestContext, failed_request};
use super::uptime::uptime;
use super::{ask, keys, read_body, respond};
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
    /// How the route describes requests to rate limits.
    pub(super) descriptors: Option<&'a RouteDescriptors>,
    /// When the request must have been answered.
    pub(super) deadline: Option<Instant>,
    /// The configuration that the request was routed by.
    pub(super) snapshot: &'a Snapshot,
}

/// Passes a request through `filters`. What they do to its response is in its context afterwards.
///
/// Returns an error if the deadline passes while it waits, or if its body cannot be read.
pub(super) async fn pass<'r, 'a>(
    filters: &[HttpFilter],
    routed: Routed<'_>,
    cx: &'r mut RequestContext<'a>,
) -> Result<Gate<'r, 'a>, Failure> {
    for filter in filters {
        let Some(config) = routed.overrides.resolve(filter) else { continue };
        let deciding = Deciding { config, listener: &filter.config, routed };
        match deciding.first(cx) {
            Verdict::Admit => {}
            // Boxed, as it makes no other request larger.
            verdict => {
                if let Some(reply) = Box::pin(deciding.carry_out(verdict, cx)).await? {
                    return Ok(Gate::Answered(Box::new(reply)));
                }
            }
        }
    }
    Ok(Gate::Open(Admitted(cx)))
}

/// A filter that decides about a request.
#[derive(Debug, Clone, Copy)]
struct Deciding<'f> {
    config: &'f FilterConfig,
    /// The filter's configuration in the listener.
    listener: &'f FilterConfig,
    routed: Routed<'f>,
}

impl Deciding<'_> {
    fn first(&self, cx: &mut RequestContext<'_>) -> Verdict {
        if let FilterConfig::Rbac(rbac) = self.config {
            // The record has the names of policies, which a verdict does not.
            let asked = Asked { head: &cx.head.view(), claims: &cx.claims };
            let decision = rbac.decide(&cx.on.client.source(), Some(asked));
            cx.journal.authorized(decision);
            return decision.verdict();
        }
        let mut changes = std::mem::take(&mut cx.response_changes);
        let verdict = self.config.decide(self.listener, &self.request(cx), &mut changes);
        cx.response_changes = changes;
        verdict
    }

    fn again(&self, heard: Heard, cx: &mut RequestContext<'_>) -> Verdict {
        let mut changes = std::mem::take(&mut cx.response_changes);
        let verdict = self.config.decide_again(self.listener, &self.request(cx), heard, &mut changes);
        cx.response_changes = changes;
        verdict
    }

    fn request<'r>(&self, cx: &'r RequestContext<'_>) -> FilterRequest<'r>
    where
        Self: 'r,
    {
        FilterRequest {
            head: cx.head.view(),
            source: cx.on.client.source(),
            cluster: self.routed.cluster,
            descriptors: self.routed.descriptors,
            version: cx.head.version,
            has_body: !cx.body.is_ended() && !cx.head.asks_for_tunnel(),
            body_length: cx.body.length(),
            workload: &*cx.on.context.identity,
            random: || fastrand::u32(..),
            now: uptime,
            time_of_day: SystemTime::now,
            claims: &cx.claims,
        }
    }

    /// Carries out verdicts until one decides. Returns the reply to a request that is not admitted.
    async fn carry_out(
        &self,
        mut verdict: Verdict,
        cx: &mut RequestContext<'_>,
    ) -> Result<Option<Reply>, Failure> {
        let Routed { deadline, snapshot, .. } = self.routed;
        loop {
            verdict = match verdict {
                Verdict::Admit => return Ok(None),
                Verdict::AdmitWith(changes) => {
                    changes.apply(&mut cx.head.headers);
                    return Ok(None);
                }
                Verdict::AdmitChanged(changes) => {
                    change(*changes, cx);
                    return Ok(None);
                }
                Verdict::AdmitUnchecked(changes) => {
                    cx.on.context.recorder.metrics().process.filters_failed_open.increment();
                    changes.apply(&mut cx.head.headers);
                    return Ok(None);
                }
                Verdict::Answer(fields) => return Ok(Some(answered(fields, cx))),
                Verdict::Refuse(refusal) => return Ok(Some(refused(refusal, cx))),
                Verdict::Respond(response) => return Ok(Some(responded(*response, cx))),
                Verdict::Wait(time, then) => {
                    wait(time, deadline).await?;
                    *then
                }
                Verdict::ReadBody(most) => {
                    let beginning = read_body::read(most, deadline, cx).await?;
                    self.again(Heard::Body(beginning), cx)
                }
                Verdict::AwaitKeys(keys, fetches) => {
                    keys::fetch(&keys, &cx.on.context);
                    within(deadline, keys.after(fetches)).await?;
                    self.first(cx)
                }
                Verdict::Ask(question) => {
                    let reply = ask::ask(*question, deadline, snapshot, cx).await;
                    if let Err(failure) = &reply {
                        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                            return Err(out_of_time("a filter waits for its service"));
                        }
                        cx.journal.note(&format!("a filter's service: {failure}"));
                    }
                    self.again(Heard::Reply(reply), cx)
                }
            };
        }
    }
}

fn change(changes: RequestChanges, cx: &mut RequestContext<'_>) {
    let RequestChanges { fields, path, claims } = changes;
    fields.apply(&mut cx.head.headers);
    if let Some(path) = path {
        cx.head.path = path;
    }
    if !claims.is_empty() {
        let before = std::mem::take(&mut cx.claims);
        cx.claims = before.into_iter().chain(claims).collect();
    }
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
            return Err(out_of_time("a filter delays the request"));
        }
        (None, None) => std::future::pending().await,
    }
    Ok(())
}

async fn within(deadline: Option<Instant>, work: impl Future<Output = ()>) -> Result<(), Failure> {
    match deadline {
        None => work.await,
        Some(deadline) => {
            timeout_at(deadline, work).await.map_err(|_| out_of_time("a filter waits for keys"))?;
        }
    }
    Ok(())
}

fn out_of_time(what: &str) -> Failure {
    Failure::local(Reason::UpstreamRequestTimeout, what)
}

fn answered(fields: HeaderMap, cx: &mut RequestContext<'_>) -> Reply {
    cx.journal.set_reason(Reason::DirectResponse);
    let mut head = ResponseHead::new(StatusCode::OK);
    head.headers = fields;
    head.headers.insert(respond::REASON, HeaderValue::from_static(Reason::DirectResponse.name()));
    Reply::Response(head, Body::empty(), None)
}

fn refused(refusal: Refusal, cx: &mut RequestContext<'_>) -> Reply {
    let Refusal { reason, status, grpc_status } = refusal;
    cx.journal.set_reason(reason);
    let (mut head, body) = respond::answer(reason, status, failed_request(&cx.head, &cx.journal), cx.grpc);
    if let (true, Some(code)) = (cx.grpc, grpc_status) {
        head.headers.insert(respond::GRPC_STATUS, HeaderValue::from(u16::from(code)));
    }
    Reply::Response(head, body, None)
}

fn responded(response: Response, cx: &mut RequestContext<'_>) -> Reply {
    let Response { reason, status, fields, body } = response;
    cx.journal.set_reason(reason);
    let head = ResponseHead { headers: fields, ..ResponseHead::new(status) };
    let (head, body) = respond::own(reason, head, body, cx.grpc);
    Reply::Response(head, body, None)
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
