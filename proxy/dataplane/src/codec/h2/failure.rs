//! Maps errors of streams and connections to failures: what happened, on which side, and whether another attempt is safe. Maps
//! failures to the codes with which streams are reset.

use outrigger_core::error::{Failure, Reached, Side};
use outrigger_core::reason::Reason;

use super::connection::{End, StreamError};
use super::frame::Code;
use crate::tls::handshake::refuses_us;

/// Maps an error of a client's stream or connection.
pub(super) fn downstream(error: &StreamError) -> Failure {
    let reason = match error {
        StreamError::TooLarge => Reason::HeadersTooLarge,
        StreamError::GaveUp => Reason::UpstreamOverflow,
        StreamError::Violation(..)
        | StreamError::MalformedTrailers(_)
        | StreamError::Connection(End::Violation { .. }) => Reason::DownstreamProtocolError,
        // Everything else is a client that disconnects.
        _ => Reason::DownstreamConnectionTermination,
    };
    if let StreamError::GaveUp = error {
        return Failure::local(reason, error);
    }
    Failure::downstream(reason, error).with_code(reset_by_peer(error))
}

/// Maps an error of stream `id` to an upstream, or of its connection, for a request that had reached `reached`.
pub(super) fn upstream(error: &StreamError, reached: Reached, id: u32) -> Failure {
    let mut refused = false;
    let mut side = Side::Upstream;
    let reason = match error {
        StreamError::TooLarge => Reason::UpstreamHeadersTooLarge,
        StreamError::GaveUp => return Failure::local(Reason::UpstreamOverflow, error),
        StreamError::Violation(..) | StreamError::MalformedTrailers(_) => Reason::UpstreamProtocolError,
        StreamError::Reset(code) => {
            refused = *code == Code::REFUSED_STREAM;
            Reason::UpstreamRemoteReset
        }
        StreamError::NotProcessed => {
            refused = true;
            Reason::UpstreamConnectionTermination
        }
        // Nor would the next request be understood.
        StreamError::Connection(End::NotHttp2 { .. }) => Reason::UpstreamProtocolError,
        // Other streams only lose their connection.
        StreamError::Connection(End::Violation { stream, .. }) if *stream == id => {
            Reason::UpstreamProtocolError
        }
        StreamError::Connection(End::Io(error)) => {
            if refuses_us(error) {
                side = Side::Local;
            }
            Reason::UpstreamConnectionTermination
        }
        StreamError::Connection(_) | StreamError::Local(_) => Reason::UpstreamConnectionTermination,
    };
    let reached = if refused && reached == Reached::Maybe { Reached::NotProcessed } else { reached };
    Failure { side, ..Failure::upstream(reason, reached, error) }.with_code(reset_by_peer(error))
}

/// Returns the code with which the peer reset the stream, if it did.
fn reset_by_peer(error: &StreamError) -> Option<u32> {
    match error {
        StreamError::Reset(code) => Some((*code).into()),
        _ => None,
    }
}

/// Returns the code with which a stream is reset because of `failure`, on either side of the proxy.
pub(super) fn code_for(failure: &Failure) -> Code {
    match (failure.code, failure.side) {
        (Some(code), Side::Downstream) => given_up(code.into()),
        (Some(code), Side::Upstream | Side::Local) => passed_on(code.into()),
        // The request is no longer needed.
        (None, Side::Downstream) => Code::CANCEL,
        (None, Side::Upstream | Side::Local) => Code::INTERNAL_ERROR,
    }
}

/// Maps the code with which one side reset its stream to the code for the other side. Codes about the exchange are passed on.
/// Codes about the connection or its frames do not apply to another connection, and REFUSED_STREAM is a guarantee that only the
/// pipeline can give (`docs/sidecar-contract.md`).
pub(super) fn passed_on(code: Code) -> Code {
    match code {
        Code::CANCEL
        | Code::INTERNAL_ERROR
        | Code::CONNECT_ERROR
        | Code::ENHANCE_YOUR_CALM
        | Code::INADEQUATE_SECURITY
        | Code::HTTP_1_1_REQUIRED => code,
        // NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM,
        // COMPRESSION_ERROR, and unknown codes (RFC 9113 section 7: treated as INTERNAL_ERROR).
        _ => Code::INTERNAL_ERROR,
    }
}

/// Returns the code with which an upstream exchange is cancelled when its client resets the stream.
pub(super) fn given_up(code: Code) -> Code {
    match code {
        Code::INTERNAL_ERROR | Code::ENHANCE_YOUR_CALM => code,
        // Whatever the code, the response is no longer needed.
        _ => Code::CANCEL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_passed_on_where_it_means_the_same() {
        for (code, response, request) in [
            (Code::NO_ERROR, Code::INTERNAL_ERROR, Code::CANCEL),
            (Code::PROTOCOL_ERROR, Code::INTERNAL_ERROR, Code::CANCEL),
            (Code::INTERNAL_ERROR, Code::INTERNAL_ERROR, Code::INTERNAL_ERROR),
            (Code::FLOW_CONTROL_ERROR, Code::INTERNAL_ERROR, Code::CANCEL),
            (Code::SETTINGS_TIMEOUT, Code::INTERNAL_ERROR, Code::CANCEL),
            (Code::STREAM_CLOSED, Code::INTERNAL_ERROR, Code::CANCEL),
            (Code::FRAME_SIZE_ERROR, Code::INTERNAL_ERROR, Code::CANCEL),
            (Code::REFUSED_STREAM, Code::INTERNAL_ERROR, Code::CANCEL),
            (Code::CANCEL, Code::CANCEL, Code::CANCEL),
            (Code::COMPRESSION_ERROR, Code::INTERNAL_ERROR, Code::CANCEL),
            (Code::CONNECT_ERROR, Code::CONNECT_ERROR, Code::CANCEL),
            (Code::ENHANCE_YOUR_CALM, Code::ENHANCE_YOUR_CALM, Code::ENHANCE_YOUR_CALM),
            (Code::INADEQUATE_SECURITY, Code::INADEQUATE_SECURITY, Code::CANCEL),
            (Code::HTTP_1_1_REQUIRED, Code::HTTP_1_1_REQUIRED, Code::CANCEL),
            (Code::from(0xff), Code::INTERNAL_ERROR, Code::CANCEL),
        ] {
            assert_eq!((passed_on(code), given_up(code)), (response, request), "{code:?}");
        }
    }

    #[test]
    fn a_failure_without_a_code_is_a_cancellation_if_the_client_caused_it() {
        let gone = Failure::downstream(Reason::DownstreamConnectionTermination, "");
        let broken = Failure::upstream(Reason::UpstreamConnectionTermination, Reached::ResponseStarted, "");
        assert_eq!((code_for(&gone), code_for(&broken)), (Code::CANCEL, Code::INTERNAL_ERROR));
        assert_eq!(code_for(&broken.with_code(Some(u32::from(Code::CANCEL)))), Code::CANCEL);
    }
}
