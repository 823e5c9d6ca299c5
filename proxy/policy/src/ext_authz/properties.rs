//! What holds for every answer of a service. Property tests and fuzz targets (`fuzz/`) call this function, which panics if it does
//! not.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::answer::{Answer, of_call};
use crate::header_mutation::HeaderMutation;
use crate::question::ServiceReply;

/// The fields that no answer changes.
const PROTECTED: [HeaderName; 5] =
    [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION, header::UPGRADE];

/// The message of a gRPC call that succeeded. Whatever it says, no field is changed that no policy may change, and a denial has a
/// final status.
pub(crate) fn answer(message: &[u8]) {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    let body = Bytes::from([&[0], &length[..], message].concat());
    let ok = HeaderValue::from_static("0");
    let reply = ServiceReply {
        status: StatusCode::OK,
        fields: HeaderMap::new(),
        body,
        trailers: [(HeaderName::from_static("grpc-status"), ok)].into_iter().collect(),
    };
    match of_call(&reply, StatusCode::FORBIDDEN) {
        Answer::Allowed { request, response } => {
            [request, response].iter().for_each(changes_only_what_it_may)
        }
        Answer::Denied(response) | Answer::Error(Some(response)) => {
            assert!((200..600).contains(&response.status.as_u16()), "{}", response.status);
            assert!(PROTECTED.iter().all(|name| !response.fields.contains_key(name)));
        }
        Answer::Error(None) | Answer::Unusable => {}
    }
}

fn changes_only_what_it_may(mutation: &HeaderMutation) {
    let kept = HeaderValue::from_static("kept");
    let mut fields: HeaderMap = PROTECTED.map(|name| (name, kept.clone())).into_iter().collect();
    mutation.apply(&mut fields);
    for name in &PROTECTED {
        assert!(fields.get_all(name).iter().eq([&kept]), "{name}");
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::xds::auth_service::{
        CheckResponse, DeniedHttpResponse, OkHttpResponse, check_response::HttpResponse,
    };
    use outrigger_proto::xds::{core, rpc, types};
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    fn option((key, value, append, action): (String, Vec<u8>, Option<bool>, i32)) -> core::HeaderValueOption {
        use outrigger_proto::xds::protobuf::BoolValue;
        #[allow(deprecated)] // the form that services send
        core::HeaderValueOption {
            header: Some(core::HeaderValue { key, raw_value: value, ..Default::default() }),
            append: append.map(|value| BoolValue { value }),
            append_action: action,
            ..Default::default()
        }
    }

    fn options() -> impl Strategy<Value = Vec<core::HeaderValueOption>> {
        let name = "(x-a|X-B|host|Host|:path|te|connection|content-length|transfer-encoding|upgrade|a b|)";
        let value = prop::collection::vec(any::<u8>(), 0..4);
        prop::collection::vec((name, value, any::<Option<bool>>(), -1..5).prop_map(option), 0..4)
    }

    proptest! {
        #[test]
        fn answers_of_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            answer(&bytes);
        }

        #[test]
        fn answers_that_allow_or_deny(
            code in -1..3,
            status in prop::option::of(-1..1200),
            headers in options(),
            of_response in options(),
            removed in prop::collection::vec("(x-a|host|:path|connection)", 0..3),
        ) {
            let denied = DeniedHttpResponse {
                status: status.map(|code| types::HttpStatus { code }),
                headers: headers.clone(),
                body: "no".into(),
            };
            let ok = OkHttpResponse {
                headers,
                headers_to_remove: removed,
                response_headers_to_add: of_response,
                ..Default::default()
            };
            for response in
                [HttpResponse::OkResponse(ok), HttpResponse::DeniedResponse(denied.clone()), HttpResponse::ErrorResponse(denied)]
            {
                let status = Some(rpc::Status { code, ..Default::default() });
                let message = CheckResponse { status, http_response: Some(response), ..Default::default() };
                answer(&message.encode_to_vec());
            }
        }
    }
}
