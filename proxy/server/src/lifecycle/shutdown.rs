//! Shutdown: signals, and the order in which a proxy leaves the mesh.
//!
//! First the proxy leaves discovery and keeps serving while the change propagates. Then it finishes inbound requests, then
//! serves the application's outbound traffic until it is no longer needed ([`DrainSchedule`]), then flushes telemetry. One deadline,
//! counted from the first shutdown request, bounds all of that. A second signal ends the process at once.

use std::time::Duration;

use outrigger_core::drain::DrainNotice;
use outrigger_dataplane::metrics::{Activity, Registry};
use outrigger_discovery::Deregistration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::args::Args;
use crate::error::Error;

/// How long new requests are served after the workload left discovery. Other sidecars are notified within milliseconds; one
/// that is reconnecting to its control plane, within its first backoff of 0.5 s.
const PROPAGATION: Duration = Duration::from_secs(1);

/// How often to check for outbound traffic of the application.
const ACTIVITY_CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// How long before the deadline clients are notified at the latest; a fraction of it if the timeout is short.
const NOTICE: Duration = Duration::from_secs(1);
const NOTICE_SHARE: u32 = 6;

/// Time limit for the final telemetry flush.
pub(crate) const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Returns how long to wait for the deregistration to propagate. Zero if the workload was never offered to peers, or if no
/// control plane was notified; peers then rely on retries.
fn propagation(deregistration: Deregistration, offered: bool) -> Duration {
    match deregistration {
        Deregistration::Confirmed if offered => PROPAGATION,
        Deregistration::Confirmed | Deregistration::Unconfirmed => Duration::ZERO,
    }
}

/// The drain of inbound before a shutdown.
#[derive(Debug)]
pub(crate) struct InboundDrain {
    requested: watch::Receiver<bool>,
    /// Ends when clients have been asked to leave.
    announced: JoinHandle<()>,
}

impl InboundDrain {
    /// Drains inbound when it is requested: the workload leaves discovery by `leaving` (a pod has left already), and once other
    /// sidecars have received the change, clients are asked to leave. Listeners still accept, because callers without a sidecar
    /// learn of it later.
    pub(crate) fn when(
        requested: watch::Receiver<bool>,
        leaving: impl Future<Output = Deregistration> + Send + 'static,
        notice: DrainNotice,
    ) -> Self {
        let mut request = requested.clone();
        let announced = tokio::spawn(async move {
            // Fails if the admin endpoint has ended.
            if request.wait_for(|requested| *requested).await.is_ok() {
                tracing::info!("draining inbound");
                leaving.await;
                tokio::time::sleep(PROPAGATION).await;
                notice.send();
            }
        });
        Self { requested, announced }
    }

    /// Waits, at a shutdown, until the deregistration has propagated. An inbound drain has begun this wait before.
    pub(crate) async fn propagated(self, deregistration: Deregistration, offered: bool) {
        if *self.requested.borrow() {
            // Fails only if it has panicked.
            let _ = self.announced.await;
        } else {
            tokio::time::sleep(propagation(deregistration, offered)).await;
        }
    }
}

/// When the process ends, and until when the application's outbound traffic is served.
///
/// A sidecar is not notified when its application ends. SIGTERM often reaches both at once, and an application sends its
/// last requests when its own work is done. So outbound traffic is served for a minimum time, and then until the application
/// has been quiet for a while.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DrainSchedule {
    requested_at: Instant,
    /// The activity at that time.
    activity: Activity,
    timeout: Duration,
    minimum: Duration,
    quiet: Duration,
}

impl DrainSchedule {
    /// Applies the flags, counted from now, when the shutdown was requested.
    pub(crate) fn from_now(args: &Args, registry: &Registry) -> Self {
        let Args { drain_timeout, drain_minimum, drain_quiet, .. } = args;
        Self {
            requested_at: Instant::now(),
            activity: registry.activity(),
            timeout: *drain_timeout,
            minimum: *drain_minimum,
            quiet: *drain_quiet,
        }
    }

