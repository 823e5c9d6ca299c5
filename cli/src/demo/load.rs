//! The constant load: a fixed number of requests a second, whatever their outcome.
//!
//! An open loop: a slow response delays no other request, so that a stall shows as latency instead of as fewer requests.
//! [`Outcome`] defines "lost" and "cut off".

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinHandle;

/// How long a request may take before it counts as lost.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The outcome of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Answered with 2xx.
    Answered,
    /// A POST whose connection broke after it was written. It must not be sent again (RFC 9110 section 9.2.2).
    CutOff(String),
    /// Failed although it was idempotent or was never written to an application.
    Lost(String),
}

/// One request of the load.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    sent: Instant,
    latency: Duration,
    pub(super) canary: bool,
    pub(super) outcome: Outcome,
    pub(super) version: Option<String>,
}

/// The running load; dropping it stops it.
pub(super) struct Load {
    samples: Arc<Mutex<Vec<Sample>>>,
    generator: JoinHandle<()>,
}

impl Load {
    /// Sends `per_second` requests a second to `web` through the sidecar at `outbound`: two GETs, then a POST. Every
    /// eighth request has the header `x-canary: v2`.
    pub(super) fn start(outbound: SocketAddr, per_second: u32) -> Self {
        let samples = Arc::new(Mutex::new(Vec::new()));
        let generator = tokio::spawn(generate(outbound, per_second, Arc::clone(&samples)));
        Self { samples, generator }
    }

    /// Returns the requests sent between two instants, once they have finished (see [`Load::settle`]).
    pub(super) fn window(&self, from: Instant, to: Instant) -> Window {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        Window(samples.iter().filter(|sample| (from..to).contains(&sample.sent)).cloned().collect())
    }

    /// Returns how many requests have finished, and how many of them were lost.
    pub(super) fn progress(&self) -> (usize, usize) {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        (samples.len(), samples.iter().filter(|sample| matches!(sample.outcome, Outcome::Lost(_))).count())
    }

    /// Stops sending and waits for the requests in flight.
    pub(super) async fn settle(&self) {
        self.generator.abort();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let deadline = Instant::now() + TIMEOUT;
        // Every request in flight holds a clone.
        while Arc::strong_count(&self.samples) > 1 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.generator.abort();
    }
}

async fn generate(outbound: SocketAddr, per_second: u32, samples: Arc<Mutex<Vec<Sample>>>) {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    // A request that the client library sent again would hide one that the mesh lost.
    let client = Client::builder(TokioExecutor::new()).retry_canceled_requests(false).build(connector);
    let mut tick = tokio::time::interval(Duration::from_secs(1) / per_second);
    for number in 0_u64.. {
        tick.tick().await;
        let (client, samples) = (client.clone(), Arc::clone(&samples));
        tokio::spawn(async move {
            let sample = send(&client, outbound, number % 3 == 2, number % 8 == 7).await;
            samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
        });
    }
}

