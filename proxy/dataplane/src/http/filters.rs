//! Runs the HTTP filters of a listener, in their order, before a request is forwarded.
//!
//! Only this file makes an [`Admitted`], and only an [`Admitted`] is forwarded.

use http::{HeaderMap, HeaderValue, StatusCode};
use outrigger_config::http_manager::HttpFilter;
use outrigger_config::route::Route;
use outrigger_core::reason::Reason;
use outrigger_policy::cors::{CorsPolicy, Verdict};

use super::request_context::RequestContext;
use super::respond;
use crate::codec::head::ResponseHead;

/// A request that every filter let pass.
#[derive(Debug)]
pub(super) struct Admitted<'r, 'a>(&'r mut RequestContext<'a>);

/// The result of the filters.
#[derive(Debug)]
pub(super) enum Gate<'r, 'a> {
    /// The request may be forwarded; its response gets the fields of `OnResponse`.
    Open(Admitted<'r, 'a>, OnResponse),
    /// It is answered here, without a body.
    Answered(Reason, ResponseHead),
}

/// What filters do to a response.
#[derive(Debug, Default)]
pub(super) struct OnResponse {
    cors: Option<HeaderMap>,
}

/// Passes a request through `filters`.
pub(super) fn pass<'r, 'a>(
    filters: &[HttpFilter],
    route: &Route,
    cx: &'r mut RequestContext<'a>,
) -> Gate<'r, 'a> {
    let mut on_response = OnResponse::default();
    for filter in filters {
        match filter {
            HttpFilter::Cors => {
                let Some(policy) = &route.cors else { continue };
                match policy.check(&cx.head.method, &cx.head.headers, fastrand::u32(..)) {
                    Verdict::Pass => {}
                    Verdict::Allow(headers) => on_response.cors = Some(headers),
                    Verdict::Answer(headers) => {
                        let mut answer = ResponseHead::new(StatusCode::OK);
                        answer.headers = headers;
                        answer
                            .headers
                            .insert(respond::REASON, HeaderValue::from_static(Reason::DirectResponse.name()));
                        return Gate::Answered(Reason::DirectResponse, answer);
                    }
                }
            }
        }
    }
    Gate::Open(Admitted(cx), on_response)
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

impl OnResponse {
    /// The filters' response side.
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        if let Some(cors) = &self.cors {
            CorsPolicy::respond(cors, headers);
        }
    }
}
