//! The workload's identity: a local key pair, and a short-lived certificate that is renewed while the proxy runs.
//!
//! The supervisor starts [`Identity::maintain`]. The first certificate requires the token. Later ones are requested at a jittered
//! 2/3 of the lifetime, and retried until they succeed: with the token of a service account, if there is one, else with the
//! current certificate; after its expiry the join token is required again. A refused join token needs an operator: the error names
//! the next step, and the file is read again until it has another token. Key and certificate are restored after a restart, so that a
//! proxy serves while the CA is unreachable.

pub(crate) mod publication;
mod token;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_proto::istio_auth::IstioCertificateRequest;
use outrigger_proto::istio_auth::istio_certificate_service_client::IstioCertificateServiceClient;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Request;

use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::control_plane::certificate::{Certificate, CertificateError, Key};
use crate::control_plane::channel::{ControlPlane, Credential, Credentials};
use crate::control_plane::failure::describe;
use crate::log_throttle::LogThrottle;
use crate::state_dir::StateDir;
use crate::status::StatusBoard;
use token::{Token, TokenFileError, TokenKind, create_token, next_step};

/// File of the private key, PKCS #8 PEM.
const KEY_FILE: &str = "identity.key";
/// File of the chain, PEM, leaf first.
const CHAIN_FILE: &str = "identity.pem";
/// Time limit for the issuer to respond; the request is then retried.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a refused token is not sent again, unless the file gets another one.
const REFUSED_TOKEN_INTERVAL: Duration = Duration::from_secs(60);
/// How often the file is read meanwhile.
const TOKEN_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often the roots are read again, which may no longer verify our certificate.
const ROOTS_CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// The key, the certificate and what is needed to renew it.
#[derive(Debug)]
pub(crate) struct Identity {
    dir: StateDir,
    key: Arc<Key>,
    token_file: Option<PathBuf>,
    control_plane: ControlPlane,
    clock: Clock,
    current: watch::Sender<Option<Arc<Credential>>>,
    /// When to renew the current certificate; now if there is none.
    renewal: SystemTime,
    /// The issuer refused our certificate: the next request uses the token, if there is one.
    certificate_refused: bool,
}

impl Identity {
    /// Restores key and certificate, or creates a key. A saved certificate that cannot be used is ignored if there is a token to
    /// obtain another. Returns an error if the key cannot be read or saved, or if there is no way to obtain a certificate.
    pub(crate) fn open(
        dir: StateDir,
        token_file: Option<PathBuf>,
        control_plane: ControlPlane,
        clock: Clock,
    ) -> Result<Self, IdentityError> {
        let key = Arc::new(saved_key(&dir)?);
        let saved = match saved_certificate(&dir, &key, &control_plane, clock.now()) {
            Ok(saved) => saved,
            Err(error) => {
                tracing::warn!(%error, file = ?dir.path(CHAIN_FILE), "the saved certificate is not used");
                None
            }
        };
        if saved.is_none() {
            Token::read(token_file.as_deref())?;
        }
        let renewal = saved.as_ref().map_or(clock.now(), |saved| restored_renewal(saved, clock.now()));
        let credential = saved.map(|certificate| Arc::new(Credential { certificate, key: Arc::clone(&key) }));
        let (current, _) = watch::channel(credential);
        Ok(Self { dir, key, token_file, control_plane, clock, current, renewal, certificate_refused: false })
    }

    /// Returns a receiver of the current credential and every later one.
    pub(crate) fn subscribe(&self) -> Credentials {
        self.current.subscribe()
    }

    /// Renews the certificate until dropped, despite any failure. Owned by the supervisor.
    pub(crate) async fn maintain(mut self, status: StatusBoard) {
        let (mut backoff, mut log) = (Backoff::default(), LogThrottle::default());
        loop {
            tokio::select! {
                () = self.clock.sleep_until(self.renewal) => {}
                () = self.replaced_roots() => {
                    tracing::warn!("the trust roots no longer verify the certificate; requesting another");
                    self.renewal = self.clock.now();
                }
            }
            match self.renew().await {
                Ok(certificate) => {
                    let now = self.clock.now();
                    self.renewal =
                        now + renewal_delay(certificate.not_after.duration_since(now).unwrap_or_default());
                    tracing::info!(identity = %certificate.identity, serial = certificate.serial, "certificate issued");
                    status.certificate_issued();
                    let credential = Credential { certificate, key: Arc::clone(&self.key) };
                    self.current.send_replace(Some(Arc::new(credential)));
                    backoff.reset();
                    log.reset();
                }
                Err(error) => {
                    let (text, needs_operator) = (error.to_string(), error.needs_operator());
                    if log.admits(&text) {
                        match needs_operator {
                            true => tracing::error!(error = text, "no certificate"),
                            false => tracing::warn!(error = text, "no new certificate; retrying"),
                        }
                    }
                    status.certificate_failed(text);
                    if let IdentityError::TokenRefused { digest: refused, kind: TokenKind::Join, .. } = error
                    {
                        self.await_another_token(refused).await;
                        continue;
                    }
                    // Not by the wall clock, which may be set back.
                    tokio::time::sleep(backoff.next()).await;
                }
            }
        }
    }