    /// Returns when everything ends.
    pub(crate) fn deadline(&self) -> Instant {
        // A duration that overflows is replaced by a distant one.
        self.requested_at
            .checked_add(self.timeout)
            .unwrap_or_else(|| self.requested_at + Duration::from_secs(u32::MAX.into()))
    }

    /// Returns how long leaving discovery may take.
    pub(crate) fn deregistration_timeout(&self) -> Duration {
        self.timeout / 2
    }

    /// Returns how long before the deadline the application's connections are notified at the latest.
    pub(crate) fn notice(&self) -> Duration {
        NOTICE.min(self.timeout / NOTICE_SHARE)
    }

    /// Resolves when the application no longer needs outbound traffic. Call it when inbound has drained, so that all remaining
    /// activity is the application's. Cancel-safe.
    pub(crate) async fn outbound_idle(&self, registry: &Registry) {
        // Activity since the shutdown request counts as happening now, because it was not observed.
        let mut quiet_time = QuietTime { activity: self.activity, since: self.requested_at };
        loop {
            let now = Instant::now();
            if quiet_time.update(now, registry.activity()) >= self.quiet
                && now - self.requested_at >= self.minimum
            {
                return;
            }
            tokio::time::sleep(ACTIVITY_CHECK_INTERVAL).await;
        }
    }
}

/// Measures how long nothing has happened.
struct QuietTime {
    activity: Activity,
    since: Instant,
}

impl QuietTime {
    fn update(&mut self, now: Instant, activity: Activity) -> Duration {
        if activity.under_way > 0 || activity != self.activity {
            *self = Self { activity, since: now };
        }
        now - self.since
    }
}

/// Shutdown requests; each further one makes the shutdown more abrupt.
#[derive(Debug)]
pub(crate) struct ShutdownSignals {
    interrupt: Signal,
    terminate: Signal,
    embedder: Option<watch::Receiver<bool>>,
    drain: watch::Receiver<bool>,
}

