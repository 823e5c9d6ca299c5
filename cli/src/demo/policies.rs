//! The ninth check of the demo, who may call whom: policies are added and removed while traffic runs, and the shopper, which belongs to the
//! mesh but is named by none of them, does what they forbid.
//!
//! Each step observes the same call without the policy, with it, and without it again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use outrigger_proto::demo::{ChargeRequest, payments_client::PaymentsClient};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use super::checks::{Pace, Verdict};
use super::issuer::{self, Issuer};
use super::mesh::Mesh;
use super::shop::replace;

/// How long a policy may take to reach the sidecars, and a call to be answered.
const PROPAGATION: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(5);

/// Only `cart` may pay, and only `cart` reaches the database port of `stock`.
const OWNERS: &str = "apiVersion: outrigger.dev/v1alpha1
kind: AuthorizationPolicy
metadata:
  name: only-cart
  namespace: shop
spec:
  targetRefs:
    - group: \"\"
      kind: Service
      name: payments
    - group: \"\"
      kind: Service
      name: stock
  action: Allow
  rules:
    - from:
        - serviceAccounts:
            - name: cart
";

/// Of each caller, `payments` serves 100 requests per second, 50 of them at once.
const LIMIT: &str = "apiVersion: outrigger.dev/v1alpha1
kind: RateLimitPolicy
metadata:
  name: limit
  namespace: shop
spec:
  targetRefs:
    - group: \"\"
      kind: Service
      name: payments
  local:
    - requests: 100
      per: Second
      burst: 50
      by:
        - caller: {}
";
const PER_SECOND: f64 = 100.0;
const BURST: f64 = 50.0;
/// The deviation from the limit that is allowed.
const TOLERANCE: f64 = 0.05;

/// `web` accepts only valid tokens, and requests without one.
fn tokens_of(issuer: &Issuer) -> String {
    format!(
        "apiVersion: outrigger.dev/v1alpha1
kind: AuthenticationPolicy
metadata:
  name: tokens
  namespace: shop
spec:
  targetRefs:
    - group: \"\"
      kind: Service
      name: web
  mode: Optional
  jwt:
    issuers:
      - issuer: {}
        keys:
          inline: '{}'
",
        issuer::NAME,
        issuer.key_set()
    )
}

/// 9. Identities that no policy allows are refused, expired tokens are refused, and a limit holds.
pub(super) async fn who_may_call(mesh: &Mesh, pace: Pace) -> Verdict {
    let steps = [owners(mesh, pace).await?, tokens(mesh, pace).await?, limit(mesh, pace).await?];
    Ok(steps.join("; "))
}

/// Only `cart` reaches `payments` and `stock`.
async fn owners(mesh: &Mesh, pace: Pace) -> Verdict {
    let shopper = mesh.instance("shopper-1")?;
    let (payments, stock) = (shopper.payments, shopper.stock);
    let refused = async || {
        let denied = Till::connect(payments).await?.charge().await == Code::PermissionDenied;
        Ok::<_, String>((denied, !counts(stock).await?))
    };
    let policy = Policy::new(mesh, "only-cart");
    until("the shopper is served by payments and stock", async || Ok(refused().await? == (false, false)))
        .await?;
    policy.add(OWNERS)?;
    until("payments and stock refuse the shopper", async || Ok(refused().await? == (true, true))).await?;
    tokio::time::sleep(pace.watch).await;
    policy.remove()?;
    until("payments and stock serve the shopper again", async || Ok(refused().await? == (false, false)))
        .await?;
    Ok("the shopper was refused at payments (PERMISSION_DENIED) and at the port of stock (connection closed)"
        .into())
}

/// An expired token is refused; a valid one, and a request without one, is not.
async fn tokens(mesh: &Mesh, pace: Pace) -> Verdict {
    let issuer = Issuer::new()?;
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    let (valid, expired) = (issuer.token(now + hour)?, issuer.token(now - hour / 2)?);
    let web = Web::new(mesh.instance("shopper-1")?.outbound);
    let statuses = async || Ok::<_, String>((web.status(&expired).await?, web.status(&valid).await?));
    let policy = Policy::new(mesh, "tokens");
    policy.add(&tokens_of(&issuer))?;
    until("web refuses an expired token, and accepts a valid one", async || {
        Ok(statuses().await? == (401, 200))
    })
    .await?;
    tokio::time::sleep(pace.watch).await;
    policy.remove()?;
    until("web ignores tokens again", async || Ok(statuses().await? == (200, 200))).await?;
    Ok("an expired token was refused (401), a valid one was not".into())
}

