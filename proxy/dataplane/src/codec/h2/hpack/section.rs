//! A field section as it was decoded: the pseudo-fields by their types, and the other fields in a map.

use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::ENTRY_OVERHEAD;
use super::field::{Field, Role};
use crate::codec::head::Scheme;
use crate::codec::hop;
use crate::codec::limits::FieldSize;

/// What a field section belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Kind {
    /// The head of a request.
    Request,
    /// The head of a response, interim or final.
    Response,
    /// Trailers of either.
    Trailers,
}

/// A decoded field section. If it is malformed or too large, its fields are incomplete and must not be passed on.
#[derive(Debug, Default)]
pub(in super::super) struct Section {
    /// `:method`. Present in a request that is not malformed.
    pub(in super::super) method: Option<Method>,
    /// `:scheme`; `Some(None)` if it is neither `http` nor `https`.
    pub(in super::super) scheme: Option<Option<Scheme>>,
    /// `:authority`, unless it is empty.
    pub(in super::super) authority: Option<Authority>,
    /// `:path`, as sent.
    pub(in super::super) path: Option<PathAndQuery>,
    /// `:protocol` of an extended CONNECT (RFC 8441 section 4).
    pub(in super::super) protocol: Option<HeaderValue>,
    /// `:status`. Present in a response that is not malformed.
    pub(in super::super) status: Option<StatusCode>,
    /// `host` of a request, which is not among `fields`.
    pub(in super::super) host: Option<HeaderValue>,
    /// The other fields. `te` is present only as `trailers` and only in requests. Trailers contain none of the fields that must not be
    /// there (RFC 9110 section 6.5.1).
    pub(in super::super) fields: HeaderMap,
    /// The value of `content-length`, which is also among `fields`.
    pub(in super::super) content_length: Option<u64>,
    /// Whether the sender waits for a 100 (RFC 9110 section 10.1.1).
    pub(in super::super) expects_continue: bool,
    /// The number of `cookie` fields (RFC 9113 section 8.2.3).
    pub(in super::super) cookies: u32,
    /// The size of the fields with `host`, and with `:authority` counted as `host`; without the other pseudo-fields.
    pub(in super::super) size: FieldSize,
    /// The size of all fields by RFC 9113 section 6.5.2.
    pub(in super::super) list_bytes: usize,
    /// The rule that the section violates, if it is malformed (RFC 9113 section 8.1.1): a stream error PROTOCOL_ERROR.
    pub(in super::super) malformed: Option<&'static str>,
    /// Whether it is larger than the limit of the decoder.
    pub(in super::super) too_large: bool,
}
