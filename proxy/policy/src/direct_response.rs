//! A route that answers without an upstream (`envoy.config.route.v3.DirectResponseAction`).

use bytes::Bytes;
use http::StatusCode;
use outrigger_proto::xds::{core, route};

use crate::field::{Unusable, unsupported};

/// An answer that the proxy sends without a backend.
#[derive(Debug, Clone)]
pub struct DirectResponse {
    /// The status.
    pub status: StatusCode,
    /// The body, possibly empty. Sent as `text/plain` unless the route's response headers say otherwise.
    pub body: Bytes,
}

/// The longest body of a direct response, in bytes (`RouteConfiguration.max_direct_response_body_size_bytes`, default).
pub const MAX_BODY: usize = 4096;

impl DirectResponse {
    /// Decodes the action. The body must be inline and at most `max_body` bytes long.
    pub fn decode(wire: route::DirectResponseAction, max_body: usize) -> Result<Self, Unusable> {
        let route::DirectResponseAction { status, body, body_format } = wire;
        unsupported("body_format", body_format.is_some())?;
        let bad = || Unusable::new("status", format_args!("{status} is no final status"));
        let status =
            u16::try_from(status).ok().and_then(|code| StatusCode::from_u16(code).ok()).ok_or_else(bad)?;
        if !(200..600).contains(&status.as_u16()) {
            return Err(bad());
        }
        let body = body.map(|source| inline(source).map_err(|bad| bad.within("body"))).transpose()?;
        let body = body.unwrap_or_default();
        if body.len() > max_body {
            return Err(Unusable::new("body", format_args!("is longer than {max_body} bytes")));
        }
        Ok(Self { status, body })
    }
}

/// Returns the bytes of an inline source. Returns an error for files and environment variables, which would let a control
/// plane read them from this machine.
fn inline(source: core::DataSource) -> Result<Bytes, Unusable> {
    use outrigger_proto::xds::core::data_source::Specifier;
    let core::DataSource { watched_directory, specifier } = source;
    unsupported("watched_directory", watched_directory.is_some())?;
    match specifier {
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes.into()),
        Some(Specifier::InlineString(text)) => Ok(text.into()),
        Some(Specifier::Filename(_)) => Err(Unusable::new("filename", "is not supported")),
        Some(Specifier::EnvironmentVariable(_)) => {
            Err(Unusable::new("environment_variable", "is not supported"))
        }
        None => Err(Unusable::new("specifier", "is required")),
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::xds::core::data_source::Specifier;

    use super::*;

    fn decode(status: u32, specifier: Option<Specifier>) -> Result<DirectResponse, Unusable> {
        let body = specifier
            .map(|specifier| core::DataSource { specifier: Some(specifier), watched_directory: None });
        DirectResponse::decode(route::DirectResponseAction { status, body, body_format: None }, 8)
    }

    #[test]
    fn an_inline_body_is_the_answer() {
        let response = decode(503, Some(Specifier::InlineString("away".into()))).unwrap();
        assert_eq!((response.status.as_u16(), &response.body[..]), (503, &b"away"[..]));
        assert!(decode(204, None).unwrap().body.is_empty());
    }

    #[test]
    fn what_cannot_be_sent_is_refused_by_field() {
        for (status, specifier, field) in [
            (0, None, "status"),
            (101, None, "status"),
            (u32::MAX, None, "status"),
            (200, Some(Specifier::Filename("/etc/passwd".into())), "body.filename"),
            (200, Some(Specifier::EnvironmentVariable("HOME".into())), "body.environment_variable"),
            (200, Some(Specifier::InlineString("123456789".into())), "body"),
        ] {
            assert_eq!(decode(status, specifier).unwrap_err().field, field);
        }
    }
}
