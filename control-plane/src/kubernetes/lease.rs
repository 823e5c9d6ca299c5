//! Leader election: one replica at a time holds the Lease `outrigger-leader` (coordination.k8s.io/v1) and writes to the cluster.
//!
//! The rules are those of client-go's leaderelection. Clocks of replicas are never compared: a candidate takes the Lease over when it
//! has not seen it change for its duration, by its own monotonic clock, and the leader steps down earlier than that if it cannot
//! renew. The API server refuses the slower of two concurrent writes (`resourceVersion`). Like all leases it is no fence: a write that
//! a leader has sent may arrive after it has stepped down, so leaders write idempotently.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The name of the Lease.
const NAME: &str = "outrigger-leader";
/// How long the Lease must be unchanged before another replica takes it over.
const DURATION: Duration = Duration::from_secs(15);
/// How long after its last renewal the leader steps down.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Interval of the leader's renewals and of the candidates' attempts.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Whether this replica is the leader.
pub(crate) type Leadership = watch::Receiver<bool>;

/// The candidate for the Lease that runs in this process. Dropping it stops it without releasing the Lease.
#[derive(Debug)]
pub(crate) struct Election {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Election {
    /// Starts a candidate named `name`, which is unique among the replicas.
    pub(super) fn start(client: Client, namespace: &str, name: &str) -> (Self, Leadership) {
        let (leading, leadership) = watch::channel(false);
        let leases = Api::namespaced(client, namespace);
        let mut runner = Runner { leases, candidate: Candidate::new(name), leading };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = runner.run() => {}
                stopped = stopped => if stopped.is_ok() {
                    runner.release().await;
                }
            }
        });
        (Self { stop, task }, leadership)
    }

    /// Stops the candidate, and releases the Lease if this replica holds it, so that another takes it over at once.
    pub(super) async fn release(self) {
        if self.stop.send(()).is_ok() {
            let _ = self.task.await;
        }
    }
}

struct Runner {
    leases: Api<Lease>,
    candidate: Candidate,
    leading: watch::Sender<bool>,
}

impl Runner {
    /// Acquires the Lease and renews it, for as long as it is polled.
    async fn run(&mut self) {
        let mut failed = false;
        loop {
            let deadline = self.candidate.step_down_at().unwrap_or_else(|| Instant::now() + RENEW_DEADLINE);
            let error = match tokio::time::timeout_at(deadline, self.attempt()).await {
                Ok(result) => result.err().map(|error| error.to_string()),
                Err(_) => Some("the API server did not answer in time".to_owned()),
            };
            if let Some(error) = error.as_ref().filter(|_| !failed) {
                tracing::warn!(error, lease = NAME, "the Lease cannot be read or renewed: retrying");
            }
            failed = error.is_some();
            self.publish();
            let next = Instant::now() + RETRY_INTERVAL;
            // The leader steps down in time between two attempts, too.
            let next = self.candidate.step_down_at().map_or(next, |deadline| next.min(deadline));
            tokio::time::sleep_until(next).await;
            self.publish();
        }
    }

    async fn release(&mut self) {
        let Some(mut lease) = self.candidate.resign() else { return };
        self.publish();
        let spec = lease.spec.get_or_insert_default();
        (spec.holder_identity, spec.renew_time) = (None, Some(MicroTime(jiff::Timestamp::now())));
        let parameters = PostParams::default();
        let released = self.leases.replace(NAME, &parameters, &lease);
        if let Ok(Err(error)) = tokio::time::timeout(RETRY_INTERVAL, released).await {
            tracing::warn!(%error, lease = NAME, "the Lease cannot be released; it ends after {DURATION:?}");
        }
    }

