mod consecutive;
mod ejection;
mod properties;
mod rates;

use std::sync::Arc;

use outrigger_proto::xds::{cluster, protobuf};

use super::*;

fn number(value: u32) -> Option<protobuf::UInt32Value> {
    Some(protobuf::UInt32Value { value })
}

const fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Ejects after three consecutive failures, and never by rate.
fn settings(change: impl FnOnce(&mut cluster::OutlierDetection)) -> OutlierDetection {
    let mut wire = cluster::OutlierDetection {
        consecutive_5xx: number(3),
        max_ejection_percent: number(50),
        base_ejection_time: Some(protobuf::Duration { seconds: 5, nanos: 0 }),
        max_ejection_time: Some(protobuf::Duration { seconds: 12, nanos: 0 }),
        enforcing_success_rate: number(0),
        ..Default::default()
    };
    change(&mut wire);
    OutlierDetection::decode(Some(wire)).unwrap().unwrap()
}

/// The settings that our control plane writes (`control-plane/src/translate/defaults.rs`).
fn defaults() -> OutlierDetection {
    settings(|wire| {
        wire.enforcing_consecutive_5xx = number(0);
        wire.split_external_local_origin_errors = true;
        wire.consecutive_local_origin_failure = number(5);
        wire.enforcing_local_origin_success_rate = number(0);
        wire.failure_percentage_threshold = number(50);
        wire.failure_percentage_minimum_hosts = number(2);
        wire.failure_percentage_request_volume = number(20);
        wire.enforcing_failure_percentage = number(100);
        wire.enforcing_failure_percentage_local_origin = number(100);
        wire.base_ejection_time = Some(protobuf::Duration { seconds: 2, nanos: 0 });
        wire.max_ejection_time = Some(protobuf::Duration { seconds: 60, nanos: 0 });
    })
}

/// The endpoints of a cluster.
struct World {
    of: OutlierDetection,
    ejections: Arc<Ejections>,
    hosts: Vec<Health>,
    now: Duration,
}

impl World {
    fn new(of: OutlierDetection, hosts: usize) -> Self {
        let ejections = Arc::new(Ejections::default());
        let hosts = (0..hosts).map(|_| Health::new(ejections.clone())).collect();
        Self { of, ejections, hosts, now: at(0) }
    }

    fn observe(&self, host: usize, outcome: Outcome) -> Option<Ejected> {
        self.of.observe(&self.hosts[host], outcome, self.hosts.iter(), self.now, 0)
    }

    /// Observes `times` outcomes. Returns the last ejection.
    fn many(&self, host: usize, outcome: Outcome, times: usize) -> Option<Ejected> {
        (0..times).fold(None, |last, _| self.observe(host, outcome).or(last))
    }

    fn fail(&self, times: usize) -> Option<Duration> {
        self.many(0, Outcome::ServerError, times).map(|ejected| ejected.span)
    }

    /// Sends the three probes that return a host to service.
    fn bring_back(&self, host: usize) {
        for _ in 0..3 {
            assert!(self.hosts[host].claim_probe(self.now, true));
            self.observe(host, Outcome::Success);
        }
        assert!(self.hosts[host].is_serving());
    }

    fn compare(&self) -> Vec<(usize, EjectionKind)> {
        let mut all = Vec::new();
        let ejected = |at, ejected: Ejected| all.push((at, ejected.kind));
        self.of.compare(&self.ejections, self.hosts.iter(), self.now, || 0, ejected);
        all
    }
}
