//! An HTTP probe, as the kubelet performs it: HTTP/1.1 on a new connection, any certificate, redirects to the same host followed.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::response::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio_rustls::TlsConnector;

use super::{ProbeOutcome, dial};
use crate::args::app_probe::{HttpGet, HttpScheme};

/// Maximum number of redirects.
const MAX_REDIRECTS: usize = 10;

/// Sends the requests.
pub(super) struct HttpProber(TlsConnector);

impl std::fmt::Debug for HttpProber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpProber").finish_non_exhaustive()
    }
}

impl HttpProber {
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Self(TlsConnector::from(Arc::new(any_certificate()?))))
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
            let response = self.send(pod_ip, &uri, request).await.map_err(ProbeOutcome::unavailable)?;
            let status = response.status;
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

    async fn send(&self, pod_ip: IpAddr, uri: &Uri, request: Request<Empty<Bytes>>) -> Result<Parts, String> {
        let https = uri.scheme() == Some(&Scheme::HTTPS);
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let failed = |error: std::io::Error| error.to_string();
        let tcp = dial::connect(SocketAddr::new(pod_ip, port)).await.map_err(failed)?;
        if !https {
            return exchange(TokioIo::new(tcp), request).await;
        }
        let tls = self.0.connect(ServerName::from(pod_ip), tcp).await.map_err(failed)?;
        exchange(TokioIo::new(tls), request).await
    }
}

/// Returns the head of the response. The connection ends with its body, which is not read.
async fn exchange(
    io: impl Read + Write + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<Parts, String> {
    let (mut sender, connection) = http1::handshake(io).await.map_err(|error| chain(&error))?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| chain(&error))?;
    Ok(response.into_parts().0)
}

fn first_uri(pod_ip: IpAddr, get: &HttpGet) -> Result<Uri, http::Error> {
    let authority = SocketAddr::new(pod_ip, get.port).to_string();
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
    let target = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let mut request = Request::get(target).body(Empty::new())?;
    let headers = request.headers_mut();
    if let Some(authority) = uri.authority() {
        headers.insert(header::HOST, HeaderValue::try_from(authority.as_str())?);
    }
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
fn redirect(from: &Uri, response: &Parts) -> Option<Uri> {
    if !matches!(response.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers.get(header::LOCATION)?.to_str().ok()?;
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
