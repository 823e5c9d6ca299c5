//! Exports the requests of one signal, each within its time limit, and counts what was delivered and lost.
//!
//! A failure that may pass is followed by one more attempt; later batches are worth as much as this one. The first failure is
//! logged as a warning, and so is the recovery; what happens between is in the counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tokio::time::Instant;

use super::client::{Client, SendError};
use super::destination::{Destination, Protocol};
use crate::telemetry::losses::Losses;

/// Shortest and longest pause before the second attempt, unless the collector names one.
const RETRY_DELAY: [Duration; 2] = [Duration::from_millis(500), Duration::from_millis(1500)];

/// The exporter of one signal.
#[derive(Debug)]
pub(crate) struct Exporter {
    client: Client,
    losses: Arc<Losses>,
    /// Whether the last export failed, which is logged.
    failing: AtomicBool,
}

impl Exporter {
    /// Creates an exporter, which connects on the first export. Call it inside the control runtime.
    pub(crate) fn new(destination: Destination, losses: Arc<Losses>) -> Self {
        Self { client: Client::new(destination), losses, failing: AtomicBool::new(false) }
    }

    /// Sends one request that contains `count` items.
    pub(crate) async fn export(&self, request: &impl Message, count: u64) {
        self.export_encoded(request.encode_to_vec().into(), count).await;
    }

    /// Sends one encoded request that contains `count` items.
    pub(super) async fn export_encoded(&self, request: Bytes, count: u64) {
        let Destination { signal, url, timeout, .. } = self.client.destination();
        let (signal, limit) = (*signal, *timeout);
        let delivery = self.deliver(request, Instant::now() + limit);
        let outcome = match tokio::time::timeout(limit, delivery).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no response within {limit:?}")),
        };
        let (rejected, problem) = match outcome {
            Ok((0, _)) => (0, None),
            Ok((rejected, why)) => (rejected.min(count), Some(format!("{rejected} rejected: {why}"))),
            Err(problem) => (count, Some(format!("{problem}{}", hint(self.client.destination())))),
        };
        self.losses.exported(signal, count - rejected, rejected);
        let (endpoint, what) = (shown(url), signal.items());
        let failed = self.failing.swap(problem.is_some(), Relaxed);
        match &problem {
            Some(problem) if !failed => tracing::warn!(endpoint, problem, "{what} are not exported"),
            None if failed => tracing::info!(endpoint, "{what} are exported again"),
            Some(_) | None => {}
        }
    }

    /// Returns how many items the collector rejected, and why.
    async fn deliver(&self, request: Bytes, deadline: Instant) -> Result<(u64, String), String> {
        let mut response = self.client.send(request.clone()).await;
        if let Err(SendError { transient: true, retry_after, .. }) = &response {
            let pause = retry_after.unwrap_or_else(retry_delay);
            if pause < deadline.saturating_duration_since(Instant::now()) {
                tokio::time::sleep(pause).await;
                response = self.client.send(request).await;
            }
        }
        let response = response.map_err(|failure| failure.problem)?;
        // The responses of the three services have the same encoding.
        let response = ExportTraceServiceResponse::decode(response)
            .map_err(|error| format!("the response is not OTLP: {error}"))?;
        let partial = response.partial_success.unwrap_or_default();
        Ok((u64::try_from(partial.rejected_spans).unwrap_or(0), partial.error_message))
    }
}

/// Returns a URL without its query, which may have credentials.
fn shown(url: &Uri) -> String {
    let scheme = url.scheme_str().unwrap_or_default();
    format!("{scheme}://{}{}", url.authority().map_or("", |authority| authority.as_str()), url.path())
}

/// Returns what is probably wrong if the port belongs to the other protocol (OTLP specification, "OTLP/gRPC Default Port",
/// "OTLP/HTTP Default Port").
fn hint(destination: &Destination) -> &'static str {
    match (destination.protocol, destination.url.port_u16()) {
        (Protocol::Grpc, Some(4318)) => {
            "; port 4318 is usually for HTTP: OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf chooses it"
        }
        (Protocol::HttpProtobuf, Some(4317)) => {
            "; port 4317 is usually for gRPC: OTEL_EXPORTER_OTLP_PROTOCOL=grpc chooses it"
        }
        _ => "",
    }
}

fn retry_delay() -> Duration {
    let [shortest, longest] = RETRY_DELAY;
    shortest + (longest - shortest).mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests;
