//! What an error of h2 means: what happened, on whose side, and whether another try is safe.

use h2::Reason as Code;
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;

/// An error of a client's stream or connection.
pub(crate) fn downstream(error: &h2::Error) -> Failure {
    // What the peer did wrong h2 tells us as an error of its own; everything else is the client going away.
    let reason = if error.is_library() {
        Reason::DownstreamProtocolError
    } else {
        Reason::DownstreamConnectionTermination
    };
    Failure::downstream(reason, error)
}

/// An error of an upstream's stream or connection, when the request had come as far as `reached`.
pub(crate) fn upstream(error: &h2::Error, reached: Reached) -> Failure {
    let reason = if error.is_library() {
        Reason::UpstreamProtocolError
    } else if error.is_reset() {
        Reason::UpstreamRemoteReset
    } else {
        Reason::UpstreamConnectionTermination
    };
    // A stream ends with a remote GOAWAY only when it is above the last that the peer processed (RFC 9113 section 6.8).
    let refused = error.is_remote()
        && ((error.is_reset() && error.reason() == Some(Code::REFUSED_STREAM)) || error.is_go_away());
    let reached = if refused && reached == Reached::Maybe { Reached::NotProcessed } else { reached };
    Failure::upstream(reason, reached, error)
}
