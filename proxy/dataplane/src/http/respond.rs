//! Answers that the proxy makes itself: for failures, direct responses and redirects.
//!
//! All carry `x-outrigger-reason`. The text of a failure is one sentence ([`Explanation`]). A gRPC client
//! reads no HTTP status: it gets trailers-only (gRPC over HTTP/2, "Responses"), which is HTTP 200 with `grpc-status` in the head.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, StatusCode};
use outrigger_core::error::Failure;
use outrigger_core::explanation::{Explanation, FailedRequest};
use outrigger_core::grpc::status_of_http;
use outrigger_core::reason::Reason;
use outrigger_policy::response;

use crate::codec::body::{Body, Frame, Source};
use crate::codec::head::ResponseHead;

pub(super) const REASON: HeaderName = HeaderName::from_static(Reason::FIELD);
pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static(response::GRPC_STATUS);
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
/// `google.rpc.Status` with code 14 and a `google.rpc.RetryInfo` of one second: the application is overloaded.
const RETRY_IN_A_SECOND: HeaderValue = HeaderValue::from_static(
    "CA4SCm92ZXJsb2FkZWQaMAoodHlwZS5nb29nbGVhcGlzLmNvbS9nb29nbGUucnBjLlJldHJ5SW5mbxIECgIIAQ",
);
/// Bytes of a text that a `grpc-message` is made of.
const LONGEST_MESSAGE: usize = 1024;

/// The answer for a failure of `request`, in the client's language.
pub(super) fn failed(reason: Reason, request: FailedRequest<'_>, grpc: bool) -> (ResponseHead, Body) {
    answer(reason, reason.status(), request, grpc)
}

/// An answer with another status than the reason's own.
pub(super) fn answer(
    reason: Reason,
    status: StatusCode,
    request: FailedRequest<'_>,
    grpc: bool,
) -> (ResponseHead, Body) {
    let mut text = Explanation::new(reason, request).to_string();
    let mut head = ResponseHead::new(status);
    head.headers.insert(REASON, HeaderValue::from_static(reason.name()));
    if grpc {
        head.status = StatusCode::OK;
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let code =
            if status == reason.status() { reason.grpc_status() } else { status_of_http(status.as_u16()) };
        head.headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(code)));
        if let Some(message) = grpc_message(text.as_bytes()) {
            head.headers.insert(GRPC_MESSAGE, message);
        }
        if reason == Reason::Overloaded {
            head.headers.insert(GRPC_DETAILS, RETRY_IN_A_SECOND);
        }
        return (head, Body::empty());
    }
    text.push('\n');
    plain_text(&mut head.headers);
    (head, Body::full(Bytes::from(text)))
}

/// Declares a body that repeats what the client sent as text, which no browser may take for HTML.
fn plain_text(headers: &mut HeaderMap) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// A direct response, a redirect or the response of a filter, in the client's language: for gRPC the status becomes a
/// `grpc-status`, and the text its message, as Envoy does with what it answers itself.
pub(super) fn own(reason: Reason, mut head: ResponseHead, text: Bytes, grpc: bool) -> (ResponseHead, Body) {
    head.headers.insert(REASON, HeaderValue::from_static(reason.name()));
    if grpc {
        head.headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(status_of_http(head.status.as_u16()))));
        if let Some(message) = grpc_message(&text) {
            head.headers.insert(GRPC_MESSAGE, message);
        }
        head.status = StatusCode::OK;
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        return (head, Body::empty());
    }
    if text.is_empty() {
        return (head, Body::empty());
    }
    head.headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain"));
    (head, Body::full(text))
}

/// A text as `grpc-message` carries it, percent-encoded (gRPC over HTTP/2, "Responses"), and no longer than a field should
/// be.
fn grpc_message(text: &[u8]) -> Option<HeaderValue> {
    let mut message = String::new();
    for byte in text.iter().take(LONGEST_MESSAGE) {
        match byte {
            b' '..=b'~' if *byte != b'%' => message.push(char::from(*byte)),
            _ => message.push_str(&format!("%{byte:02X}")),
        }
    }
    if message.is_empty() { None } else { HeaderValue::try_from(message).ok() }
}

/// Whether a request is gRPC: `application/grpc`, or with a suffix or parameter.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}

/// `grpc-status` of a head or of trailers.
pub(super) fn grpc_status(fields: &HeaderMap) -> Option<u8> {
    response::read_grpc_status(fields.get(GRPC_STATUS)?)
}

/// Looks out for `grpc-status` in the trailers of a body that passes.
pub(super) fn watch_trailers(body: Body) -> (Body, Option<Rc<Watched>>) {
    if body.is_ended() {
        return (body, None);
    }
    let length = body.length();
    let watched = Rc::new(Watched { body: RefCell::new(body), status: Cell::new(None) });
    (Body::streamed(Rc::clone(&watched) as _, 0, length), Some(watched))
}

/// A body whose trailers are watched.
pub(super) struct Watched {
    body: RefCell<Body>,
    status: Cell<Option<u8>>,
}

