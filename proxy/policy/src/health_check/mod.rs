//! Active health checks of endpoints (`envoy.config.core.v3.HealthCheck`): what is sent, what passes, when the next one is due, and what
//! follows for the endpoint.
//!
//! The data path sends the checks. The rules are Envoy's: an endpoint is not used before its first check has passed; thresholds count
//! checks in a row; a response that is not expected fails at once.

mod checker;
mod state;
#[cfg(test)]
mod tests;

use std::time::Duration;

use outrigger_proto::xds::core;

use crate::field::{Unusable, duration, number, positive_duration, required, unsupported_any};

pub use self::checker::{Checker, HttpCheck, TcpCheck};
pub use self::state::{CheckClaim, Checked, Progress, Transition};

/// How endpoints are checked.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    /// How long one check may take, with the connection.
    pub timeout: Duration,
    /// The port of the checks, if it is not that of the requests.
    pub port: Option<u16>,
    /// Whether checks use one connection as long as it stays open.
    pub reuses_connection: bool,
    /// What is sent and expected.
    pub checker: Checker,
    unhealthy_threshold: u32,
    healthy_threshold: u32,
    intervals: Intervals,
}

/// The times between two checks of an endpoint.
#[derive(Debug, Clone, PartialEq)]
struct Intervals {
    healthy: Duration,
    unhealthy: Duration,
    /// After the check that made it healthy or unhealthy.
    healthy_edge: Duration,
    unhealthy_edge: Duration,
    /// While its cluster has had no request yet.
    no_traffic: Duration,
    no_traffic_healthy: Duration,
    /// Before the first one: up to this.
    initial_jitter: Duration,
    /// Added to each: up to this, and up to so many percent.
    jitter: Duration,
    jitter_percent: u32,
}

/// The result of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckOutcome {
    /// It passed.
    Passed,
    /// No complete response in time, or one that may become better: counts towards the threshold.
    Failed,
    /// A response that says that the endpoint does not work: the threshold does not matter.
    Refused,
}

impl HealthCheck {
    /// Decodes the checks of a cluster. As in Envoy, there is one at most.
    pub fn decode(wire: Vec<core::HealthCheck>) -> Result<Option<Self>, Unusable> {
        let mut wire = wire.into_iter();
        let first = wire.next();
        if wire.next().is_some() {
            return Err(Unusable::new("health_checks", "must not be more than one"));
        }
        first.map(Self::of).transpose().map_err(|bad| bad.within("health_checks[0]"))
    }

    #[allow(deprecated)] // still accepted by Envoy
    fn of(wire: core::HealthCheck) -> Result<Self, Unusable> {
        let core::HealthCheck {
            timeout,
            interval,
            initial_jitter,
            interval_jitter,
            interval_jitter_percent,
            unhealthy_threshold,
            healthy_threshold,
            alt_port,
            reuse_connection,
            no_traffic_interval,
            no_traffic_healthy_interval,
            unhealthy_interval,
            unhealthy_edge_interval,
            healthy_edge_interval,
            // Each change of an endpoint's health is in the log of the proxy.
            event_log_path: _,
            event_logger: _,
            event_service: _,
            always_log_health_check_failures: _,
            always_log_health_check_success: _,
            tls_options,
            transport_socket_match_criteria,
            health_checker,
        } = wire;
        unsupported_any(&[
            // Checks use the transport of requests.
            ("tls_options", tls_options.is_some()),
            ("transport_socket_match_criteria", transport_socket_match_criteria.is_some()),
        ])?;
        let needed = |field, wire| required(field, positive_duration(field, wire)?);
        let healthy = needed("interval", interval)?;
        let unhealthy = positive_duration("unhealthy_interval", unhealthy_interval)?.unwrap_or(healthy);
        let no_traffic =
            positive_duration("no_traffic_interval", no_traffic_interval)?.unwrap_or(Duration::from_secs(60));
        let intervals = Intervals {
            healthy,
            unhealthy,
            healthy_edge: positive_duration("healthy_edge_interval", healthy_edge_interval)?
                .unwrap_or(healthy),
            unhealthy_edge: positive_duration("unhealthy_edge_interval", unhealthy_edge_interval)?
                .unwrap_or(unhealthy),
            no_traffic,
            no_traffic_healthy: positive_duration(
                "no_traffic_healthy_interval",
                no_traffic_healthy_interval,
            )?
            .unwrap_or(no_traffic),
            initial_jitter: duration("initial_jitter", initial_jitter)?.unwrap_or_default(),
            jitter: duration("interval_jitter", interval_jitter)?.unwrap_or_default(),
            jitter_percent: interval_jitter_percent,
        };
        let port = number(alt_port).map(|port| {
            let port = u16::try_from(port).ok().filter(|port| *port > 0);
            port.ok_or_else(|| Unusable::new("alt_port", "must be from 1 to 65535"))
        });
        Ok(Self {
            timeout: needed("timeout", timeout)?,
            port: port.transpose()?,
            reuses_connection: reuse_connection.is_none_or(|reuse| reuse.value),
            checker: Checker::decode(required("health_checker", health_checker)?)?,
            unhealthy_threshold: required("unhealthy_threshold", number(unhealthy_threshold))?.max(1),
            healthy_threshold: required("healthy_threshold", number(healthy_threshold))?.max(1),
            intervals,
        })
    }

    /// Returns the time before the first check of an endpoint. `sample` is uniform over `u32`.
    pub fn first_pause(&self, sample: u32) -> Duration {
        part(self.intervals.initial_jitter, sample)
    }

    /// Returns the time before the next check of an endpoint, which is `healthy` and has just become so if `changed`. `used` is whether
    /// its cluster has had a request. The samples are uniform over `u32`.
    pub fn pause(&self, healthy: bool, changed: bool, used: bool, samples: [u32; 2]) -> Duration {
        let of = &self.intervals;
        let base = match (used, healthy, changed) {
            (false, true, _) => of.no_traffic_healthy,
            (false, false, _) => of.no_traffic,
            (true, true, true) => of.healthy_edge,
            (true, true, false) => of.healthy,
            (true, false, true) => of.unhealthy_edge,
            (true, false, false) => of.unhealthy,
        };
        let percent = base.saturating_mul(self.intervals.jitter_percent) / 100;
        base.saturating_add(part(percent, samples[0])).saturating_add(part(of.jitter, samples[1]))
    }

    /// Records the outcome of a check. Returns how the endpoint's health changed, if it did.
    pub fn record(
        &self,
        progress: &mut Progress,
        checked: &Checked,
        outcome: CheckOutcome,
    ) -> Option<Transition> {
        let due = progress.count(outcome, checked.is_pending());
        let healthy = match outcome {
            CheckOutcome::Passed => due >= self.healthy_threshold,
            CheckOutcome::Failed => due < self.unhealthy_threshold && checked.is_healthy(),
            CheckOutcome::Refused => false,
        };
        // An endpoint that is not healthy yet stays so until enough checks have passed.
        checked.set(healthy || outcome == CheckOutcome::Passed && checked.is_healthy())
    }
}

/// Returns a part of a time, as `sample` is a part of all samples.
fn part(of: Duration, sample: u32) -> Duration {
    of.mul_f64(f64::from(sample) / (f64::from(u32::MAX) + 1.0))
}