    /// Reads the Lease, and writes it if this replica holds it or may take it over.
    async fn attempt(&mut self) -> Result<(), kube::Error> {
        let found = self.leases.get_opt(NAME).await?;
        // The renewal counts from before it is sent: the API server may apply it at any time after that.
        let sent = Instant::now();
        let Some(wanted) = self.candidate.observe(found, sent, jiff::Timestamp::now()) else { return Ok(()) };
        let parameters = PostParams::default();
        let written = match wanted.metadata.resource_version {
            None => self.leases.create(&parameters, &wanted).await,
            Some(_) => self.leases.replace(NAME, &parameters, &wanted).await,
        };
        match written {
            Ok(lease) => self.candidate.acquired(lease, sent),
            // Another replica was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn publish(&mut self) {
        let leads = self.candidate.leads(Instant::now());
        let changed = self.leading.send_if_modified(|leading| std::mem::replace(leading, leads) != leads);
        match (changed, leads) {
            (false, _) => {}
            (true, true) => tracing::info!(lease = NAME, "this replica is the leader"),
            (true, false) => tracing::warn!(lease = NAME, "this replica is no longer the leader"),
        }
    }
}

/// The rules of the election, without I/O.
#[derive(Debug)]
struct Candidate {
    name: String,
    /// The last seen Lease, and when it was first seen in this state.
    observed: Option<(Lease, Instant)>,
    /// When the last renewal that succeeded was sent.
    renewed: Option<Instant>,
}

impl Candidate {
    fn new(name: &str) -> Self {
        Self { name: name.into(), observed: None, renewed: None }
    }

    /// Returns the Lease to write, or None if another replica holds it.
    fn observe(&mut self, found: Option<Lease>, now: Instant, wall: jiff::Timestamp) -> Option<Lease> {
        let Some(found) = found else {
            (self.observed, self.renewed) = (None, None);
            let metadata = ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() };
            return Some(Lease { metadata, spec: Some(self.spec(None, wall)) });
        };
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        let since = match &self.observed {
            Some((last, since)) if version(last) == version(&found) => *since,
            _ => now,
        };
        let holder = holder(&found).map(String::from);
        let is_holder = holder.as_deref() == Some(&self.name);
        if !is_holder {
            self.renewed = None;
        }
        let spec = self.spec(found.spec.as_ref(), wall);
        let free = holder.is_none() || now.duration_since(since) >= duration(&found);
        let wanted = Lease { metadata: found.metadata.clone(), spec: Some(spec) };
        self.observed = Some((found, since));
        (is_holder || free).then_some(wanted)
    }

