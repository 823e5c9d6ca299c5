//! What a request passes before it is forwarded: the HTTP filters of its listener, in their order.
//!
//! Only this file makes an [`Admitted`], and only an [`Admitted`] is forwarded.

use http::{HeaderMap, HeaderValue, StatusCode};
use outrigger_config::http_manager::HttpFilter;
use outrigger_config::route::Route;
use outrigger_core::reason::Reason;
use outrigger_policy::cors::{CorsPolicy, Verdict};

use super::respond;
use crate::codec::body::Body;
use crate::codec::head::{RequestHead, ResponseHead};

/// A request that every filter let pass.
#[derive(Debug)]
pub(super) struct Admitted {
    head: RequestHead,
    body: Body,
}

/// What the filters said.
#[derive(Debug)]
pub(super) enum Gate {
    /// It may be forwarded. What filters put on its response comes with it.
    Open(Admitted, OnResponse),
    /// It is answered here.
    Answered(Reason, ResponseHead, Body),
}

/// What filters do to a response.
#[derive(Debug, Default)]
pub(super) struct OnResponse {
    cors: Option<HeaderMap>,
}

/// Passes a request through `filters`.
pub(super) fn pass(filters: &[HttpFilter], route: &Route, head: RequestHead, body: Body) -> Gate {
    let mut on_response = OnResponse::default();
    for filter in filters {
        match filter {
            HttpFilter::Cors => {
                let Some(policy) = &route.cors else { continue };
                match policy.check(&head.method, &head.headers, fastrand::u32(..)) {
                    Verdict::Pass => {}
                    Verdict::Allow(headers) => on_response.cors = Some(headers),
                    Verdict::Answer(headers) => {
                        let mut answer = ResponseHead::new(StatusCode::OK);
                        answer.headers = headers;
                        answer
                            .headers
                            .insert(respond::REASON, HeaderValue::from_static(Reason::DirectResponse.name()));
                        return Gate::Answered(Reason::DirectResponse, answer, Body::empty());
                    }
                }
            }
        }
    }
    Gate::Open(Admitted { head, body }, on_response)
}

impl Admitted {
    /// A request to a destination outside the mesh, where no listener has filters.
    pub(super) fn outside(head: RequestHead, body: Body) -> Self {
        Self { head, body }
    }

    pub(super) fn head(&self) -> &RequestHead {
        &self.head
    }

    pub(super) fn head_mut(&mut self) -> &mut RequestHead {
        &mut self.head
    }

    /// Puts something between the client and what is forwarded of its body.
    pub(super) fn map_body(self, change: impl FnOnce(Body) -> Body) -> Self {
        Self { head: self.head, body: change(self.body) }
    }

    pub(super) fn into_parts(self) -> (RequestHead, Body) {
        (self.head, self.body)
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
