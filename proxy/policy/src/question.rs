//! A question to a service, which the data path asks for a policy: one HTTP request or one unary gRPC call, and its reply.
//!
//! A unary call is a POST whose body is the message after five bytes: no compression, and the message's length (gRPC over
//! HTTP/2, "Length-Prefixed-Message"). Its status is in the trailers, or in the head if there is no message.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use outrigger_core::Name;
use outrigger_proto::xds::core;
use outrigger_proto::xds::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
use prost::Message;

use crate::field::{
    Unusable, each, non_empty, number, positive_duration, required, unsupported, unsupported_any,
};
use crate::header_mutation::{literal, mutable_name};
use crate::response::{GRPC_STATUS, read_grpc_status};

/// The longest reply that is read unless the configuration sets another limit, in bytes.
pub const LONGEST_REPLY: usize = 1024 * 1024;

const PREFIX: usize = 5;

/// A request to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The cluster of the service.
    pub cluster: Name,
    /// How long its reply may take.
    pub timeout: Duration,
    /// How long its reply may be, in bytes.
    pub longest_reply: usize,
    /// Whether it is a gRPC call, which needs HTTP/2.
    pub is_grpc: bool,
    /// The method.
    pub method: Method,
    /// The authority.
    pub authority: Authority,
    /// The path and query.
    pub path: PathAndQuery,
    /// The fields, without `content-length`.
    pub fields: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// The complete reply of a service.
#[derive(Debug, Clone)]
pub struct ServiceReply {
    /// The status.
    pub status: StatusCode,
    /// The fields.
    pub fields: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The trailers.
    pub trailers: HeaderMap,
}

impl ServiceReply {
    /// Returns the message of a gRPC call that succeeded, or why there is none.
    pub fn message<M: Message + Default>(&self) -> Result<M, String> {
        if self.status != StatusCode::OK {
            return Err(format!("HTTP status {}", self.status.as_u16()));
        }
        let status = self.trailers.get(GRPC_STATUS).or_else(|| self.fields.get(GRPC_STATUS));
        match status.map(read_grpc_status) {
            Some(Some(0)) => {}
            Some(Some(status)) => return Err(format!("grpc-status {status}")),
            Some(None) | None => return Err("no grpc-status".to_owned()),
        }
        let Some((prefix, message)) = self.body.split_at_checked(PREFIX) else {
            return Err("no message".to_owned());
        };
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
        if prefix != [0, length[0], length[1], length[2], length[3]] {
            return Err("not one message without compression".to_owned());
        }
        M::decode(message).map_err(|bad| format!("a message that cannot be decoded: {bad}"))
    }
}

/// A gRPC service (`envoy.config.core.v3.GrpcService`).
#[derive(Debug, Clone)]
pub(crate) struct GrpcService {
    pub(crate) cluster: Name,
    pub(crate) timeout: Option<Duration>,
    longest_reply: usize,
    authority: Authority,
    metadata: HeaderMap,
}

impl GrpcService {
    /// Decodes a service that is a cluster.
    pub(crate) fn decode(wire: core::GrpcService) -> Result<Self, Unusable> {
        let core::GrpcService { timeout, initial_metadata, retry_policy, target_specifier } = wire;
        unsupported("retry_policy", retry_policy.is_some())?;
        let EnvoyGrpc {
            cluster_name,
            authority,
            retry_policy,
            max_receive_message_length,
            skip_envoy_headers: _, // none are added
        } = match required("target_specifier", target_specifier)? {
            TargetSpecifier::EnvoyGrpc(service) => service,
            TargetSpecifier::GoogleGrpc(_) => return Err(Unusable::new("google_grpc", "is not supported")),
        };
        unsupported_any(&[("envoy_grpc.retry_policy", retry_policy.is_some())])?;
        let cluster: Name = non_empty("envoy_grpc.cluster_name", cluster_name)?.into();
        let authority = match authority.as_str() {
            "" => of_cluster(&cluster)?,
            given => Authority::try_from(given)
                .map_err(|_| Unusable::new("envoy_grpc.authority", "is no authority"))?,
        };
        let metadata = each("initial_metadata", initial_metadata, field)?.into_iter().collect();
        let longest = number(max_receive_message_length).filter(|longest| *longest > 0);
        Ok(Self {
            cluster,
            timeout: positive_duration("timeout", timeout)?,
            longest_reply: longest.map_or(LONGEST_REPLY, |longest| longest as usize + PREFIX),
            authority,
            metadata,
        })
    }