    /// Sends one request, authenticated by the token of a service account, or by our certificate if it is valid and not refused, or
    /// by the join token.
    async fn renew(&mut self) -> Result<Certificate, IdentityError> {
        let now = self.clock.now();
        let valid = self.current.borrow().as_ref().is_some_and(|c| c.certificate.is_valid_at(now));
        let saved = Token::read(self.token_file.as_deref());
        let by_certificate = valid
            && !(self.certificate_refused && self.token_file.is_some())
            && !saved.as_ref().is_ok_and(|token| token.kind == TokenKind::ServiceAccount);
        let mut request = Request::new(IstioCertificateRequest {
            csr: self.key.signing_request()?,
            validity_duration: 0, // as long as the issuer gives
            metadata: None,
        });
        let mut token = None;
        let channel = if by_certificate {
            // A new connection, because an existing one may use an older certificate.
            self.control_plane.channel(self.subscribe())
        } else {
            let bearer = token.insert(saved?).bearer();
            let bearer =
                bearer.ok_or_else(|| TokenFileError::new(self.token_file.as_deref(), "is not a token"))?;
            request.metadata_mut().insert("authorization", bearer);
            self.control_plane.anonymous()
        };
        let mut issuer = IstioCertificateServiceClient::new(channel);
        let response = tokio::time::timeout(RESPONSE_TIMEOUT, issuer.create_certificate(request)).await;
        let response = match response {
            Err(_) => return Err(IdentityError::NoResponse),
            Ok(Err(status)) => {
                use tonic::Code::{PermissionDenied, Unauthenticated};
                let refused = matches!(status.code(), PermissionDenied | Unauthenticated);
                self.certificate_refused = refused && by_certificate;
                return Err(match token {
                    Some(token) if refused => IdentityError::TokenRefused {
                        reason: status.message().into(),
                        file: self.token_file.clone().unwrap_or_default(),
                        digest: token.digest(),
                        kind: token.kind,
                    },
                    None if refused => IdentityError::CertificateRefused(status.message().into()),
                    _ => IdentityError::Unavailable(describe(&status)),
                });
            }
            Ok(Ok(response)) => response.into_inner(),
        };
        self.certificate_refused = false;
        let pem = response.cert_chain.join("\n");
        let certificate = read(pem.as_bytes(), &self.key, &self.control_plane, self.clock.now())?;
        // A certificate that is not saved still works, but a restart would require the token; hence an error in the log.
        if let Err(error) = self.dir.write(CHAIN_FILE, pem.as_bytes()) {
            tracing::error!(%error, file = ?self.dir.path(CHAIN_FILE), "the certificate cannot be saved");
        }
        Ok(certificate)
    }
}

impl Identity {
    /// Waits until the file has another token than the refused one, or until it may be sent again.
    async fn await_another_token(&self, refused: u64) {
        let again = Instant::now() + REFUSED_TOKEN_INTERVAL.mul_f64(0.9 + fastrand::f64() / 5.0);
        while Instant::now() < again
            && Token::read(self.token_file.as_deref()).is_ok_and(|token| token.digest() == refused)
        {
            tokio::time::sleep(TOKEN_CHECK_INTERVAL).await;
        }
    }

    /// Completes when the roots no longer verify the current certificate, and there is a token that gets another one. This happens
    /// when a CA is lost and replaced by another: peers reject the certificate long before it expires.
    async fn replaced_roots(&self) {
        let mut known = self.control_plane.roots();
        loop {
            tokio::time::sleep(ROOTS_CHECK_INTERVAL).await;
            let roots = self.control_plane.roots();
            if Arc::ptr_eq(&roots, &known) {
                continue;
            }
            known = roots;
            let current = self.current.borrow().clone();
            let verify = |c: &Credential| known.verify(&c.certificate.chain, self.clock.now()).is_ok();
            let renewable = || {
                Token::read(self.token_file.as_deref())
                    .is_ok_and(|token| token.kind == TokenKind::ServiceAccount)
            };
            if !current.as_deref().is_none_or(verify) && renewable() {
                return;
            }
        }
    }
}

