//! Attribute values per OpenTelemetry's semantic conventions (1.42): method, URL, gRPC method, network addresses.

use std::borrow::Cow;
use std::net::SocketAddr;

use opentelemetry::KeyValue;
use opentelemetry_semantic_conventions::attribute as key;

/// The methods in the conventions; any other is `_OTHER` (RFC 9110 section 9, RFC 5789, and QUERY).
const KNOWN_METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"];

/// Query parameters whose values are credentials. The conventions redact them by default (`url.query`).
const SECRET_PARAMETERS: [&str; 4] = ["AWSAccessKeyId", "Signature", "sig", "X-Goog-Signature"];

/// Returns the method if it is a known one.
pub(super) fn known_method(method: &str) -> Option<&'static str> {
    KNOWN_METHODS.into_iter().find(|known| *known == method)
}

/// Adds `http.request.method`, and the original method if it is unknown.
pub(super) fn method(method: &str, attributes: &mut Vec<KeyValue>) {
    match known_method(method) {
        Some(known) => attributes.push(KeyValue::new(key::HTTP_REQUEST_METHOD, known)),
        None => {
            attributes.push(KeyValue::new(key::HTTP_REQUEST_METHOD, "_OTHER"));
            attributes.push(KeyValue::new(key::HTTP_REQUEST_METHOD_ORIGINAL, method.to_owned()));
        }
    }
}

/// Splits the target into path and query, and redacts credentials in the query.
pub(super) fn path_and_query(target: &str) -> (&str, Option<Cow<'_, str>>) {
    match target.split_once('?') {
        None => (target, None),
        Some((path, query)) => (path, Some(redacted(query))),
    }
}

fn redacted(query: &str) -> Cow<'_, str> {
    let secret = |pair: &str| {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        SECRET_PARAMETERS.contains(&name)
    };
    if !query.split('&').any(secret) {
        return Cow::Borrowed(query);
    }
    let pairs = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) if secret(pair) => format!("{name}=REDACTED"),
        _ => pair.to_owned(),
    });
    Cow::Owned(pairs.collect::<Vec<_>>().join("&"))
}

/// Adds `server.address` and `server.port` of an authority.
pub(super) fn server(authority: &str, attributes: &mut Vec<KeyValue>) {
    if authority.is_empty() {
        return;
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() => (host, port.parse::<u16>().ok()),
        _ => (authority, None),
    };
    // A colon in an IPv6 address without brackets does not separate a port.
    let (host, port) = match port {
        Some(port) => (host, Some(port)),
        None => (authority, None),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    attributes.push(KeyValue::new(key::SERVER_ADDRESS, host.to_owned()));
    if let Some(port) = port {
        attributes.push(KeyValue::new(key::SERVER_PORT, i64::from(port)));
    }
}

/// Adds `network.peer.address` and `network.peer.port`.
pub(super) fn peer(peer: SocketAddr, attributes: &mut Vec<KeyValue>) {
    attributes.push(KeyValue::new(key::NETWORK_PEER_ADDRESS, peer.ip().to_string()));
    attributes.push(KeyValue::new(key::NETWORK_PEER_PORT, i64::from(peer.port())));
}

/// Returns the service and method of a gRPC request's path (gRPC over HTTP/2, "Request-Headers": `/{service}/{method}`).
pub(super) fn grpc_method(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.rsplit_once('/')?;
    (!service.is_empty() && !method.is_empty()).then_some((service, method))
}

/// Adds the attributes of the RPC conventions under the keys that tracing backends search today: `rpc.system`, `rpc.service`,
/// `rpc.method` and `rpc.grpc.status_code`. Version 1.39 renames two of them and makes their values text; those are added too.
/// It also redefines `rpc.method` as service and method together, which would break existing searches, so it is not adopted.
pub(super) fn grpc(path: &str, status: Option<u8>, attributes: &mut Vec<KeyValue>) {
    attributes.push(KeyValue::new("rpc.system", "grpc"));
    attributes.push(KeyValue::new(key::RPC_SYSTEM_NAME, "grpc"));
    if let Some((service, method)) = grpc_method(path) {
        attributes.push(KeyValue::new("rpc.service", service.to_owned()));
        attributes.push(KeyValue::new(key::RPC_METHOD, method.to_owned()));
    }
    if let Some(status) = status {
        attributes.push(KeyValue::new(key::RPC_RESPONSE_STATUS_CODE, grpc_status_name(status)));
        attributes.push(KeyValue::new("rpc.grpc.status_code", i64::from(status)));
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
    fn credentials_in_a_query_are_redacted() {
        let (path, query) = path_and_query("/file?a=1&sig=secret&b=2");
        assert_eq!((path, query.as_deref()), ("/file", Some("a=1&sig=REDACTED&b=2")));
        assert_eq!(path_and_query("/plain"), ("/plain", None));
    }

    #[test]
    fn an_authority_becomes_address_and_port() {
        for (authority, address, port) in [
            ("cart.shop:80", "cart.shop", Some(80)),
            ("cart", "cart", None),
            ("[::1]:8080", "::1", Some(8080)),
            ("[::1]", "::1", None),
        ] {
            let mut attributes = Vec::new();
            server(authority, &mut attributes);
            assert_eq!(attributes[0].value.as_str(), address, "{authority}");
            assert_eq!(
                attributes.get(1).map(|port| port.value.as_str().into_owned()),
                port.map(|p: u16| p.to_string())
            );
        }
    }

    #[test]
    fn a_grpc_path_is_service_and_method() {
        assert_eq!(grpc_method("/shop.Payments/Charge"), Some(("shop.Payments", "Charge")));
        assert_eq!(grpc_method("/Charge"), None);
    }
}
