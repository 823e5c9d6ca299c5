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

/// Returns the HTTP status that says the same as a gRPC status to a client that does not speak gRPC, or `None` if the code is
/// unknown (google/rpc/code.proto).
pub fn http_status(code: u8) -> Option<u16> {
    Some(match code {
        0 => 200,
        1 => 499,
        2 | 13 | 15 => 500,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => return None,
    })
}