/// A limit holds, by caller.
async fn limit(mesh: &Mesh, pace: Pace) -> Verdict {
    let till = Till::connect(mesh.instance("shopper-1")?.payments).await?;
    let policy = Policy::new(mesh, "limit");
    policy.add(LIMIT)?;
    until("payments limits the shopper", async || {
        let many = (0..BURST as usize + 5).map(|_| till.charge());
        Ok(futures_util::future::join_all(many).await.contains(&Code::ResourceExhausted))
    })
    .await?;
    // The bucket fills again.
    tokio::time::sleep(Duration::from_secs_f64(BURST / PER_SECOND)).await;
    let (begin, mut tick) = (Instant::now(), tokio::time::interval(Duration::from_millis(4)));
    let mut calls = tokio::task::JoinSet::new();
    while begin.elapsed() < pace.measure {
        tick.tick().await;
        let till = till.clone();
        calls.spawn(async move { till.charge().await });
    }
    let allowed = BURST + PER_SECOND * begin.elapsed().as_secs_f64();
    let codes = calls.join_all().await;
    let served = codes.iter().filter(|code| **code == Code::Ok).count();
    policy.remove()?;
    if let Some(other) = codes.iter().find(|code| !matches!(code, Code::Ok | Code::ResourceExhausted)) {
        return Err(format!("a call that is limited was answered with {other:?}"));
    }
    let measured = format!("of {} calls, a limit of {allowed:.0} let {served} pass", codes.len());
    if (served as f64 - allowed).abs() > allowed * TOLERANCE {
        return Err(format!("{measured}, more than {:.0} % off", TOLERANCE * 100.0));
    }
    until("payments limits nobody", async || {
        let many = (0..2 * BURST as usize).map(|_| till.charge());
        Ok(futures_util::future::join_all(many).await.iter().all(|code| *code == Code::Ok))
    })
    .await?;
    Ok(measured)
}

/// A file with a policy.
struct Policy(PathBuf);

impl Policy {
    fn new(mesh: &Mesh, name: &str) -> Self {
        Self(mesh.config().join(format!("{name}.yaml")))
    }

    fn add(&self, yaml: &str) -> Result<(), String> {
        replace(&self.0, yaml)
    }

    fn remove(&self) -> Result<(), String> {
        std::fs::remove_file(&self.0).map_err(|error| format!("cannot remove {}: {error}", self.0.display()))
    }
}

/// Waits until `holds`. Returns an error that names `what`, if it does not within [`PROPAGATION`].
async fn until(what: &str, holds: impl AsyncFn() -> Result<bool, String>) -> Result<(), String> {
    let deadline = Instant::now() + PROPAGATION;
    while !holds().await? {
        if Instant::now() > deadline {
            return Err(format!("not within {PROPAGATION:?}: {what}"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// A client of `payments`.
#[derive(Clone)]
struct Till(PaymentsClient<Channel>);

impl Till {
    /// Connects to the sidecar's port for `payments`.
    async fn connect(payments: SocketAddr) -> Result<Self, String> {
        let endpoint =
            Endpoint::from_shared(format!("http://{payments}")).map_err(|error| error.to_string())?;
        let channel = endpoint.timeout(TIMEOUT).connect().await;
        channel
            .map(|channel| Self(PaymentsClient::new(channel)))
            .map_err(|error| format!("payments: {error}"))
    }

    /// Returns the status of a call.
    async fn charge(&self) -> Code {
        let charged = self.0.clone().charge(Request::new(ChargeRequest { cents: 1 })).await;
        charged.map_or_else(|status| status.code(), |_| Code::Ok)
    }
}

/// A client of `web`.
struct Web {
    client: Client<HttpConnector, Full<Bytes>>,
    outbound: SocketAddr,
}

impl Web {
    fn new(outbound: SocketAddr) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), outbound }
    }

    /// Returns the status of a GET with a token.
    async fn status(&self, token: &str) -> Result<u16, String> {
        let request = http::Request::get(format!("http://{}/", self.outbound))
            .header(header::HOST, "web")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(Full::default())
            .map_err(|error| format!("web: {error}"))?;
        match tokio::time::timeout(TIMEOUT, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(response.status().as_u16()),
            Ok(Err(error)) => Err(format!("web: {error:?}")),
            Err(_) => Err(format!("web: no answer in {TIMEOUT:?}")),
        }
    }
}

/// Returns whether `stock` answers through the sidecar's port for it; `false` if the connection is closed without an answer.
async fn counts(stock: SocketAddr) -> Result<bool, String> {
    let mut stream = TcpStream::connect(stock).await.map_err(|error| format!("stock: {error}"))?;
    let answer = async {
        stream.write_all(b"paddle\n").await?;
        let mut line = String::new();
        BufReader::new(&mut stream).read_line(&mut line).await?;
        Ok::<_, std::io::Error>(line)
    };
    match tokio::time::timeout(TIMEOUT, answer).await {
        Ok(Ok(line)) => Ok(!line.is_empty()),
        // The sidecar of `stock` closes the connection, or resets it.
        Ok(Err(_)) => Ok(false),
        Err(_) => Err("stock neither answered nor closed the connection".into()),
    }
}
