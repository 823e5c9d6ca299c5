//! Applications that do what a script says, and proxies that hedge the requests to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use outrigger_config::cluster::Cluster;
use outrigger_config::route::{Attempts, Forward, RouteAction};
use outrigger_core::record::RequestRecord;
use outrigger_dataplane::metrics::ClusterTotals;
use outrigger_policy::circuit_breaker::CircuitBreakers;
use outrigger_policy::hedging::Hedging;
use outrigger_policy::retry::RetryPolicy;
use outrigger_proto::xds::cluster::circuit_breakers::Thresholds;
use outrigger_proto::xds::protobuf::{Struct, UInt32Value, Value, value::Kind};
use outrigger_proto::xds::{cluster as wire, metadata};
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::wait::eventually;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use super::{Proxy, World, cluster, endpoint, to};

/// The delay of the tests in which no percentile is known yet, in milliseconds.
pub const DELAY: f64 = 20.0;

/// What an application does with a request.
#[derive(Debug, Clone, Copy)]
pub enum Does {
    /// Answers with 103 at once, and with 200 when it is released.
    Holds,
    Answers(u16),
    /// Answers with 503 and asks for no request for a second.
    PushesBack,
    /// Closes the connection.
    Closes,
    /// Answers with 103 at once, and closes the connection when it is released.
    HoldsAndCloses,
    /// Answers with 103 at once, and with 503 a moment after it is released.
    HoldsAndFails,
}

/// Applications that do with their requests, which are numbered in the order of their arrival at any of them, what a script says.
/// The body of a response is `NUMBER METHOD BODY`.
pub struct Applications {
    pub all: Vec<Application>,
    pub release: watch::Sender<bool>,
    /// The connections that were closed while a request was held.
    pub cancelled: Arc<AtomicUsize>,
}

impl Applications {
    /// Starts `count` applications. What follows the script is answered with 200.
    pub async fn start(count: usize, script: &[Does]) -> Self {
        let (release, released) = watch::channel(false);
        let (script, arrived) = (Arc::<[Does]>::from(script), Arc::<AtomicUsize>::default());
        let cancelled = Arc::<AtomicUsize>::default();
        let mut all = Vec::new();
        for _ in 0..count {
            let (script, arrived) = (Arc::clone(&script), Arc::clone(&arrived));
            let (released, cancelled) = (released.clone(), Arc::clone(&cancelled));
            let application = Application::raw(move |mut connection| {
                let (script, arrived) = (Arc::clone(&script), Arc::clone(&arrived));
                let (mut released, cancelled) = (released.clone(), Arc::clone(&cancelled));
                async move {
                    while let Some(asked) = connection.request().await {
                        let number = arrived.fetch_add(1, Ordering::SeqCst);
                        let does = *script.get(number).unwrap_or(&Does::Answers(200));
                        let status = match does {
                            Does::Closes => return,
                            Does::Answers(status) => status,
                            Does::PushesBack => 503,
                            Does::Holds | Does::HoldsAndCloses | Does::HoldsAndFails => {
                                connection.send("HTTP/1.1 103 Early Hints\r\n\r\n").await.unwrap();
                                let mut byte = [0];
                                tokio::select! {
                                    released = released.wait_for(|released| *released) => {
                                        if released.is_err() || matches!(does, Does::HoldsAndCloses) {
                                            return;
                                        }
                                    }
                                    _ = connection.stream.read(&mut byte) => {
                                        cancelled.fetch_add(1, Ordering::SeqCst);
                                        return;
                                    }
                                }
                                match does {
                                    Does::HoldsAndFails => {
                                        tokio::time::sleep(Duration::from_millis(200)).await;
                                        503
                                    }
                                    _ => 200,
                                }
                            }
                        };
                        let method = asked.head.split(' ').next().unwrap();
                        let body = format!("{number} {method} {}", String::from_utf8_lossy(&asked.body));
                        let length = body.len();
                        let pushback =
                            if matches!(does, Does::PushesBack) { "retry-after: 1\r\n" } else { "" };
                        let answer = format!(
                            "HTTP/1.1 {status} X\r\n{pushback}content-length: {length}\r\n\r\n{body}"
                        );
                        if connection.send(answer).await.is_err() {
                            return;
                        }
                    }
                }
            });
            all.push(application.await);
        }
        Self { all, release, cancelled }
    }

