//! The ninth check of the demo, who may call whom: policies are added and removed while traffic runs, and the shopper, which belongs to the
//! mesh but is named by none of them, does what they forbid.
//!
//! Each step observes the same call without the policy, with it, and without it again.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use outrigger_proto::demo::{ChargeRequest, payments_client::PaymentsClient};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tonic::{Code, Request};

use super::checks::{Pace, Verdict};
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

/// 9. Identities that no policy allows are refused, over HTTP and on a TCP port.
pub(super) async fn who_may_call(mesh: &Mesh, pace: Pace) -> Verdict {
    let shopper = mesh.instance("shopper-1")?;
    let (payments, stock) = (shopper.payments, shopper.stock);
    let refused = async || {
        let denied = charge(payments).await? == Code::PermissionDenied;
        Ok::<_, String>((denied, !counts(stock).await?))
    };
    let policy = Policy::new(mesh, "only-cart", OWNERS);
    until("the shopper is served by payments and stock", async || Ok(refused().await? == (false, false)))
        .await?;
    policy.add()?;
    until("payments and stock refuse the shopper", async || Ok(refused().await? == (true, true))).await?;
    tokio::time::sleep(pace.watch).await;
    policy.remove()?;
    until("payments and stock serve the shopper again", async || Ok(refused().await? == (false, false)))
        .await?;
    Ok("the shopper was refused at payments (PERMISSION_DENIED) and at the port of stock (connection closed)"
        .into())
}

/// A file with a policy.
struct Policy {
    path: std::path::PathBuf,
    yaml: &'static str,
}

impl Policy {
    fn new(mesh: &Mesh, name: &str, yaml: &'static str) -> Self {
        Self { path: mesh.config().join(format!("{name}.yaml")), yaml }
    }

    fn add(&self) -> Result<(), String> {
        replace(&self.path, self.yaml)
    }

    fn remove(&self) -> Result<(), String> {
        std::fs::remove_file(&self.path)
            .map_err(|error| format!("cannot remove {}: {error}", self.path.display()))
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

/// Charges through the sidecar's port for `payments`. Returns the status of the call.
async fn charge(payments: SocketAddr) -> Result<Code, String> {
    let endpoint = Endpoint::from_shared(format!("http://{payments}")).map_err(|error| error.to_string())?;
    let channel = endpoint.timeout(TIMEOUT).connect().await.map_err(|error| format!("payments: {error}"))?;
    let charged = PaymentsClient::new(channel).charge(Request::new(ChargeRequest { cents: 1 })).await;
    Ok(charged.map_or_else(|status| status.code(), |_| Code::Ok))
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
