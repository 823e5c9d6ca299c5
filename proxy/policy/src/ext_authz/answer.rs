//! What a service answered: whether a request is allowed, and the fields that it changes (`envoy.service.auth.v3.CheckResponse`).
//!
//! A field that no policy may change (pseudo-headers, `host`, framing) makes an answer unusable: the service believes that it
//! is set. Such a request is refused, also where failures of the service let requests through.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use outrigger_core::reason::Reason;
use outrigger_proto::xds::auth_service::{
    CheckResponse, DeniedHttpResponse, OkHttpResponse, check_response::HttpResponse,
};
use outrigger_proto::xds::{core, rpc, types};

use crate::field::final_status;
use crate::header_mutation::{HeaderMutation, mutable_name};
use crate::question::ServiceReply;
use crate::verdict::Response;

/// An answer.
#[derive(Debug)]
pub(super) enum Answer {
    /// The request is allowed, with these changes to its fields and to those of its response.
    Allowed { request: HeaderMutation, response: HeaderMutation },
    /// The request is answered with this.
    Denied(Box<Response>),
    /// The service failed. With a response, this is what it wants the client to be told.
    Error(Option<Box<Response>>),
    /// The answer changes what it may not.
    Unusable,
}

/// Returns the answer in the reply to a gRPC call.
pub(super) fn of_call(reply: &ServiceReply, status_on_error: StatusCode) -> Answer {
    let Ok(CheckResponse { status, dynamic_metadata: _, http_response }) = reply.message() else {
        return Answer::Error(None);
    };
    // Without a status the code is 0, as in Envoy.
    let rpc::Status { code, message: _, details: _ } = status.unwrap_or_default();
    let denial = |wire: DeniedHttpResponse, reason, default| response(wire, reason, default).map(Box::new);
    match (code, http_response) {
        (0, Some(HttpResponse::OkResponse(ok))) => allowed(ok).unwrap_or(Answer::Unusable),
        (0, _) => Answer::Allowed { request: HeaderMutation::default(), response: HeaderMutation::default() },
        (_, Some(HttpResponse::ErrorResponse(wire))) => {
            denial(wire, Reason::ExternalAuthorizationFailed, status_on_error)
                .map_or(Answer::Unusable, |response| Answer::Error(Some(response)))
        }
        (_, denied) => {
            let wire = match denied {
                Some(HttpResponse::DeniedResponse(wire)) => wire,
                _ => DeniedHttpResponse::default(),
            };
            denial(wire, Reason::ExternalAuthorizationDenied, StatusCode::FORBIDDEN)
                .map_or(Answer::Unusable, Answer::Denied)
        }
    }
}

fn allowed(wire: OkHttpResponse) -> Option<Answer> {
    #[allow(deprecated)] // the older form of metadata
    let OkHttpResponse {
        headers,
        headers_to_remove,
        dynamic_metadata: _,
        response_headers_to_add,
        query_parameters_to_set,
        query_parameters_to_remove,
    } = wire;
    if !(query_parameters_to_set.is_empty() && query_parameters_to_remove.is_empty()) {
        return None;
    }
    let mut request = mutation(headers)?;
    // As in Envoy, a name that may not be removed is passed over.
    let removable = headers_to_remove.iter().filter_map(|name| mutable_name("", name).ok());
    removable.for_each(|name| request.remove(name));
    Some(Answer::Allowed { request, response: mutation(response_headers_to_add)? })
}

fn response(wire: DeniedHttpResponse, reason: Reason, default: StatusCode) -> Option<Response> {
    let DeniedHttpResponse { status: given, headers, body } = wire;
    let status = match given {
        Some(types::HttpStatus { code: 0 }) | None => default,
        Some(wire) => final_status("status", wire).ok()?,
    };
    let mut fields = HeaderMap::new();
    mutation(headers)?.apply(&mut fields);
    Some(Response { reason, status, fields, body: Bytes::from(body) })
}

fn mutation(wire: Vec<core::HeaderValueOption>) -> Option<HeaderMutation> {
    let mut all = HeaderMutation::default();
    for option in wire {
        add(&mut all, option)?;
    }
    Some(all)
}

/// Without an action, a field is replaced: a client that sends a field which the service sets must not keep its value.
fn add(all: &mut HeaderMutation, wire: core::HeaderValueOption) -> Option<()> {
    use core::header_value_option::HeaderAppendAction as Action;
    #[allow(deprecated)] // `append` is the form that services send
    let core::HeaderValueOption { header, append, append_action, keep_empty_value: _ } = wire;
    let core::HeaderValue { key, value, raw_value } = header?;
    let (name, value) = field(&key, if raw_value.is_empty() { value.as_bytes() } else { &raw_value })?;
    match (append, Action::try_from(append_action).ok()?) {
        (Some(append), _) if append.value => all.append(name, value),
        (_, Action::AppendIfExistsOrAdd | Action::OverwriteIfExistsOrAdd) => all.set(name, value),
        (_, Action::AddIfAbsent) => all.set_if(false, name, value),
        (_, Action::OverwriteIfExists) => all.set_if(true, name, value),
    }
    Some(())
}

fn field(name: &str, value: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    Some((mutable_name("", name).ok()?, HeaderValue::from_bytes(value).ok()?))
}
