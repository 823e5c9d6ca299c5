//! What a check sends, and which response passes.

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method};
use outrigger_core::Name;
use outrigger_proto::xds::{core, types};
use prost::Message;

use super::CheckOutcome;
use crate::field::{Unusable, each, required, unsupported, unsupported_any};
use crate::header_mutation::HeaderMutation;
use crate::question::{LONGEST_REPLY, Question, ServiceReply, of_cluster};

/// The method of the health checking protocol of gRPC.
const CHECK: &str = "/grpc.health.v1.Health/Check";

/// `grpc.health.v1.HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: i32 = 1;

/// What is sent and expected.
#[derive(Debug, Clone, PartialEq)]
pub enum Checker {
    /// A request over HTTP.
    Http(HttpCheck),
    /// A connection, with bytes over it or without.
    Tcp(TcpCheck),
    /// A call of `grpc.health.v1.Health`.
    Grpc(GrpcCheck),
}

/// A request whose status says whether the endpoint works (`HttpHealthCheck`).
#[derive(Debug, Clone, PartialEq)]
pub struct HttpCheck {
    /// Whether it is sent over HTTP/2 to an endpoint that is no sidecar.
    pub http2: bool,
    host: Option<Authority>,
    method: Method,
    path: PathAndQuery,
    fields: HeaderMutation,
    expected: Box<[Statuses]>,
    retriable: Box<[Statuses]>,
}

/// Statuses, from the first to below the second.
type Statuses = (i64, i64);

/// A connection that must be accepted (`TcpHealthCheck`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpCheck {
    /// What is sent. Without it, nothing is read either.
    pub send: Option<Bytes>,
    /// What must be received: each part somewhere after the one before it.
    pub receive: Box<[Bytes]>,
}

/// A call that must return `SERVING` (`GrpcHealthCheck`).
#[derive(Debug, Clone, PartialEq)]
pub struct GrpcCheck {
    service: Box<str>,
    authority: Option<Authority>,
    metadata: HeaderMutation,
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct CheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
struct CheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

impl Checker {
    pub(super) fn decode(wire: core::health_check::HealthChecker) -> Result<Self, Unusable> {
        use core::health_check::HealthChecker as Wire;
        Ok(match wire {
            Wire::HttpHealthCheck(wire) => {
                Self::Http(HttpCheck::decode(wire).map_err(|bad| bad.within("http_health_check"))?)
            }
            Wire::TcpHealthCheck(wire) => {
                Self::Tcp(TcpCheck::decode(wire).map_err(|bad| bad.within("tcp_health_check"))?)
            }
            Wire::GrpcHealthCheck(wire) => {
                Self::Grpc(GrpcCheck::decode(wire).map_err(|bad| bad.within("grpc_health_check"))?)
            }
            Wire::CustomHealthCheck(_) => {
                return Err(Unusable::new("custom_health_check", "is not supported"));
            }
        })
    }

    /// Returns the request of a check of an endpoint of `cluster`, or `None` if it sends none. `hostname` is the endpoint's own name
    /// for checks (`HealthCheckConfig.hostname`). Its time is that of the check.
    pub fn request(&self, cluster: &Name, hostname: Option<&Authority>) -> Option<Question> {
        let authority = |own: &Option<Authority>| {
            let named = hostname.or(own.as_ref()).cloned();
            named.or_else(|| of_cluster(cluster).ok()).unwrap_or(Authority::from_static("localhost"))
        };
        let agent = HeaderValue::from_static("outrigger-health-check");
        let mut fields = HeaderMap::from_iter([(USER_AGENT, agent)]);
        let question = |authority, fields| Question {
            cluster: cluster.clone(),
            timeout: Default::default(),
            longest_reply: LONGEST_REPLY,
            is_grpc: false,
            method: Method::GET,
            authority,
            path: PathAndQuery::from_static("/"),
            fields,
            body: Bytes::new(),
        };
        match self {
            Self::Tcp(_) => None,
            Self::Http(check) => {
                check.fields.apply(&mut fields);
                let (method, path) = (check.method.clone(), check.path.clone());
                Some(Question { method, path, ..question(authority(&check.host), fields) })
            }
            Self::Grpc(check) => {
                check.metadata.apply(&mut fields);
                fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                fields.insert(TE, HeaderValue::from_static("trailers"));
                let message = CheckRequest { service: check.service.to_string() }.encode_to_vec();
                let mut body = BytesMut::with_capacity(5 + message.len());
                body.put_u8(0);
                body.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
                body.put(&*message);
                Some(Question {
                    is_grpc: true,
                    method: Method::POST,
                    path: PathAndQuery::from_static(CHECK),
                    body: body.freeze(),
                    ..question(authority(&check.authority), fields)
                })
            }
        }
    }

