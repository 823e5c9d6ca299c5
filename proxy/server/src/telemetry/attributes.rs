//! Attribute values per OpenTelemetry's semantic conventions (1.45): method, URL, gRPC method, network addresses.

use std::borrow::Cow;
use std::fmt::Display;
use std::net::SocketAddr;

use opentelemetry::KeyValue;
use opentelemetry_semantic_conventions::attribute as key;
use outrigger_core::record::TlsSession;

use super::redaction;

/// What attributes are added to: a list, or a span that is being encoded.
pub(super) trait Attributes {
    /// Adds a text.
    fn text(&mut self, key: &'static str, value: &str);
    /// Adds a text that is yet to be formatted.
    fn shown(&mut self, key: &'static str, value: &dyn Display);
    /// Adds a boolean.
    fn boolean(&mut self, key: &'static str, value: bool);
    /// Adds a number.
    fn number(&mut self, key: &'static str, value: i64);
}

impl Attributes for Vec<KeyValue> {
    fn text(&mut self, key: &'static str, value: &str) {
        self.push(KeyValue::new(key, value.to_owned()));
    }

    fn shown(&mut self, key: &'static str, value: &dyn Display) {
        self.push(KeyValue::new(key, value.to_string()));
    }

    fn boolean(&mut self, key: &'static str, value: bool) {
        self.push(KeyValue::new(key, value));
    }

    fn number(&mut self, key: &'static str, value: i64) {
        self.push(KeyValue::new(key, value));
    }
}

/// The methods in the conventions; any other is `_OTHER` (RFC 9110 section 9, RFC 5789, and QUERY).
const KNOWN_METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"];

/// `rpc.status_code`, which 1.45 renamed from `rpc.response.status_code`.
pub(super) const RPC_STATUS_CODE: &str = "rpc.status_code";

/// Returns the method if it is a known one.
pub(super) fn known_method(method: &str) -> Option<&'static str> {
    KNOWN_METHODS.into_iter().find(|known| *known == method)
}

/// Adds `http.request.method`, and the original method if it is unknown.
pub(super) fn method(method: &str, attributes: &mut impl Attributes) {
    match known_method(method) {
        Some(known) => attributes.text(key::HTTP_REQUEST_METHOD, known),
        None => {
            attributes.text(key::HTTP_REQUEST_METHOD, "_OTHER");
            attributes.text(key::HTTP_REQUEST_METHOD_ORIGINAL, method);
        }
    }
}

/// Splits the target into path and query, and redacts credentials in the query.
pub(super) fn path_and_query(target: &str) -> (&str, Option<Cow<'_, str>>) {
    match target.split_once('?') {
        None => (target, None),
        Some((path, query)) => (path, Some(redaction::query(query))),
    }
}

/// Adds `server.address` and `server.port` of an authority.
pub(super) fn server(authority: &str, attributes: &mut impl Attributes) {
    server_with_default_port(authority, None, attributes);
}

/// Adds `server.address` and `server.port` of an authority. `default` is the port of one without a port.
pub(super) fn server_with_default_port(
    authority: &str,
    default: Option<u16>,
    attributes: &mut impl Attributes,
) {
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if authority.is_empty() {
        return;
    }
    let (host, port) = match authority.rsplit_once(':') {
        // A colon in an IPv6 address without brackets does not separate a port.
        Some((host, port)) if !host.is_empty() && (!host.contains(':') || host.ends_with(']')) => {
            (host, port.parse::<u16>().ok())
        }
        _ => (authority, None),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    attributes.text(key::SERVER_ADDRESS, host);
    if let Some(port) = port.or(default) {
        attributes.number(key::SERVER_PORT, port.into());
    }
}

/// Adds `network.peer.address` and `network.peer.port`.
pub(super) fn peer(peer: SocketAddr, attributes: &mut impl Attributes) {
    attributes.shown(key::NETWORK_PEER_ADDRESS, &peer.ip());
    attributes.number(key::NETWORK_PEER_PORT, peer.port().into());
}

/// Adds the TLS session of a connection.
pub(super) fn tls(session: TlsSession, attributes: &mut impl Attributes) {
    attributes.boolean(key::TLS_ESTABLISHED, true);
    attributes.text(key::TLS_PROTOCOL_NAME, "tls");
    if let Some(version) = session.version() {
        attributes.text(key::TLS_PROTOCOL_VERSION, version);
    }
    if let Some(cipher) = session.cipher() {
        attributes.text(key::TLS_CIPHER, cipher);
    }
}

/// Returns the fully qualified method of a gRPC request's path (gRPC over HTTP/2, "Request-Headers": `/{service}/{method}`).
pub(super) fn grpc_method(path: &str) -> Option<&str> {
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let (service, method) = path.strip_prefix('/')?.rsplit_once('/')?;
    (!service.is_empty() && !method.is_empty()).then(|| &path[1..])
}

/// Adds the attributes of the RPC conventions.
pub(super) fn grpc(path: &str, status: Option<u8>, attributes: &mut impl Attributes) {
    attributes.text(key::RPC_SYSTEM_NAME, "grpc");
    match grpc_method(path) {
        Some(method) => attributes.text(key::RPC_METHOD, method),
        None => attributes.text(key::RPC_METHOD, "_OTHER"),
    }
    if let Some(status) = status {
        attributes.text(RPC_STATUS_CODE, grpc_status_name(status));
    }
}

/// Returns the name of a gRPC status (google.rpc.Code).
pub(super) fn grpc_status_name(status: u8) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES.get(usize::from(status)).copied().unwrap_or("UNKNOWN")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_becomes_address_and_port() {
        for (authority, address, port) in [
            ("cart.shop:80", "cart.shop", Some(80)),
            ("cart", "cart", None),
            ("[::1]:8080", "::1", Some(8080)),
            ("[::1]", "::1", None),
            ("::1", "::1", None),
            ("10.0.0.5:9080", "10.0.0.5", Some(9080)),
        ] {
            let mut attributes: Vec<KeyValue> = Vec::new();
            server(authority, &mut attributes);
            assert_eq!(attributes[0].value.as_str(), address, "{authority}");
            assert_eq!(
                attributes.get(1).map(|port| port.value.as_str().into_owned()),
                port.map(|p: u16| p.to_string())
            );
        }
    }

    #[test]
    fn an_authority_without_a_port_has_the_default_one() {
        for (authority, expected) in [("cart", "443"), ("cart:80", "80"), ("[::1]", "443")] {
            let mut attributes: Vec<KeyValue> = Vec::new();
            server_with_default_port(authority, Some(443), &mut attributes);
            assert_eq!(attributes[1].value.as_str(), expected, "{authority}");
        }
    }

    #[test]
    fn a_grpc_path_is_the_fully_qualified_method() {
        assert_eq!(grpc_method("/shop.Payments/Charge"), Some("shop.Payments/Charge"));
        assert_eq!(grpc_method("/shop.Payments/Charge?a=b"), Some("shop.Payments/Charge"));
        for malformed in ["/Charge", "/shop.Payments/", "//Charge", "Charge"] {
            assert_eq!(grpc_method(malformed), None, "{malformed}");
        }
    }
}