    pub fn requests(&self) -> Vec<usize> {
        self.all.iter().map(Application::requests).collect()
    }

    pub fn total(&self) -> usize {
        self.requests().iter().sum()
    }

    pub async fn have(&self, requests: usize) {
        eventually("requests", async || (self.total() == requests).then_some(())).await;
    }

    pub async fn have_cancelled(&self, connections: usize) {
        let enough = || self.cancelled.load(Ordering::SeqCst) == connections;
        eventually("cancelled attempts", async || enough().then_some(())).await;
    }

    pub fn cluster(&self) -> Cluster {
        cluster("app", self.all.iter().map(|application| endpoint(application.address)))
    }
}

pub fn hedging(percentile: f64, max_delay: Option<f64>) -> Option<Hedging> {
    let number = |number| Value { kind: Some(Kind::NumberValue(number)) };
    let fields = [(metadata::PERCENTILE, Some(percentile)), (metadata::MAX_DELAY_MS, max_delay)];
    let fields = fields.into_iter().filter_map(|(name, of)| Some((name.to_owned(), number(of?))));
    Some(Hedging::decode(&Struct { fields: fields.collect() }).unwrap())
}

/// A cluster whose requests are hedged after [`DELAY`].
pub fn hedged(applications: &Applications) -> Cluster {
    Cluster { hedging: hedging(95.0, Some(DELAY)), ..applications.cluster() }
}

/// Starts a proxy whose route has this retry policy.
pub fn proxy(cluster: Cluster, retry: RetryPolicy) -> Proxy {
    let action = Forward { retry: Some(retry), ..to("app") };
    World::new().proxy().cluster_of(cluster).http("app:80", RouteAction::Forward(Box::new(action))).start()
}

/// Starts a proxy that hedges as Envoy does.
pub fn proxy_as_envoy(cluster: Cluster, mut retry: RetryPolicy) -> Proxy {
    retry.per_try_timeout = Some(Duration::from_millis(DELAY as u64));
    let attempts = Attempts { hedge_on_per_try_timeout: true, ..Attempts::default() };
    let action = Forward { retry: Some(retry), attempts, ..to("app") };
    World::new().proxy().cluster_of(cluster).http("app:80", RouteAction::Forward(Box::new(action))).start()
}

pub fn totals(proxy: &Proxy) -> ClusterTotals {
    proxy.totals().clusters["app"].clone()
}

/// Sends a request.
pub async fn held(proxy: &Proxy, method: &str, body: &str) -> Client {
    let mut client = Client::connect(proxy.address(0)).await;
    let length = body.len();
    client.send(format!("{method} / HTTP/1.1\r\nHost: app\r\nContent-Length: {length}\r\n\r\n{body}")).await;
    client
}

/// Reads the response after the interim ones. Returns its status and body.
pub async fn answer(client: &mut Client) -> (u16, String) {
    loop {
        let response = client.response().await;
        if response.status != 103 {
            return (response.status, response.body);
        }
    }
}

pub fn statuses(record: &RequestRecord) -> Vec<(u32, u16)> {
    record.attempts.iter().map(|attempt| (attempt.resend_count, attempt.status)).collect()
}

/// Limits of a cluster on retries and requests.
pub fn limits(max_retries: u32, max_requests: u32) -> CircuitBreakers {
    let number = |value| Some(UInt32Value { value });
    let limits = Thresholds {
        max_retries: number(max_retries),
        max_requests: number(max_requests),
        ..Default::default()
    };
    let breakers = wire::CircuitBreakers { thresholds: vec![limits], ..Default::default() };
    CircuitBreakers::decode(Some(breakers)).unwrap()
}
