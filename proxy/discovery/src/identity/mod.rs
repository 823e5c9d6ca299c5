//! The workload's identity: a local key pair, and a short-lived certificate that is renewed while the proxy runs.
//!
//! The supervisor starts [`Identity::maintain`]. The first certificate requires the token. Later ones are requested with the
//! current certificate, at a jittered 2/3 of its lifetime, and retried until they succeed; after expiry the token is required
//! again. Key and certificate are restored after a restart, so that a proxy serves while the CA is unreachable.

pub(crate) mod publication;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_proto::istio_auth::IstioCertificateRequest;
use outrigger_proto::istio_auth::istio_certificate_service_client::IstioCertificateServiceClient;
use thiserror::Error;
use tokio::sync::watch;
use tonic::Request;
use tonic::metadata::MetadataValue;

use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::control_plane::certificate::{Certificate, CertificateError, Key};
use crate::control_plane::channel::{ControlPlane, Credential, Credentials, describe};
use crate::state_dir::StateDir;
use crate::status::StatusBoard;

/// File of the private key, PKCS #8 PEM.
const KEY_FILE: &str = "identity.key";
/// File of the chain, PEM, leaf first.
const CHAIN_FILE: &str = "identity.pem";
/// Time limit for the issuer to respond; the request is then retried.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a token; a larger file is most likely not a token.
const TOKEN_BYTES: usize = 16 * 1024;

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
            read_token(token_file.as_deref())?;
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
        let mut backoff = Backoff::default();
        loop {
            self.clock.sleep_until(self.renewal).await;
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
                }
                Err(error) => {
                    tracing::warn!(%error, "no new certificate; retrying");
                    status.certificate_failed(error.to_string());
                    // Not by the wall clock, which may be set back.
                    tokio::time::sleep(backoff.next()).await;
                }
            }
        }
    }

    /// Sends one request, authenticated by our certificate if it is valid and not refused, else by the token.
    async fn renew(&mut self) -> Result<Certificate, IdentityError> {
        let now = self.clock.now();
        let valid = self.current.borrow().as_ref().is_some_and(|c| c.certificate.is_valid_at(now));
        let by_certificate = valid && !(self.certificate_refused && self.token_file.is_some());
        let mut request = Request::new(IstioCertificateRequest {
            csr: self.key.signing_request()?,
            validity_duration: 0, // as long as the issuer gives
            metadata: None,
        });
        let channel = if by_certificate {
            // A new connection, because an existing one may use an older certificate.
            self.control_plane.channel(self.subscribe())
        } else {
            let token = read_token(self.token_file.as_deref())?;
            let mut bearer = MetadataValue::try_from(format!("Bearer {token}"))
                .map_err(|_| IdentityError::Token("is not a valid HTTP header value".into()))?;
            bearer.set_sensitive(true);
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
                return Err(IdentityError::Refused(describe(&status)));
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

fn read_token(file: Option<&Path>) -> Result<String, IdentityError> {
    let file = file.ok_or_else(|| IdentityError::Token("none was given".into()))?;
    let refuse = |reason: String| IdentityError::Token(format!("{}: {reason}", file.display()));
    let token = std::fs::read_to_string(file).map_err(|error| refuse(error.to_string()))?;
    match token.trim() {
        "" => Err(refuse("the file is empty".into())),
        token if token.len() > TOKEN_BYTES => Err(refuse("the file is too long for a token".into())),
        token => Ok(token.into()),
    }
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
    #[error("a join token is needed, and {0}")]
    Token(String),
    /// The issuer refused the request.
    #[error("the issuer refused: {0}")]
    Refused(String),
    /// The issuer did not respond in time.
    #[error("the issuer did not respond within {RESPONSE_TIMEOUT:?}")]
    NoResponse,
    /// The key pair or the new certificate cannot be used.
    #[error("{0}")]
    Certificate(String),
}

impl From<CertificateError> for IdentityError {
    fn from(error: CertificateError) -> Self {
        Self::Certificate(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Ca, FakeControlPlane, Issuance, Proof, fake_control_plane};
    use tokio::time::Instant;

    struct Fixture {
        ca: Arc<Ca>,
        clock: Clock,
        fake: FakeControlPlane,
        token_file: PathBuf,
    }

    fn fixture() -> Fixture {
        let ca = Arc::new(Ca::new());
        let clock = Clock::paused();
        let fake = fake_control_plane(&ca, clock);
        let token_file = ca.dir().join("token");
        std::fs::write(&token_file, "good\n").unwrap();
        Fixture { ca, clock, fake, token_file }
    }

    impl Fixture {
        fn open(&self) -> Result<Identity, IdentityError> {
            let dir = StateDir::open(&self.ca.dir().join("state")).unwrap();
            let token = Some(self.token_file.clone());
            Identity::open(dir, token, self.fake.control_plane.clone(), self.clock)
        }

        fn issuance<T>(&self, change: impl FnOnce(&mut Issuance) -> T) -> T {
            change(&mut self.fake.issuance.lock().unwrap())
        }
    }

    fn start(identity: Identity) -> (Credentials, tokio::task::JoinHandle<()>) {
        let mut credentials = identity.subscribe();
        credentials.mark_unchanged();
        (credentials, tokio::spawn(identity.maintain(StatusBoard::default())))
    }

    fn expiry(credentials: &Credentials) -> SystemTime {
        credentials.borrow().as_ref().unwrap().certificate.not_after
    }

    #[tokio::test(start_paused = true)]
    async fn the_token_gets_the_first_certificate_and_each_certificate_the_next() {
        let fixture = fixture();
        let (mut credentials, _task) = start(fixture.open().unwrap());
        credentials.changed().await.unwrap();
        let (first, issued) = (expiry(&credentials), Instant::now());
        credentials.changed().await.unwrap();
        let third_of_life = issued.elapsed().as_secs_f64() / 10.0;
        assert!((1.83..2.15).contains(&third_of_life), "renewed after {third_of_life} thirds of 30 s");
        assert!(expiry(&credentials) > first);
        let me = credentials.borrow().as_ref().unwrap().certificate.identity.clone();
        fixture.issuance(|i| assert_eq!(i.issued, [Proof::Token("good".into()), Proof::Certificate(me)]));
    }

    #[tokio::test(start_paused = true)]
    async fn renewal_is_retried_until_it_succeeds() {
        let fixture = fixture();
        let (mut credentials, _task) = start(fixture.open().unwrap());
        credentials.changed().await.unwrap();
        fixture.issuance(|i| i.outage = Some(tonic::Status::unavailable("away")));
        tokio::time::sleep(Duration::from_secs(24)).await;
        assert!(!credentials.has_changed().unwrap(), "the old one stays");
        fixture.issuance(|i| {
            assert!(i.refused >= 2, "tried {} times", i.refused);
            i.outage = None;
        });
        credentials.changed().await.unwrap();
        fixture.issuance(|i| assert!(matches!(i.issued[1], Proof::Certificate(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_workload_needs_the_token_again() {
        let fixture = fixture();
        let (mut credentials, _task) = start(fixture.open().unwrap());
        credentials.changed().await.unwrap();
        fixture.issuance(|i| i.outage = Some(tonic::Status::unavailable("away")));
        std::fs::remove_file(&fixture.token_file).unwrap();
        tokio::time::sleep(Duration::from_secs(40)).await;
        fixture.issuance(|i| i.outage = None);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(!credentials.has_changed().unwrap(), "neither certificate nor token");
        std::fs::write(&fixture.token_file, "good").unwrap();
        credentials.changed().await.unwrap();
        fixture.issuance(|i| assert_eq!(i.issued.last(), Some(&Proof::Token("good".into()))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_certificate_falls_back_to_the_token() {
        let fixture = fixture();
        let (mut credentials, _task) = start(fixture.open().unwrap());
        credentials.changed().await.unwrap();
        fixture.issuance(|i| i.outage = Some(tonic::Status::unauthenticated("revoked")));
        while fixture.issuance(|i| i.refused) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        fixture.issuance(|i| i.outage = None);
        credentials.changed().await.unwrap();
        fixture.issuance(|i| assert_eq!(i.issued.last(), Some(&Proof::Token("good".into()))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_reads_key_and_certificate_back() {
        let fixture = fixture();
        fixture.issuance(|i| i.lifetime = Duration::from_secs(3600));
        let (mut credentials, task) = start(fixture.open().unwrap());
        credentials.changed().await.unwrap();
        task.abort();
        std::fs::remove_file(&fixture.token_file).unwrap();
        let again = fixture.open().unwrap();
        assert_eq!(expiry(&again.subscribe()), expiry(&credentials));
        assert!(again.renewal > fixture.clock.now());
    }

    #[tokio::test(start_paused = true)]
    async fn without_certificate_and_token_there_is_no_start() {
        let fixture = fixture();
        std::fs::remove_file(&fixture.token_file).unwrap();
        let error = fixture.open().unwrap_err().to_string();
        assert!(error.contains("token"), "{error}");
        std::fs::write(&fixture.token_file, " \n").unwrap();
        assert!(fixture.open().unwrap_err().to_string().contains("empty"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_torn_certificate_is_not_used_and_a_torn_key_is_fatal() {
        let fixture = fixture();
        let dir = StateDir::open(&fixture.ca.dir().join("state")).unwrap();
        dir.write(CHAIN_FILE, b"-----BEGIN CERTIFICATE-----\nMIIB").unwrap();
        assert!(fixture.open().unwrap().subscribe().borrow().is_none());
        dir.write(KEY_FILE, b"-----BEGIN PRIV").unwrap();
        assert!(matches!(fixture.open(), Err(IdentityError::File(..))));
    }
}