impl Watched {
    /// Returns the `grpc-status` of its trailers, if it has come.
    pub(super) fn status(&self) -> Option<u8> {
        self.status.get()
    }
}

impl Source for Watched {
    fn poll_frame(&self, _: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        let frame = ready!(self.body.borrow_mut().poll_frame(cx));
        if let Some(Ok(Frame::Trailers(fields))) = &frame {
            self.status.set(grpc_status(fields));
        }
        Poll::Ready(frame)
    }

    fn poll_progress(&self, _: u64, cx: &mut Context<'_>) {
        self.body.borrow_mut().poll_progress(cx);
    }

    fn abandon(&self, _: u64) {
        // It is dropped now, with the exchange that it comes from, although the status is still to be read.
        self.body.replace(Body::empty());
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::xds::{protobuf, rpc};
    use prost::Message;

    use super::*;

    #[test]
    fn a_grpc_client_reads_its_failure_in_the_head() {
        let request = FailedRequest { destination: Some("50%".into()), ..FailedRequest::default() };
        let (head, body) = failed(Reason::NoHealthyUpstream, request, true);
        assert_eq!((head.status, grpc_status(&head.headers)), (StatusCode::OK, Some(14)));
        assert_eq!(head.headers[REASON], "no_healthy_upstream");
        let text = "50%25 has no endpoint that is ready (no_healthy_upstream); see: outrigger status";
        assert_eq!(head.headers[GRPC_MESSAGE], text);
        assert!(body.is_ended());
    }

    #[test]
    fn a_grpc_client_reads_when_to_try_an_overloaded_application_again() {
        let (head, _) = failed(Reason::Overloaded, FailedRequest::default(), true);
        let details = rpc::Status::decode(decode_base64(&head.headers[GRPC_DETAILS]).as_slice()).unwrap();
        assert_eq!((details.code, details.details.len()), (14, 1));
        assert_eq!(details.details[0].type_url, "type.googleapis.com/google.rpc.RetryInfo");
        // `retry_delay` is field 1 of RetryInfo.
        let delay = protobuf::Duration::decode(&details.details[0].value[2..]).unwrap();
        assert_eq!((details.details[0].value[0], delay.seconds, delay.nanos), (1 << 3 | 2, 1, 0));
        assert!(
            !failed(Reason::UpstreamOverflow, FailedRequest::default(), true)
                .0
                .headers
                .contains_key(GRPC_DETAILS)
        );
    }

    /// Base64 without padding (gRPC over HTTP/2, "Binary-Value").
    fn decode_base64(value: &HeaderValue) -> Vec<u8> {
        let digit = |byte: u8| match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        let bits =
            value.as_bytes().iter().flat_map(|byte| (0..6).rev().map(move |bit| digit(*byte) >> bit & 1));
        let bits: Vec<_> = bits.collect();
        bits.chunks_exact(8).map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | bit)).collect()
    }

    #[tokio::test]
    async fn others_read_the_status_and_a_sentence_that_no_browser_renders() {
        let request = FailedRequest { method: "GET", path: "/<b>", ..FailedRequest::default() };
        let (head, mut body) = answer(Reason::NoRouteFound, StatusCode::NOT_FOUND, request, false);
        assert_eq!((head.status.as_u16(), head.headers[REASON].as_bytes()), (404, &b"no_route_found"[..]));
        assert_eq!(head.headers[CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(head.headers[X_CONTENT_TYPE_OPTIONS], "nosniff");
        let Some(Ok(Frame::Data(text))) = body.frame().await else { panic!("no body") };
        assert!(text.starts_with(b"no route matches GET /<b> for ") && text.ends_with(b"\n"), "{text:?}");
    }

    #[tokio::test]
    async fn a_direct_response_speaks_the_clients_language() {
        for (status, code) in
            [(200, 2), (301, 2), (400, 13), (401, 16), (403, 7), (404, 12), (429, 14), (503, 14)]
        {
            let asked = ResponseHead::new(StatusCode::from_u16(status).unwrap());
            let (head, body) =
                own(Reason::DirectResponse, asked, Bytes::from_static(b"50% \xc3\xa4\n"), true);
            assert_eq!((head.status, grpc_status(&head.headers)), (StatusCode::OK, Some(code)), "{status}");
            assert_eq!(head.headers[GRPC_MESSAGE], "50%25 %C3%A4%0A");
            assert!(body.is_ended() && head.headers[CONTENT_TYPE] == "application/grpc");
        }
        let (head, mut body) = own(
            Reason::DirectResponse,
            ResponseHead::new(StatusCode::NOT_FOUND),
            Bytes::from_static(b"no"),
            false,
        );
        assert_eq!((head.status, head.headers.get(GRPC_STATUS)), (StatusCode::NOT_FOUND, None));
        assert!(matches!(body.frame().await, Some(Ok(Frame::Data(text))) if text == "no"));
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        for (kind, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=y", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(is_grpc(&headers), grpc, "{kind}");
        }
    }
}
