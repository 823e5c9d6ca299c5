use super::*;
use crate::testing::{Ca, FakeControlPlane, Issuance, Proof, fake_control_plane};

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
async fn a_refused_token_is_sent_rarely_and_another_one_in_the_file_at_once() {
    let fixture = fixture();
    std::fs::write(&fixture.token_file, "expired").unwrap();
    let status = StatusBoard::default();
    let identity = fixture.open().unwrap();
    let mut credentials = identity.subscribe();
    credentials.mark_unchanged();
    tokio::spawn(identity.maintain(status.clone()));
    tokio::time::sleep(Duration::from_secs(50)).await;
    fixture.issuance(|i| assert_eq!(i.refused, 1));
    let failure = status.read().identity.last_failure.unwrap();
    let next = format!("> {}", fixture.token_file.display());
    assert!(failure.starts_with("the control plane refused the join token in "), "{failure}");
    assert!(failure.contains("outrigger token create") && failure.ends_with(&next), "{failure}");
    assert!(!failure.contains("expired"), "the token is a secret: {failure}");
    tokio::time::sleep(Duration::from_secs(30)).await;
    fixture.issuance(|i| assert_eq!(i.refused, 2, "the control plane may have changed"));
    std::fs::write(&fixture.token_file, "good").unwrap();
    let replaced = Instant::now();
    credentials.changed().await.unwrap();
    assert!(replaced.elapsed() <= Duration::from_secs(2));
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

/// A token of a service account, as the fake control plane sees it: any JWT.
const PROJECTED: &str = "eyJhbGciOiJSUzI1NiJ9.e30.first";
const ROTATED: &str = "eyJhbGciOiJSUzI1NiJ9.e30.second";

#[tokio::test(start_paused = true)]
async fn the_token_of_a_service_account_is_read_and_sent_for_every_certificate() {
    let fixture = fixture();
    std::fs::write(&fixture.token_file, PROJECTED).unwrap();
    fixture.issuance(|i| i.token = PROJECTED);
    let (mut credentials, _task) = start(fixture.open().unwrap());
    credentials.changed().await.unwrap();
    fixture.issuance(|i| i.token = ROTATED);
    std::fs::write(&fixture.token_file, ROTATED).unwrap();
    credentials.changed().await.unwrap();
    let sent = |token: &str| Proof::Token(token.into());
    fixture.issuance(|i| assert_eq!(i.issued, [sent(PROJECTED), sent(ROTATED)]));
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_of_a_service_account_is_sent_again_within_seconds_and_the_certificate_stays() {
    let fixture = fixture();
    std::fs::write(&fixture.token_file, PROJECTED).unwrap();
    fixture.issuance(|i| i.token = PROJECTED);
    let status = StatusBoard::default();
    let identity = fixture.open().unwrap();
    let mut credentials = identity.subscribe();
    credentials.mark_unchanged();
    tokio::spawn(identity.maintain(status.clone()));
    credentials.changed().await.unwrap();
    let first = expiry(&credentials);
    fixture.issuance(|i| i.token = ROTATED);
    while fixture.issuance(|i| i.refused) < 2 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(expiry(&credentials), first);
    let failure = status.read().identity.last_failure.unwrap();
    assert!(failure.starts_with("the control plane refused the service account token in "), "{failure}");
    assert!(!failure.contains("token create") && !failure.contains(PROJECTED), "{failure}");
    fixture.issuance(|i| i.token = PROJECTED);
    let accepted = Instant::now();
    credentials.changed().await.unwrap();
    assert!(accepted.elapsed() <= Duration::from_secs(6));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_new_roots_do_not_verify_is_replaced_at_once() {
    let fixture = fixture();
    std::fs::write(&fixture.token_file, PROJECTED).unwrap();
    fixture.issuance(|i| (i.token, i.lifetime) = (PROJECTED, Duration::from_secs(3600)));
    let (mut credentials, _task) = start(fixture.open().unwrap());
    credentials.changed().await.unwrap();
    // The control plane stays that of the old root: only the request for another certificate is observed.
    let (other, own) = (Ca::new(), std::fs::read_to_string(fixture.ca.roots_file()).unwrap());
    std::fs::copy(other.roots_file(), fixture.ca.roots_file()).unwrap();
    tokio::time::sleep(2 * ROOTS_CHECK_INTERVAL).await;
    std::fs::write(fixture.ca.roots_file(), own).unwrap();
    credentials.changed().await.unwrap();
    fixture.issuance(|i| assert_eq!(i.issued.len(), 2));
}