    /// Returns the spec to write over `found`.
    fn spec(&self, found: Option<&LeaseSpec>, wall: jiff::Timestamp) -> LeaseSpec {
        let held = found.filter(|found| found.holder_identity.as_deref() == Some(&self.name));
        let transitions = found.map_or(0, |found| found.lease_transitions.unwrap_or(0));
        LeaseSpec {
            holder_identity: Some(self.name.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: held.and_then(|held| held.acquire_time.clone()).or(Some(MicroTime(wall))),
            renew_time: Some(MicroTime(wall)),
            lease_transitions: Some(transitions + i32::from(found.is_some() && held.is_none())),
            ..LeaseSpec::default()
        }
    }

    /// Records a write, which was sent at `sent`.
    fn acquired(&mut self, lease: Lease, sent: Instant) {
        self.observed = Some((lease, sent));
        self.renewed = Some(sent);
    }

    /// Returns true while this replica holds the Lease for certain. Steps down if it could not renew in time.
    fn leads(&mut self, now: Instant) -> bool {
        self.renewed = self.renewed.filter(|renewed| now < *renewed + RENEW_DEADLINE);
        self.renewed.is_some()
    }

    /// Returns when the leader steps down unless it renews, or None if this replica does not lead.
    fn step_down_at(&self) -> Option<Instant> {
        self.renewed.map(|renewed| renewed + RENEW_DEADLINE)
    }

    /// Steps down. Returns the Lease if this replica held it.
    fn resign(&mut self) -> Option<Lease> {
        self.renewed.take()?;
        self.observed.take().map(|(lease, _)| lease)
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

fn duration(lease: &Lease) -> Duration {
    let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
    seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(DURATION, Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The API server's copy of the Lease, and two clocks: the monotonic one that decides, and the wall clock of each replica.
    struct Server {
        lease: Option<Lease>,
        version: u64,
    }

    impl Server {
        /// Lets a replica attempt once. A write of an outdated version is refused.
        fn attempt(&mut self, candidate: &mut Candidate, now: Instant, wall: i64) -> bool {
            let wall = jiff::Timestamp::from_second(wall).unwrap();
            if let Some(wanted) = candidate.observe(self.lease.clone(), now, wall) {
                let written = self.write(wanted);
                candidate.acquired(written, now);
            }
            candidate.leads(now)
        }

        fn write(&mut self, mut lease: Lease) -> Lease {
            self.version += 1;
            lease.metadata.resource_version = Some(self.version.to_string());
            self.lease = Some(lease.clone());
            lease
        }

        fn transitions(&self) -> Option<i32> {
            self.lease.as_ref()?.spec.as_ref()?.lease_transitions
        }
    }

    fn server() -> Server {
        Server { lease: None, version: 0 }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_replica_leads_for_as_long_as_it_renews_whatever_the_clocks_say() {
        let (mut server, start) = (server(), Instant::now());
        let (mut a, mut b) = (Candidate::new("a"), Candidate::new("b"));
        for seconds in (0..120).step_by(2) {
            let now = start + Duration::from_secs(seconds);
            // The clock of `a` is a day behind that of `b`.
            let wall = 1_800_000_000 + i64::try_from(seconds).unwrap();
            assert!(server.attempt(&mut a, now, wall - 86_400), "{seconds}");
            assert!(!server.attempt(&mut b, now, wall), "{seconds}");
        }
        assert_eq!(server.transitions(), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_cannot_renew_steps_down_before_another_takes_over() {
        let (mut server, start) = (server(), Instant::now());
        let (mut a, mut b) = (Candidate::new("a"), Candidate::new("b"));
        assert!(server.attempt(&mut a, start, 0));
        let first_seen = start + Duration::from_secs(1);
        assert!(!server.attempt(&mut b, first_seen, 0));
        assert!(a.leads(start + RENEW_DEADLINE - Duration::from_millis(1)));
        assert!(!a.leads(start + RENEW_DEADLINE));
        // The duration counts from when `b` saw the Lease, not from when `a` wrote it.
        assert!(!server.attempt(&mut b, first_seen + DURATION - Duration::from_millis(1), 0));
        assert!(server.attempt(&mut b, first_seen + DURATION, 0));
        assert_eq!(server.transitions(), Some(1));
        assert!(!server.attempt(&mut a, first_seen + DURATION, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_released_lease_is_taken_over_at_once() {
        let (mut server, now) = (server(), Instant::now());
        let (mut a, mut b) = (Candidate::new("a"), Candidate::new("b"));
        assert!(server.attempt(&mut a, now, 0) && !server.attempt(&mut b, now, 0));
        let mut released = a.resign().unwrap();
        released.spec.as_mut().unwrap().holder_identity = Some(String::new());
        server.write(released);
        assert!(!a.leads(now) && a.resign().is_none());
        assert!(server.attempt(&mut b, now, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_missed_its_deadline_leads_again_if_it_still_holds_the_lease() {
        let (mut server, start) = (server(), Instant::now());
        let mut a = Candidate::new("a");
        assert!(server.attempt(&mut a, start, 0));
        let late = start + RENEW_DEADLINE;
        assert!(!a.leads(late) && a.step_down_at().is_none());
        assert!(server.attempt(&mut a, late, 0));
        assert_eq!(server.transitions(), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deleted_lease_is_created_again() {
        let (mut server, now) = (server(), Instant::now());
        let mut a = Candidate::new("a");
        assert!(server.attempt(&mut a, now, 0));
        server.lease = None;
        assert!(server.attempt(&mut a, now + RETRY_INTERVAL, 0));
        assert!(server.lease.is_some());
    }
}