fn saved_key(dir: &StateDir) -> Result<Key, IdentityError> {
    let at = |error: std::io::Error| IdentityError::File(dir.path(KEY_FILE), error.to_string());
    if let Some(pem) = dir.read(KEY_FILE).map_err(at)? {
        return Key::from_pem(&pem).map_err(|e| IdentityError::File(dir.path(KEY_FILE), e.to_string()));
    }
    let key = Key::generate()?;
    dir.write(KEY_FILE, key.to_pem().as_bytes()).map_err(at)?;
    Ok(key)
}

fn saved_certificate(
    dir: &StateDir,
    key: &Key,
    control_plane: &ControlPlane,
    now: SystemTime,
) -> Result<Option<Certificate>, IdentityError> {
    let at = |error: std::io::Error| IdentityError::File(dir.path(CHAIN_FILE), error.to_string());
    let Some(pem) = dir.read(CHAIN_FILE).map_err(at)? else { return Ok(None) };
    read(&pem, key, control_plane, now).map(Some)
}

/// Reads a chain. It must be for our key, currently valid, and issued under a trusted root, so that an issuer's mistake does
/// not replace a working certificate.
fn read(
    pem: &[u8],
    key: &Key,
    control_plane: &ControlPlane,
    now: SystemTime,
) -> Result<Certificate, IdentityError> {
    let certificate = Certificate::from_pem(pem, key)?;
    if !certificate.is_valid_at(now) {
        return Err(CertificateError::NotValidNow.into());
    }
    let trusted = control_plane.roots().verify(&certificate.chain, now);
    trusted.map_err(|error| CertificateError::Untrusted(error.to_string()))?;
    Ok(certificate)
}

/// Returns 2/3 of a lifetime, plus or minus 5 %, so that certificates issued together are not renewed together.
fn renewal_delay(lifetime: Duration) -> Duration {
    lifetime.mul_f64(2.0 / 3.0 * (0.95 + fastrand::f64() / 10.0))
}

/// Returns when to renew a restored certificate: after 2/3 of its lifetime, which may be in the past.
fn restored_renewal(certificate: &Certificate, now: SystemTime) -> SystemTime {
    let lifetime = certificate.not_after.duration_since(certificate.not_before).unwrap_or_default();
    (certificate.not_before + renewal_delay(lifetime)).max(now)
}

/// Why there is no identity or no new certificate. The text names the file or quotes the issuer, and contains no secret.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The saved key or chain cannot be used.
    #[error("{0:?}: {1}")]
    File(PathBuf, String),
    /// There is no token, and no certificate that could be used instead.
    #[error("{problem}; a join token is needed for the first certificate: {}", create_token(.file))]
    Token {
        /// The flag or the file, and what is wrong with it.
        problem: String,
        /// Where a token is expected.
        file: PathBuf,
    },
    /// The control plane refused the token.
    #[error("the control plane refused the {kind} in {}: {reason}; {}", .file.display(), next_step(*kind, .file))]
    TokenRefused {
        /// Why.
        reason: String,
        /// The file of the token.
        file: PathBuf,
        /// The digest of the token, which is a secret itself.
        digest: u64,
        /// What it is.
        kind: TokenKind,
    },
    /// The control plane refused the certificate. The token is tried next, if there is one.
    #[error(
        "the control plane refused to renew the certificate: {0}; a new join token is needed (--token-file)"
    )]
    CertificateRefused(String),
    /// The control plane is unreachable, or cannot issue now.
    #[error("{0}")]
    Unavailable(String),
    /// The issuer did not respond in time.
    #[error("the control plane did not respond within {RESPONSE_TIMEOUT:?}")]
    NoResponse,
    /// The key pair or the new certificate cannot be used.
    #[error("{0}")]
    Certificate(String),
}

impl IdentityError {
    /// Returns whether the next attempt fails too unless an operator changes something.
    fn needs_operator(&self) -> bool {
        matches!(self, Self::Token { .. } | Self::TokenRefused { .. } | Self::File(..))
    }
}

impl From<TokenFileError> for IdentityError {
    fn from(TokenFileError { problem, file }: TokenFileError) -> Self {
        Self::Token { problem, file }
    }
}

impl From<CertificateError> for IdentityError {
    fn from(error: CertificateError) -> Self {
        Self::Certificate(error.to_string())
    }
}

#[cfg(test)]
mod tests;
