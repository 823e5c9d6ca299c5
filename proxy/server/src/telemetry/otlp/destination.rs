//! Where and how a signal is exported: the collector's URL and the options of OTLP exporters.
//!
//! Implements the OTLP exporter specification's "Configuration Options", except that the protocol is gRPC unless another one is
//! chosen.

use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use rustls::ClientConfig;

use super::environment::{Environment, Variable};
use super::resource::percent_decoded;
use super::tls;
use crate::error::Error;
use crate::telemetry::signal::Signal;

/// Export timeout if none is set (OTLP exporter specification).
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// A transport of OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Grpc,
    HttpProtobuf,
}

/// A collector's endpoint for one signal.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    pub(crate) signal: Signal,
    pub(crate) protocol: Protocol,
    /// For HTTP the whole URL, for gRPC scheme and authority.
    pub(crate) url: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) gzip: bool,
    /// Time limit for one request, including connecting and retries.
    pub(crate) timeout: Duration,
    pub(crate) tls: Arc<ClientConfig>,
}

impl Destination {
    /// Reads the options of `signal`. `limit` is the variable of the batch or interval that also limits an export. Returns None
    /// if the signal is not exported.
    pub(super) fn read(
        environment: &Environment,
        signal: Signal,
        limit: &str,
    ) -> Result<Option<Self>, Error> {
        if !exported(environment, signal)? {
            return Ok(None);
        }
        let protocol = protocol(environment, signal)?;
        let url = url(environment, signal, protocol)?;
        let tls = match url.scheme_str() {
            Some("https") => tls::read(environment, signal)?,
            _ => tls::none()?,
        };
        let timeout =
            environment.otlp(signal, "TIMEOUT").map_or(Ok(DEFAULT_TIMEOUT), Variable::milliseconds)?;
        let limit = environment.get(limit).map_or(Ok(timeout), Variable::milliseconds)?;
        Ok(Some(Self {
            signal,
            protocol,
            url,
            headers: headers(environment, signal)?,
            gzip: gzip(environment, signal)?,
            timeout: timeout.min(limit),
            tls: Arc::new(tls),
        }))
    }
}

/// Returns whether `signal` is exported: as `OTEL_{signal}_EXPORTER` says, else if an endpoint is set. The access log needs an
/// endpoint of its own then, because it has a record for each request and is off by default.
fn exported(environment: &Environment, signal: Signal) -> Result<bool, Error> {
    let name = format!("OTEL_{}_EXPORTER", signal.variable_part());
    let Some(variable) = environment.get(&name) else {
        let endpoint = match signal {
            Signal::Traces | Signal::Metrics => environment.otlp(signal, "ENDPOINT"),
            Signal::Logs => environment.otlp_of(signal, "ENDPOINT"),
        };
        return Ok(endpoint.is_some());
    };
    let instead = match (variable.value, signal) {
        ("otlp", _) => return Ok(true),
        ("none", _) => return Ok(false),
        ("prometheus", Signal::Metrics) => "; metrics can be scraped from /metrics without it",
        ("console" | "logging", Signal::Logs) => "; --access-log stdout writes the access log",
        _ => "",
    };
    Err(variable.refused(format_args!("is not supported; use otlp or none{instead}")))
}

/// gRPC by default, although the specification recommends http/protobuf: an endpoint alone has always meant gRPC here.
fn protocol(environment: &Environment, signal: Signal) -> Result<Protocol, Error> {
    match environment.otlp(signal, "PROTOCOL") {
        None => Ok(Protocol::Grpc),
        Some(variable) => match variable.value {
            "grpc" => Ok(Protocol::Grpc),
            "http/protobuf" => Ok(Protocol::HttpProtobuf),
            _ => Err(variable.refused("is not supported; use grpc or http/protobuf")),
        },
    }
}

