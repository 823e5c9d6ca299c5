//! gRPC statuses.

/// Returns the gRPC status that a client derives from an HTTP status if the response has no `grpc-status`
/// (grpc/doc/http-grpc-status-mapping.md).
pub fn status_of_http(status: u16) -> u8 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}