    /// Returns the question of a unary call of `method` (`/package.Service/Method`).
    pub(crate) fn call(&self, method: &'static str, timeout: Duration, message: &impl Message) -> Question {
        let length = message.encoded_len();
        let mut body = BytesMut::with_capacity(PREFIX + length);
        body.put_u8(0);
        body.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        body.put(&*message.encode_to_vec());
        let mut fields = self.metadata.clone();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        fields.insert(TE, HeaderValue::from_static("trailers"));
        fields.insert("grpc-timeout", milliseconds(timeout));
        Question {
            cluster: self.cluster.clone(),
            timeout,
            longest_reply: self.longest_reply,
            is_grpc: true,
            method: Method::POST,
            authority: self.authority.clone(),
            path: PathAndQuery::from_static(method),
            fields,
            body: body.freeze(),
        }
    }
}

/// The format has at most eight digits (gRPC over HTTP/2, "Timeout").
fn milliseconds(timeout: Duration) -> HeaderValue {
    let number = timeout.as_millis().clamp(1, 99_999_999);
    HeaderValue::try_from(format!("{number}m")).unwrap_or(HeaderValue::from_static("99999999m"))
}

/// The authority is the name of the cluster, as in Envoy. Characters that no authority may have become `-`.
pub(crate) fn of_cluster(name: &str) -> Result<Authority, Unusable> {
    let legal = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') { c } else { '-' };
    let name: String = name.chars().map(legal).collect();
    Authority::try_from(name).map_err(|_| Unusable::new("envoy_grpc.cluster_name", "gives no authority"))
}

/// Decodes a field that is added to requests to a service. Returns an error for a substitution command.
pub(crate) fn field(wire: core::HeaderValue) -> Result<(http::HeaderName, HeaderValue), Unusable> {
    let core::HeaderValue { key, value, raw_value } = wire;
    let name = mutable_name("key", &key)?;
    let value = if raw_value.is_empty() { literal("value", &value)?.into_bytes() } else { raw_value };
    let value = HeaderValue::from_bytes(&value)
        .map_err(|_| Unusable::new("value", "holds a character that no header may have"))?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use outrigger_proto::xds::rpc::Status;

    use super::*;

    fn service(name: &str) -> core::GrpcService {
        let target = EnvoyGrpc { cluster_name: name.into(), ..Default::default() };
        core::GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(target)), ..Default::default() }
    }

    fn call() -> Question {
        let service = GrpcService::decode(service("outbound|9191||opa.shop")).unwrap();
        let message = Status { code: 5, ..Default::default() };
        service.call("/package.Service/Method", Duration::from_millis(200), &message)
    }

    fn reply(body: &[u8], status: &'static str) -> ServiceReply {
        let trailers = HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            HeaderValue::from_static(status),
        )]);
        let body = Bytes::copy_from_slice(body);
        ServiceReply { status: StatusCode::OK, fields: HeaderMap::new(), body, trailers }
    }

    #[test]
    fn a_call_is_a_post_with_a_prefixed_message() {
        let call = call();
        assert_eq!(call.body, [0, 0, 0, 0, 2, 8, 5][..]);
        assert_eq!(
            (call.authority.as_str(), call.path.as_str()),
            ("outbound-9191--opa.shop", "/package.Service/Method")
        );
        assert_eq!(call.fields["grpc-timeout"], "200m");
        assert!(call.is_grpc && call.method == Method::POST && call.fields["te"] == "trailers");
    }

    #[test]
    fn the_message_of_a_reply_is_read_only_if_the_call_succeeded() {
        let body = call().body;
        assert_eq!(reply(&body, "0").message::<Status>().unwrap().code, 5);
        let refused = |reply: ServiceReply| reply.message::<Status>().unwrap_err();
        assert_eq!(refused(reply(&body, "14")), "grpc-status 14");
        assert_eq!(refused(reply(&body, "x")), "no grpc-status");
        assert_eq!(refused(reply(&[0, 0, 0], "0")), "no message");
        for broken in [&[1, 0, 0, 0, 2, 8, 5][..], &[0, 0, 0, 0, 3, 8, 5], &[0, 0, 0, 0, 1, 8, 5]] {
            assert_eq!(refused(reply(broken, "0")), "not one message without compression");
        }
        assert!(refused(reply(&[0, 0, 0, 0, 1, 255], "0")).starts_with("a message that cannot be decoded"));
        let other = ServiceReply { status: StatusCode::BAD_GATEWAY, ..reply(&body, "0") };
        assert_eq!(refused(other), "HTTP status 502");
    }

    #[test]
    fn a_service_that_cannot_be_asked_is_refused_by_field() {
        let refused = |wire| GrpcService::decode(wire).unwrap_err().field;
        assert_eq!(refused(core::GrpcService::default()), "target_specifier");
        assert_eq!(refused(service("")), "envoy_grpc.cluster_name");
        let google = Some(TargetSpecifier::GoogleGrpc(Default::default()));
        assert_eq!(refused(core::GrpcService { target_specifier: google, ..service("a") }), "google_grpc");
        let timeout = Some(Default::default());
        assert_eq!(refused(core::GrpcService { timeout, ..service("a") }), "timeout");
    }
}
