//! Checks endpoints, whether or not there are requests: one task for each endpoint in the whole process, on the worker that claimed it.
//!
//! A check has a connection of its own, over the transport of requests, and uses nothing of the cluster's bounds. If this proxy cannot check, for want of a
//! certificate or a descriptor, the endpoint stays as it is. So it does if the endpoint's sidecar refuses a check because of too many requests, which says
//! nothing about the application.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::BytesMut;
use http::Version;
use http::uri::Authority;
use outrigger_core::Name;
use outrigger_core::error::{Failure, Reached, Side};
use outrigger_core::peer::PeerKey;
use outrigger_core::reason::Reason;
use outrigger_policy::health_check::{
    self as policy, CheckClaim, CheckOutcome, Checker, HealthCheck, Progress, Transition,
};
use outrigger_policy::question::{Question, ServiceReply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::bounds::Bounds;
use super::dial::Purpose;
use super::pool::{Pool, Speaks};
use super::shared::SharedClusters;
use crate::codec::answer::{Answer, Payload};
use crate::codec::body::Body;
use crate::codec::head::{RequestHead, Scheme};
use crate::metrics::ClusterSeries;
use crate::socket::stream::Stream;

/// The pause before a check that this proxy could not make is made.
const UNABLE: Duration = Duration::from_secs(1);

/// The most bytes that are read of an endpoint that sends what is not expected.
const LONGEST_RECEIVED: usize = 64 * 1024;

/// The checks of one endpoint. They end when this is dropped.
#[derive(Debug)]
pub(super) struct Checks(JoinHandle<()>);

impl Drop for Checks {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is checked, and how.
pub(super) struct Checking {
    pub(super) cluster: Name,
    /// The endpoint, which may be checked at another address.
    pub(super) endpoint: SocketAddr,
    /// Its name for checks.
    pub(super) hostname: Option<Authority>,
    pub(super) check: Arc<HealthCheck>,
    /// Creates connections that are used by checks only.
    pub(super) pool: Box<dyn Fn() -> (Rc<Pool>, Rc<Bounds>)>,
    /// Whether the cluster has had a request.
    pub(super) used: Arc<AtomicBool>,
    pub(super) series: Arc<ClusterSeries>,
    /// Notified when the first check of the endpoint has ended.
    pub(super) first_ended: Arc<Notify>,
    /// Whether its cluster had other endpoints before.
    pub(super) is_late: bool,
    pub(super) clock: Arc<SharedClusters>,
    /// Whether the endpoint is a sidecar, behind which the application is.
    pub(super) is_mesh: bool,
}

/// What became of one check.
enum Checked {
    /// Its outcome and, if it did not pass, why.
    Judged(CheckOutcome, String),
    /// This proxy could not make it.
    Unable,
    /// The endpoint's sidecar refused it because of too many requests.
    Limited(Reason),
}

/// An endpoint that fails its checks, counted until this is dropped.
struct Failing(Arc<ClusterSeries>);

impl Failing {
    fn new(series: &Arc<ClusterSeries>) -> Self {
        series.failing_checks.increment();
        Self(Arc::clone(series))
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        self.0.failing_checks.decrement();
    }
}

impl Checks {
    /// Starts a task that checks an endpoint again and again.
    pub(super) fn start(checking: Checking, claim: CheckClaim) -> Self {
        Self(tokio::task::spawn_local(checking.run(claim)))
    }
}

impl Checking {
    async fn run(self, claim: CheckClaim) {
        let (mut progress, mut failing) = (Progress::default(), None);
        let mut connections = (self.pool)();
        sleep(self.check.first_pause(fastrand::u32(..))).await;
        loop {
            if !self.check.reuses_connection {
                connections.0.retire();
                connections = (self.pool)();
            }
            let was_pending = claim.checked().is_pending();
            let changed = match self.once(&connections).await {
                Checked::Judged(outcome, why) => self.record(&mut progress, claim.checked(), outcome, &why),
                Checked::Unable => {
                    sleep(UNABLE).await;
                    continue;
                }
                Checked::Limited(reason) => {
                    let (cluster, endpoint) = (&self.cluster, self.endpoint);
                    tracing::debug!(%cluster, %endpoint, reason = reason.name(), "health check was refused");
                    claim.checked().assume_healthy();
                    None
                }
            };
            if changed == Some(Transition::Healthy) && (self.is_late || !was_pending) {
                claim.checked().recovers(self.clock.now());
            }
            if was_pending {
                self.first_ended.notify_waiters();
            }
            let healthy = claim.checked().is_healthy();
            failing = (!healthy).then(|| failing.unwrap_or_else(|| Failing::new(&self.series)));
            let samples = [fastrand::u32(..), fastrand::u32(..)];
            let used = self.used.load(Relaxed);
            sleep(self.check.pause(healthy, changed.is_some(), used, samples)).await;
            connections.0.tidy(tokio::time::Instant::now());
        }
    }

    fn record(
        &self,
        progress: &mut Progress,
        checked: &policy::Checked,
        outcome: CheckOutcome,
        why: &str,
    ) -> Option<Transition> {
        match outcome {
            CheckOutcome::Passed => self.series.checks_passed.increment(),
            CheckOutcome::Failed | CheckOutcome::Refused => self.series.checks_failed.increment(),
        }
        let changed = self.check.record(progress, checked, outcome);
        let (cluster, endpoint) = (&self.cluster, self.endpoint);
        match changed {
            Some(Transition::Healthy) => {
                tracing::info!(%cluster, %endpoint, "endpoint passes its health check")
            }
            Some(Transition::Unhealthy) => {
                tracing::warn!(%cluster, %endpoint, %why, "endpoint fails its health check");
            }
            None => tracing::debug!(%cluster, %endpoint, ?outcome, %why, "endpoint was checked"),
        }
        changed
    }

    /// Makes one check.
    async fn once(&self, (pool, bounds): &(Rc<Pool>, Rc<Bounds>)) -> Checked {
        let checked = match self.check.checker.request(&self.cluster, self.hostname.as_ref()) {
            Some(question) => timeout(self.check.timeout, self.ask(question, pool, bounds)).await,
            None => timeout(self.check.timeout, self.connect(pool, bounds)).await,
        };
        match checked {
            Ok(Ok(checked)) => checked,
            Ok(Err(failure)) if failure.side == Side::Local => Checked::Unable,
            // A bound of this process.
            Ok(Err(failure)) if failure.reason == Reason::UpstreamOverflow => Checked::Unable,
            Ok(Err(failure)) => Checked::Judged(CheckOutcome::Failed, failure.to_string()),
            Err(_) => Checked::Judged(CheckOutcome::Failed, "no complete response in time".to_owned()),
        }
    }

    async fn ask(
        &self,
        question: Question,
        pool: &Rc<Pool>,
        bounds: &Rc<Bounds>,
    ) -> Result<Checked, Failure> {
        let speaks = match &self.check.checker {
            Checker::Http(check) if !check.http2 => Speaks::Http1,
            _ => Speaks::Http2,
        };
        let Question { method, authority, path, fields, body, longest_reply, is_grpc, .. } = question;
        let version = if is_grpc { Version::HTTP_2 } else { Version::HTTP_11 };
        let (scheme, authority) = (Scheme::Http, Some(authority));
        let head = RequestHead { method, scheme, authority, path, version, headers: fields, upgrade: None };
        let own = bounds.peer(&PeerKey::Address(Ipv4Addr::UNSPECIFIED.into()));
        let mut again = true;
        loop {
            let lease = pool.lease(Purpose::Requests, speaks, &own).await?;
            let was_idle = lease.was_idle;
            let mut exchange = lease.send(&head, Body::full(body.clone()));
            let answered = async {
                loop {
                    match exchange.answer().await? {
                        Answer::Interim(_) => {}
                        Answer::Final(head, Payload::Body(body)) => {
                            let (body, trailers) = body.read_all(longest_reply).await?;
                            return Ok(ServiceReply {
                                status: head.status,
                                fields: head.headers,
                                body,
                                trailers,
                            });
                        }
                        Answer::Final(_, Payload::Tunnel(_)) => return Err(unexpected("a tunnel")),
                    }
                }
            };
            match answered.await {
                Ok(reply) => return Ok(self.judge(&reply)),
                // The endpoint may have closed the connection.
                Err(_) if was_idle && again => again = false,
                Err(failure) => return Err(failure),
            }
        }
    }

    fn judge(&self, reply: &ServiceReply) -> Checked {
        let status = reply.status.as_u16();
        let reason = reply.fields.get(Reason::FIELD).and_then(|name| Reason::named(name.to_str().ok()?));
        match reason.filter(|_| self.is_mesh) {
            Some(reason) if reason.is_of_overload() || reason == Reason::RateLimited => {
                Checked::Limited(reason)
            }
            reason => {
                let reason = reason.map_or(String::new(), |reason| format!(", {}", reason.name()));
                Checked::Judged(self.check.checker.judge(reply), format!("status {status}{reason}"))
            }
        }
    }

    async fn connect(&self, pool: &Rc<Pool>, bounds: &Rc<Bounds>) -> Result<Checked, Failure> {
        let passed = Ok(Checked::Judged(CheckOutcome::Passed, String::new()));
        let own = bounds.peer(&PeerKey::Address(Ipv4Addr::UNSPECIFIED.into()));
        let (dialled, _permit) = pool.opaque(&own).await?;
        let Checker::Tcp(check) = &self.check.checker else { return Err(unexpected("no TCP check")) };
        let mut stream = dialled.stream;
        let Some(send) = &check.send else {
            let is_closed =
                self.is_mesh && timeout(self.check.timeout / 2, closes(&mut stream)).await == Ok(true);
            let failed =
                || Checked::Judged(CheckOutcome::Failed, "its sidecar closes the connection".to_owned());
            return if is_closed { Ok(failed()) } else { passed };
        };
        let broken = |error: std::io::Error| {
            Failure::upstream(Reason::UpstreamConnectionTermination, Reached::Maybe, error.to_string())
        };
        stream.write_all(send).await.map_err(broken)?;
        stream.flush().await.map_err(broken)?;
        let mut received = BytesMut::new();
        while !check.is_satisfied(&received) {
            if received.len() > LONGEST_RECEIVED || stream.read_buf(&mut received).await.map_err(broken)? == 0
            {
                let why = "what was received is not what is expected".to_owned();
                return Ok(Checked::Judged(CheckOutcome::Failed, why));
            }
        }
        passed
    }
}

/// Returns whether the peer closes the connection before it sends anything. A sidecar accepts a connection before it has connected to its
/// application, and closes it if it cannot.
async fn closes(stream: &mut Stream) -> bool {
    let mut first = [0; 1];
    !matches!(stream.read(&mut first).await, Ok(1))
}

fn unexpected(what: &str) -> Failure {
    Failure::upstream(Reason::UpstreamProtocolError, Reached::Maybe, format!("{what} instead of a response"))
}