impl ShutdownSignals {
    /// Listens to SIGTERM, SIGINT, `/drain` and the embedding program. Call it inside the control runtime, before anything is
    /// announced.
    pub(crate) fn new(
        embedder: Option<watch::Receiver<bool>>,
        drain: watch::Receiver<bool>,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Start { what: "signal handling", source };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            embedder,
            drain,
        })
    }

    /// Returns the source of the first shutdown request. Cancel-safe.
    pub(crate) async fn first(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            () = requested(Some(&mut self.drain)) => "/drain",
            () = requested(self.embedder.as_mut()) => "embedder",
        }
    }

    /// Returns the next signal. Cancel-safe.
    pub(crate) async fn again(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// Resolves when the value becomes true. Never resolves if the sender is dropped.
async fn requested(by: Option<&mut watch::Receiver<bool>>) {
    if let Some(by) = by
        && by.wait_for(|requested| *requested).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use outrigger_core::drain::Drains;

    use super::*;

    #[test]
    fn propagation_is_awaited_only_if_peers_are_notified() {
        assert_eq!(propagation(Deregistration::Confirmed, true), PROPAGATION);
        assert_eq!(propagation(Deregistration::Unconfirmed, true), Duration::ZERO);
        assert_eq!(propagation(Deregistration::Confirmed, false), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_inbound_drain_begins_when_other_sidecars_have_received_the_change() {
        let drains = Drains::new();
        let mut inbound = drains.guards().inbound;
        let (request, requested) = watch::channel(false);
        let registration = Duration::from_millis(200);
        let leaving = async move {
            tokio::time::sleep(registration).await;
            Deregistration::Confirmed
        };
        let _drain = InboundDrain::when(requested, leaving, drains.inbound_notice());
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!inbound.is_draining());
        request.send_replace(true);
        let start = Instant::now();
        inbound.started().await;
        assert_eq!(start.elapsed(), registration + PROPAGATION);
    }

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_waits_for_what_remains_of_the_propagation_after_an_inbound_drain() {
        let millis = Duration::from_millis;
        for (before, remains) in
            [(None, PROPAGATION), (Some(millis(400)), millis(600)), (Some(millis(1500)), millis(0))]
        {
            let (request, requested) = watch::channel(false);
            let left = async { Deregistration::Confirmed };
            let drain = InboundDrain::when(requested, left, Drains::new().inbound_notice());
            if let Some(before) = before {
                request.send_replace(true);
                tokio::time::sleep(before).await;
            }
            let start = Instant::now();
            drain.propagated(Deregistration::Confirmed, true).await;
            assert_eq!(start.elapsed(), remains, "{before:?}");
        }
    }

    fn schedule(timeout: u64, minimum: u64, quiet: u64) -> DrainSchedule {
        let seconds = Duration::from_secs;
        DrainSchedule {
            requested_at: Instant::now(),
            activity: Activity::default(),
            timeout: seconds(timeout),
            minimum: seconds(minimum),
            quiet: seconds(quiet),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_application_that_is_quiet_is_served_for_the_minimum() {
        let (registry, start) = (Registry::new(), Instant::now());
        schedule(30, 5, 2).outbound_idle(&registry).await;
        assert_eq!(start.elapsed().as_secs(), 5);
        schedule(30, 0, 0).outbound_idle(&registry).await;
        assert_eq!(start.elapsed().as_secs(), 5, "with both at nothing, not at all");
    }

    #[tokio::test(start_paused = true)]
    async fn an_application_that_calls_out_is_served_until_it_has_been_quiet() {
        let (registry, start) = (Registry::new(), Instant::now());
        let worker = registry.worker();
        let calls = async {
            // A short request after 4 s, a connection after 7 s, a request from 10 s to 20 s: never 5 s without activity.
            tokio::time::sleep(Duration::from_secs(4)).await;
            worker.process.begun.increment();
            tokio::time::sleep(Duration::from_secs(3)).await;
            worker.process.downstream_connections_total.increment();
            tokio::time::sleep(Duration::from_secs(3)).await;
            worker.process.in_flight.increment();
            tokio::time::sleep(Duration::from_secs(10)).await;
            worker.process.in_flight.decrement();
            std::future::pending::<()>().await;
        };
        let schedule = schedule(60, 5, 5);
        tokio::select! { () = schedule.outbound_idle(&registry) => {}, () = calls => {} }
        assert_eq!(start.elapsed().as_secs(), 25);
    }

    #[tokio::test(start_paused = true)]
    async fn what_happened_while_inbound_drained_counts_too() {
        let (registry, start) = (Registry::new(), Instant::now());
        let schedule = schedule(60, 5, 5);
        registry.worker().process.begun.increment();
        tokio::time::sleep(Duration::from_secs(8)).await;
        schedule.outbound_idle(&registry).await;
        assert_eq!(start.elapsed().as_secs(), 13);
    }

    #[tokio::test(start_paused = true)]
    async fn clients_are_notified_a_second_before_the_deadline_or_a_sixth_of_a_short_timeout() {
        assert_eq!(schedule(30, 5, 5).notice(), Duration::from_secs(1));
        assert_eq!(schedule(3, 5, 5).notice(), Duration::from_millis(500));
        assert!(schedule(u64::MAX, 5, 5).deadline() > Instant::now() + Duration::from_secs(1 << 30));
    }

    #[tokio::test]
    async fn a_shutdown_request_is_received_and_a_dropped_sender_makes_none() {
        let (drain, drained) = watch::channel(false);
        let (embedder, embedded) = watch::channel(false);
        let mut signals = ShutdownSignals::new(Some(embedded), drained).unwrap();
        drop(embedder);
        drain.send_replace(true);
        assert_eq!(signals.first().await, "/drain");
    }
}
