//! The ALPN protocol names (RFC 7301) that proxies and the control plane use.

/// HTTP/2: gRPC to the control plane, requests between sidecars.
pub const HTTP2: &str = "h2";
/// HTTP/1.1: between sidecars for requests that ask for an upgrade.
pub const HTTP1: &str = "http/1.1";
/// Opaque bytes between sidecars. An endpoint that offers it is behind a sidecar: nothing else uses the name.
pub const OPAQUE: &str = "outrigger-tcp";