    /// Returns whether the reply to [`Self::request`] passes.
    pub fn judge(&self, reply: &ServiceReply) -> CheckOutcome {
        match self {
            Self::Tcp(_) => CheckOutcome::Passed,
            Self::Http(check) => check.judge(reply),
            Self::Grpc(_) => match reply.message::<CheckResponse>() {
                Ok(CheckResponse { status: SERVING }) => CheckOutcome::Passed,
                _ => CheckOutcome::Refused,
            },
        }
    }
}

impl HttpCheck {
    fn decode(wire: core::health_check::HttpHealthCheck) -> Result<Self, Unusable> {
        let core::health_check::HttpHealthCheck {
            host,
            path,
            send,
            receive,
            response_buffer_size: _, // is read with `receive` only
            request_headers_to_add,
            request_headers_to_remove,
            expected_statuses,
            retriable_statuses,
            codec_client_type,
            service_name_matcher,
            method,
        } = wire;
        unsupported_any(&[
            ("send", send.is_some()),
            ("receive", !receive.is_empty()),
            ("service_name_matcher", service_name_matcher.is_some()),
        ])?;
        let http2 = match types::CodecClientType::try_from(codec_client_type) {
            Ok(types::CodecClientType::Http1) => false,
            Ok(types::CodecClientType::Http2) => true,
            Ok(types::CodecClientType::Http3) => {
                return Err(Unusable::new("codec_client_type", "HTTP3 is not supported"));
            }
            Err(_) => return Err(Unusable::new("codec_client_type", "is unknown")),
        };
        let path = PathAndQuery::try_from(path.as_str()).ok().filter(|_| path.starts_with('/'));
        let mut expected = each("expected_statuses", expected_statuses, statuses)?;
        if expected.is_empty() {
            expected.push((200, 201));
        }
        Ok(Self {
            http2,
            host: authority("host", &host)?,
            method: self::method(method)?,
            path: path.ok_or_else(|| Unusable::new("path", "is no path"))?,
            fields: HeaderMutation::decode("request", request_headers_to_add, request_headers_to_remove)?,
            expected: expected.into(),
            retriable: each("retriable_statuses", retriable_statuses, statuses)?.into(),
        })
    }

    fn judge(&self, reply: &ServiceReply) -> CheckOutcome {
        let status = i64::from(reply.status.as_u16());
        let within = |of: &[Statuses]| of.iter().any(|(start, end)| (*start..*end).contains(&status));
        match (within(&self.expected), within(&self.retriable)) {
            (true, _) => CheckOutcome::Passed,
            (false, true) => CheckOutcome::Failed,
            (false, false) => CheckOutcome::Refused,
        }
    }
}

impl TcpCheck {
    fn decode(wire: core::health_check::TcpHealthCheck) -> Result<Self, Unusable> {
        let core::health_check::TcpHealthCheck { send, receive, proxy_protocol_config } = wire;
        unsupported("proxy_protocol_config", proxy_protocol_config.is_some())?;
        let send = send.map(payload).transpose().map_err(|bad| bad.within("send"))?;
        let receive = each("receive", receive, payload)?;
        unsupported("receive", send.is_none() && !receive.is_empty())?;
        Ok(Self { send, receive: receive.into() })
    }

    /// Returns whether all parts are in what was received.
    pub fn is_satisfied(&self, mut received: &[u8]) -> bool {
        self.receive.iter().all(|part| {
            let found = received.windows(part.len().max(1)).position(|window| window == &part[..]);
            match found {
                Some(at) => {
                    received = &received[at + part.len()..];
                    true
                }
                None => part.is_empty(),
            }
        })
    }
}

impl GrpcCheck {
    fn decode(wire: core::health_check::GrpcHealthCheck) -> Result<Self, Unusable> {
        let core::health_check::GrpcHealthCheck { service_name, authority, initial_metadata } = wire;
        Ok(Self {
            service: service_name.into(),
            authority: self::authority("authority", &authority)?,
            metadata: HeaderMutation::decode_list("initial_metadata", initial_metadata)?,
        })
    }
}

fn authority(field: &str, text: &str) -> Result<Option<Authority>, Unusable> {
    let given = (!text.is_empty()).then(|| Authority::try_from(text));
    given.transpose().map_err(|_| Unusable::new(field, format_args!("{text:?} is no authority")))
}

fn statuses(wire: types::Int64Range) -> Result<Statuses, Unusable> {
    let types::Int64Range { start, end } = wire;
    if !(100..600).contains(&start) || end <= start || end > 600 {
        return Err(Unusable::new("", format_args!("{start} to {end} are no statuses")));
    }
    Ok((start, end))
}

fn method(wire: i32) -> Result<Method, Unusable> {
    use core::RequestMethod as Wire;
    Ok(match Wire::try_from(wire) {
        Ok(Wire::MethodUnspecified | Wire::Get) => Method::GET,
        Ok(Wire::Head) => Method::HEAD,
        Ok(Wire::Post) => Method::POST,
        Ok(Wire::Put) => Method::PUT,
        Ok(Wire::Delete) => Method::DELETE,
        Ok(Wire::Options) => Method::OPTIONS,
        Ok(Wire::Trace) => Method::TRACE,
        Ok(Wire::Patch) => Method::PATCH,
        Ok(Wire::Connect) => return Err(Unusable::new("method", "CONNECT is not supported")),
        Err(_) => return Err(Unusable::new("method", "is unknown")),
    })
}

fn payload(wire: core::health_check::Payload) -> Result<Bytes, Unusable> {
    use core::health_check::payload::Payload as Wire;
    match required("payload", wire.payload)? {
        Wire::Binary(bytes) => Ok(bytes.into()),
        Wire::Text(text) => {
            let digits = text.as_bytes().as_chunks::<2>();
            let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
            let bytes: Option<Vec<u8>> = digits.0.iter().map(byte).collect();
            let bytes = bytes.filter(|_| digits.1.is_empty() && !text.contains('+'));
            Ok(bytes.ok_or_else(|| Unusable::new("text", "is not hexadecimal"))?.into())
        }
    }
}