async fn send(
    client: &Client<HttpConnector, Full<Bytes>>,
    outbound: SocketAddr,
    post: bool,
    canary: bool,
) -> Sample {
    let (method, path, body) = if post {
        (Method::POST, "/checkout", Bytes::from_static(b"one paddle, please"))
    } else {
        (Method::GET, "/", Bytes::new())
    };
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = format!("http://{outbound}{path}").parse().unwrap_or_default();
    request.headers_mut().insert(header::HOST, http::HeaderValue::from_static("web"));
    if canary {
        request.headers_mut().insert("x-canary", http::HeaderValue::from_static("v2"));
    }
    let sent = Instant::now();
    let answer = tokio::time::timeout(TIMEOUT, async {
        let (head, body) = client.request(request).await.map_err(|error| format!("{error:?}"))?.into_parts();
        let body = body.collect().await.map_err(|error| format!("{error:?}"))?.to_bytes();
        Ok::<_, String>(Response::from_parts(head, body))
    })
    .await
    .unwrap_or_else(|_| Err(format!("no answer in {TIMEOUT:?}")));
    let text = |head: &Response<Bytes>, name| {
        head.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let version = answer.as_ref().ok().and_then(|answer| text(answer, "x-version"));
    let outcome = match answer {
        Ok(answer) if answer.status().is_success() => Outcome::Answered,
        Ok(answer) => {
            let reason = text(&answer, "x-outrigger-reason").unwrap_or_default();
            judge(post, format!("{} {reason} {}", answer.status(), String::from_utf8_lossy(answer.body())))
        }
        Err(why) => Outcome::Lost(why),
    };
    Sample { sent, latency: sent.elapsed(), canary, outcome, version }
}

/// A failed POST was cut off if a hop that carried the POST itself says that it was written; GETs are always lost.
fn judge(post: bool, why: String) -> Outcome {
    let broke =
        ["upstream_connection_termination", "upstream_remote_reset"].iter().any(|flag| why.contains(flag));
    // `cart` calls `catalog` with a GET, which the mesh can and must retry.
    if post && broke && !why.contains("catalog answered") { Outcome::CutOff(why) } else { Outcome::Lost(why) }
}

/// The requests of one time window.
#[derive(Debug, Default)]
pub(super) struct Window(pub(super) Vec<Sample>);

impl Window {
    pub(super) fn sent(&self) -> usize {
        self.0.len()
    }

    /// The cause of each lost request.
    pub(super) fn lost(&self) -> Vec<&str> {
        self.0
            .iter()
            .filter_map(|sample| match &sample.outcome {
                Outcome::Lost(why) => Some(why.as_str()),
                Outcome::Answered | Outcome::CutOff(_) => None,
            })
            .collect()
    }

    /// The cause of each POST that was cut off.
    pub(super) fn cut_off(&self) -> Vec<&str> {
        self.0
            .iter()
            .filter_map(|sample| match &sample.outcome {
                Outcome::CutOff(why) => Some(why.as_str()),
                Outcome::Answered | Outcome::Lost(_) => None,
            })
            .collect()
    }

    /// Returns the latency below which `share` (0 to 1) of the answered requests stayed.
    pub(super) fn quantile(&self, share: f64) -> Option<Duration> {
        let mut latencies: Vec<_> = self
            .0
            .iter()
            .filter(|sample| sample.outcome == Outcome::Answered)
            .map(|sample| sample.latency)
            .collect();
        latencies.sort_unstable();
        let last = latencies.len().checked_sub(1)?;
        latencies.get((last as f64 * share).round() as usize).copied()
    }

    /// Returns the share (0 to 1) of the requests selected by `among` that was answered by `version` of `catalog`.
    pub(super) fn share(&self, version: &str, among: impl Fn(&Sample) -> bool) -> Option<f64> {
        let versions: Vec<_> = self
            .0
            .iter()
            .filter(|sample| among(sample))
            .filter_map(|sample| sample.version.as_deref())
            .collect();
        let hits = versions.iter().filter(|seen| **seen == version).count();
        (!versions.is_empty()).then(|| hits as f64 / versions.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_post_that_broke_after_it_was_written_is_cut_off() {
        let broke = || "503 upstream_connection_termination".to_owned();
        assert!(matches!(judge(true, broke()), Outcome::CutOff(_)));
        assert!(matches!(judge(false, broke()), Outcome::Lost(_)));
        assert!(matches!(judge(true, "503 upstream_connection_failure".into()), Outcome::Lost(_)));
        assert!(matches!(judge(true, format!("502 catalog answered {}", broke())), Outcome::Lost(_)));
    }

    impl Sample {
        /// A request that was lost after 5 s.
        pub(in crate::demo) fn lost(why: &str) -> Self {
            sample(5000, Outcome::Lost(why.into()))
        }
    }

    fn sample(latency: u64, outcome: Outcome) -> Sample {
        let latency = Duration::from_millis(latency);
        Sample { sent: Instant::now(), latency, canary: false, outcome, version: None }
    }

    #[test]
    fn quantiles_count_answered_requests_only() {
        let mut samples: Vec<_> = (1..=101).map(|latency| sample(latency, Outcome::Answered)).collect();
        samples.push(Sample::lost("late"));
        let window = Window(samples);
        assert_eq!(window.quantile(0.5), Some(Duration::from_millis(51)));
        assert_eq!(window.quantile(0.99), Some(Duration::from_millis(100)));
        assert_eq!((window.sent(), window.lost().len()), (102, 1));
    }
}
