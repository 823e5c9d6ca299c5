//! An HTTP probe, as the kubelet performs it: HTTP/1.1 on a new connection, any certificate, redirects to the same host followed.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use super::ProbeOutcome;
use crate::args::app_probe::{HttpGet, HttpScheme};

/// Maximum number of redirects.
const MAX_REDIRECTS: usize = 10;

/// Sends the requests.
#[derive(Debug)]
pub(super) struct HttpProber(legacy::Client<HttpsConnector<HttpConnector>, Empty<Bytes>>);

impl HttpProber {
    pub(super) fn new() -> Result<Self, Error> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        let connector = HttpsConnectorBuilder::new().with_tls_config(any_certificate()?).https_or_http();
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build(connector.enable_http1().wrap_connector(tcp));
        Ok(Self(client))
    }

    /// Performs the probe. A status from 200 to 399 is a success, also that of a redirect to another host.
    pub(super) async fn get(
        &self,
        pod_ip: IpAddr,
        get: &HttpGet,
        agent: Option<&HeaderValue>,
    ) -> Result<String, ProbeOutcome> {
        let mut uri = first_uri(pod_ip, get).map_err(ProbeOutcome::unavailable)?;
        for _ in 0..=MAX_REDIRECTS {
            let request = request(&uri, get, agent).map_err(ProbeOutcome::unavailable)?;
            let response =
                self.0.request(request).await.map_err(|error| ProbeOutcome::unavailable(chain(&error)))?;
            let status = response.status();
            match redirect(&uri, &response) {
                Some(next) => uri = next,
                None if status.is_success() || status.is_redirection() => {
                    return Ok(format!("the application responded with {status}"));
                }
                None => {
                    return Err(ProbeOutcome::failed(
                        status,
                        format!("the application responded with {status}"),
                    ));
                }
            }
        }
        Err(ProbeOutcome::failed(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("more than {MAX_REDIRECTS} redirects"),
        ))
    }
}

fn first_uri(pod_ip: IpAddr, get: &HttpGet) -> Result<Uri, http::Error> {
    let authority = std::net::SocketAddr::new(pod_ip, get.port).to_string();
    let scheme = match get.scheme {
        HttpScheme::Http => Scheme::HTTP,
        HttpScheme::Https => Scheme::HTTPS,
    };
    let slash = if get.path.starts_with('/') { "" } else { "/" };
    let path = format!("{slash}{}", get.path);
    Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build()
}

/// Header fields of the probe take precedence, also `Host`.
fn request(
    uri: &Uri,
    get: &HttpGet,
    agent: Option<&HeaderValue>,
) -> Result<Request<Empty<Bytes>>, http::Error> {
    let mut request = Request::get(uri).body(Empty::new())?;
    let headers = request.headers_mut();
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.extend(agent.map(|agent| (header::USER_AGENT, agent.clone())));
    for name in get.http_headers.iter().filter_map(|field| HeaderName::try_from(&field.name).ok()) {
        headers.remove(name);
    }
    for field in &get.http_headers {
        headers.append(HeaderName::try_from(&field.name)?, HeaderValue::try_from(&field.value)?);
    }
    Ok(request)
}

/// Returns where a redirect leads. Returns None if the response is none, or if it leads to another host.
fn redirect(from: &Uri, response: &Response<Incoming>) -> Option<Uri> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
    location_from(from, location)
}

fn location_from(from: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next()?;
    let (scheme, authority): (Scheme, Authority) = (from.scheme()?.clone(), from.authority()?.clone());
    if let Some(rest) = location.strip_prefix('/')
        && !rest.starts_with('/')
    {
        let path: PathAndQuery = location.parse().ok()?;
        return Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build().ok();
    }
    let location: Uri = location.parse().ok()?;
    (location.scheme().is_some() && location.host() == from.host()).then_some(location)
}

/// Returns the causes of an error in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Returns a TLS configuration that accepts any certificate, as the kubelet's probes do: they ask whether the application serves, not
/// who it is.
fn any_certificate() -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
