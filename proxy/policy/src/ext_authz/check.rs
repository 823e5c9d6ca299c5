//! The call of a gRPC service: the attributes of a request (`envoy.service.auth.v3.CheckRequest`).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use http::{HeaderName, Version};
use outrigger_core::identity::SpiffeId;
use outrigger_proto::xds::auth_service::attribute_context::{HttpRequest, Peer, Request};
use outrigger_proto::xds::auth_service::{AttributeContext, CheckRequest};
use outrigger_proto::xds::{core, protobuf};

use super::Check;
use super::fields::{self, PARTIAL_BODY};
use crate::question::{GrpcService, Question};
use crate::verdict::{Beginning, FilterRequest};

const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Returns the question about a request. `body` is what was read of its body.
pub(super) fn question(
    service: &GrpcService,
    check: &Check<'_>,
    request: &FilterRequest<'_>,
    body: Option<Beginning>,
) -> Question {
    let source = &request.source;
    let http = Some(http_request(check, request, body));
    let own = request.workload.identity();
    let attributes = AttributeContext {
        source: Some(peer(SocketAddr::new(source.address, source.port), source.identity)),
        destination: Some(peer(source.destination, own.as_ref())),
        request: Some(Request { time: timestamp((request.time_of_day)()), http }),
        context_extensions: check.settings.map(|settings| settings.context.clone()).unwrap_or_default(),
        ..Default::default()
    };
    let timeout = service.timeout.unwrap_or(super::TIMEOUT);
    service.call(METHOD, timeout, &CheckRequest { attributes: Some(attributes) })
}

fn http_request(check: &Check<'_>, request: &FilterRequest<'_>, body: Option<Beginning>) -> HttpRequest {
    let head = &request.head;
    let shown = &check.filter.fields;
    let shows = |name: &str| shown.shows(name, true);
    // As in Envoy, the pseudo-headers are among the fields.
    let mut own = vec![
        (":authority", head.authority.to_owned()),
        (":method", head.method.to_string()),
        (":path", head.path.to_owned()),
        (":scheme", head.scheme.to_owned()),
    ];
    if let Some(body) = &body {
        own.push((PARTIAL_BODY, body.is_cut.to_string()));
    }
    own.retain(|(name, _)| *name == PARTIAL_BODY || shows(name));
    let (mut headers, mut header_map) = (HashMap::new(), None);
    if shown.raw {
        let own = own.into_iter().map(|(name, value)| raw(name, value.into_bytes()));
        let lines = fields::lines(head.headers, shows);
        let lines = lines.map(|(name, value)| raw(name.as_str(), value.as_bytes().to_vec()));
        header_map = Some(core::HeaderMap { headers: own.chain(lines).collect() });
    } else {
        headers = fields::joined(head.headers, shows);
        headers.extend(own.into_iter().map(|(name, value)| (name.to_owned(), value)));
    }
    let bytes = body.map(|body| body.bytes).unwrap_or_default();
    let as_bytes = check.body().is_some_and(|body| body.as_bytes);
    HttpRequest {
        id: fields::text_of(head.headers, &REQUEST_ID),
        method: head.method.to_string(),
        headers,
        header_map,
        path: head.path.to_owned(),
        host: head.authority.to_owned(),
        scheme: head.scheme.to_owned(),
        size: request.body_length.and_then(|length| i64::try_from(length).ok()).unwrap_or(-1),
        protocol: protocol(request.version).to_owned(),
        body: if as_bytes { String::new() } else { fields::text(&bytes) },
        raw_body: if as_bytes { bytes.to_vec() } else { Vec::new() },
        ..Default::default()
    }
}

fn raw(key: &str, raw_value: Vec<u8>) -> core::HeaderValue {
    core::HeaderValue { key: key.to_owned(), raw_value, ..Default::default() }
}

fn peer(address: SocketAddr, identity: Option<&SpiffeId>) -> Peer {
    use core::address::Address as Wire;
    use core::socket_address::PortSpecifier;
    let ip: IpAddr = address.ip().to_canonical();
    let address = core::SocketAddress {
        address: ip.to_string(),
        port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
        ..Default::default()
    };
    Peer {
        address: Some(core::Address { address: Some(Wire::SocketAddress(address)) }),
        principal: identity.map(|identity| identity.as_str().to_owned()).unwrap_or_default(),
        ..Default::default()
    }
}

fn timestamp(time: SystemTime) -> Option<protobuf::Timestamp> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let seconds = i64::try_from(since.as_secs()).ok()?;
    Some(protobuf::Timestamp { seconds, nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0) })
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}