fn url(environment: &Environment, signal: Signal, protocol: Protocol) -> Result<Uri, Error> {
    let own = environment.otlp_of(signal, "ENDPOINT");
    let name = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let default = match protocol {
        Protocol::Grpc => Variable { name, value: "http://localhost:4317" },
        Protocol::HttpProtobuf => Variable { name, value: "http://localhost:4318" },
    };
    let variable = own.or_else(|| environment.get(name)).unwrap_or(default);
    let authority = variable.value.rsplit("://").next().and_then(|rest| rest.split(['/', '?']).next());
    if authority.is_some_and(|authority| authority.contains('@')) {
        let problem = "the URL has credentials; use OTEL_EXPORTER_OTLP_HEADERS".to_owned();
        return Err(Error::Environment { variable: variable.name.to_owned(), problem });
    }
    let insecure = || Environment::is_true(environment.otlp(signal, "INSECURE"));
    let text = match (variable.value.split_once("://"), protocol) {
        (Some(("http" | "https", _)), _) => variable.value.to_owned(),
        (Some((scheme, _)), _) => {
            return Err(variable.refused(format_args!("has the scheme {scheme}; use http or https")));
        }
        // "Insecure: [...] This option only applies to OTLP/gRPC when an endpoint is provided without the http or https scheme."
        (None, Protocol::Grpc) if insecure() => format!("http://{}", variable.value),
        (None, Protocol::Grpc) => format!("https://{}", variable.value),
        (None, Protocol::HttpProtobuf) => {
            return Err(variable.refused("has no scheme; use http:// or https://"));
        }
    };
    let not_a_url = || variable.refused("is not a URL");
    let url: Uri = text.parse().map_err(|_| not_a_url())?;
    let authority = url.authority().filter(|authority| !authority.host().is_empty()).ok_or_else(not_a_url)?;
    if authority.as_str() != authority.host() && authority.port_u16().is_none() {
        return Err(variable.refused("has a port that is not a number from 1 to 65535"));
    }
    match protocol {
        Protocol::Grpc if url.path_and_query().is_some_and(|path| path != "/") => Err(variable.refused(
            "has a path, which OTLP over gRPC does not use; OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf chooses HTTP",
        )),
        // "The per-signal endpoint [...] is used as-is."
        Protocol::HttpProtobuf if own.is_none() => {
            let path = format!("{}{}", url.path().trim_end_matches('/'), signal.http_path());
            let mut parts = url.clone().into_parts();
            parts.path_and_query = Some(PathAndQuery::try_from(path).map_err(|_| not_a_url())?);
            Uri::from_parts(parts).map_err(|_| not_a_url())
        }
        Protocol::Grpc | Protocol::HttpProtobuf => Ok(url),
    }
}

/// Reads a list of `key=value` with percent-encoded values (OTLP exporter specification, "Specifying headers via environment
/// variables"). Headers are often credentials, so errors do not quote them.
fn headers(environment: &Environment, signal: Signal) -> Result<HeaderMap, Error> {
    let Some(variable) = environment.otlp(signal, "HEADERS") else { return Ok(HeaderMap::new()) };
    let header = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let mut value = HeaderValue::from_str(&percent_decoded(value.trim())?).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::from_bytes(name.trim().as_bytes()).ok()?, value))
    };
    let pairs = variable.value.split(',').filter(|pair| !pair.trim().is_empty());
    pairs.map(header).collect::<Option<_>>().ok_or_else(|| Error::Environment {
        variable: variable.name.to_owned(),
        problem: "it is not a list of key=value with percent-encoded values".to_owned(),
    })
}

fn gzip(environment: &Environment, signal: Signal) -> Result<bool, Error> {
    match environment.otlp(signal, "COMPRESSION") {
        None => Ok(false),
        Some(Variable { value: "none", .. }) => Ok(false),
        Some(Variable { value: "gzip", .. }) => Ok(true),
        Some(variable) => Err(variable.refused("is not supported; use gzip or none")),
    }
}

#[cfg(test)]
mod tests;
