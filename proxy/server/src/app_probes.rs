//! Performs the probes of the application for the kubelet, whose own would be refused where mTLS is strict.
//!
//! `/app-health/CONTAINER/livez` and its siblings on `--metrics-listen` are answered here. Each request performs one probe, as the
//! kubelet would, at the pod's own address: an application that listens on loopback only is not reachable there either.

mod http_get;
mod grpc_check;
mod dial;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};

use self::http_get::HttpProber;
use crate::args::app_probe::{AppProbe, AppProbeFlag, ProbeAction};
use crate::error::Error;

/// The probes, and what performs them.
#[derive(Debug)]
pub(crate) struct AppProbes {
    probes: BTreeMap<String, AppProbe>,
    pod_ip: IpAddr,
    http: HttpProber,
}

/// The outcome of a probe: the status that the kubelet receives, and a text for people.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ProbeOutcome {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
}

impl AppProbes {
    /// Returns the probes of the application at `pod_ip`.
    pub(crate) fn new(AppProbeFlag(probes): AppProbeFlag, pod_ip: IpAddr) -> Result<Self, Error> {
        let http = HttpProber::new().map_err(|error| Error::Failed(format!("no TLS for probes: {error}")))?;
        Ok(Self { probes, pod_ip, http })
    }

    /// Performs the probe of this path. Returns None if there is none. The application receives the `User-Agent` of the kubelet's
    /// request.
    pub(crate) async fn perform(&self, path: &str, headers: &HeaderMap) -> Option<ProbeOutcome> {
        let AppProbe { action, timeout_seconds } = self.probes.get(path)?;
        let agent = headers.get(header::USER_AGENT);
        let timeout = Duration::from_secs((*timeout_seconds).max(1));
        let outcome = match tokio::time::timeout(timeout, self.attempt(action, agent)).await {
            Ok(Ok(text)) => ProbeOutcome { status: StatusCode::OK, text },
            Ok(Err(failure)) => failure,
            Err(_) => {
                ProbeOutcome::failed(StatusCode::GATEWAY_TIMEOUT, format!("no response in {timeout:?}"))
            }
        };
        if outcome.status != StatusCode::OK {
            tracing::debug!(
                path,
                status = outcome.status.as_u16(),
                problem = outcome.text,
                "a probe of the application failed"
            );
        }
        Some(outcome)
    }

    async fn attempt(
        &self,
        action: &ProbeAction,
        agent: Option<&HeaderValue>,
    ) -> Result<String, ProbeOutcome> {
        let at = |port| SocketAddr::new(self.pod_ip, port);
        match action {
            ProbeAction::HttpGet(get) => self.http.get(self.pod_ip, get, agent).await,
            ProbeAction::TcpSocket(socket) => {
                dial::connect(at(socket.port)).await.map_err(ProbeOutcome::unavailable)?;
                Ok(format!("port {} accepts connections", socket.port))
            }
            ProbeAction::Grpc(check) => grpc_check::check(at(check.port), &check.service, agent).await,
        }
    }
}

impl ProbeOutcome {
    fn failed(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    /// Returns the outcome of a probe without a response.
    fn unavailable(problem: impl fmt::Display) -> Self {
        Self::failed(StatusCode::SERVICE_UNAVAILABLE, problem.to_string())
    }
}

#[cfg(test)]
mod tests;
