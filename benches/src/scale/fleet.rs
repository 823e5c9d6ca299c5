//! All simulated proxies: prepares them, starts them at once, and waits until the last one has what is measured.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use outrigger_control_plane::token::{self, TokenRequest};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::proxy::{Event, Proxy, Report};
use crate::connection::{ControlPlane, Credential};
use crate::mesh::USED;

/// The service that all proxies use.
pub(super) const SHARED: &str = "shared";
/// The name of its cluster and endpoints.
const SHARED_ENDPOINTS: &str = "shared.mesh.svc.cluster.local:80";
/// How many services a proxy uses, with the shared one.
const DESTINATIONS: usize = 5;
/// How many proxies have the same service account.
const REPLICAS: usize = 10;
/// How many tokens are created at a time.
const TOKENS_AT_ONCE: usize = 16;

/// The proxies of a run. Dropping it disconnects them.
pub(super) struct Fleet {
    size: usize,
    starts: watch::Sender<u32>,
    reports: mpsc::UnboundedReceiver<Report>,
    failures: BTreeMap<String, usize>,
    _proxies: JoinSet<()>,
}

/// A start of all proxies: when each had what, sorted, since the start.
#[derive(Debug)]
pub(super) struct ColdStart {
    pub(super) certified: Vec<Duration>,
    pub(super) configured: Vec<Duration>,
}

impl Fleet {
    /// Creates `size` proxies with a join token each, for the control plane at `address` whose state is in `state` and which
    /// serves `services` services: `shared` and `s0` to the last. Returns an error if a token is refused.
    pub(super) async fn prepare(
        address: SocketAddr,
        state: &Path,
        size: usize,
        services: usize,
    ) -> Result<Self, String> {
        let control_plane = ControlPlane::new(address, &state.join("roots.pem"))?;
        let tokens: Vec<String> = stream::iter(0..size)
            .map(async |number| {
                let request = TokenRequest {
                    namespace: "mesh".into(),
                    service_account: format!("account-{}", number / REPLICAS),
                    ttl_seconds: 3600,
                };
                token::create(state, &request).await.map_err(|error| error.to_string())
            })
            .buffered(TOKENS_AT_ONCE)
            .try_collect()
            .await?;
        let proxies = tokens.into_iter().enumerate().map(|(number, token)| {
            Proxy::new(number, token, destinations(number, services), SHARED_ENDPOINTS)
        });
        Ok(Self::of(control_plane, proxies.collect::<Result<_, _>>()?))
    }

    /// Creates `size` proxies that have a certificate, for another control plane with the same services.
    pub(super) fn with_certificate(
        control_plane: ControlPlane,
        credential: &Credential,
        size: usize,
        services: usize,
    ) -> Self {
        let proxies = (0..size).map(|number| {
            Proxy::with_certificate(number, credential, destinations(number, services), SHARED_ENDPOINTS)
        });
        Self::of(control_plane, proxies.collect())
    }

    fn of(control_plane: ControlPlane, proxies: Vec<Proxy>) -> Self {
        let (control_plane, size) = (Arc::new(control_plane), proxies.len());
        let (starts, started) = watch::channel(0);
        let (sender, reports) = mpsc::unbounded_channel();
        let run = |proxy: Proxy| proxy.run(Arc::clone(&control_plane), started.clone(), sender.clone());
        let running = proxies.into_iter().map(run).collect();
        Self { size, starts, reports, failures: BTreeMap::new(), _proxies: running }
    }

    /// Starts all proxies at once and waits until each has its certificate and its resources. Returns an error if one has not
    /// within `patience`.
    pub(super) async fn cold_start(&mut self, patience: Duration) -> Result<ColdStart, String> {
        let (mut certified, mut configured) = (Arrivals::new(self.size), Arrivals::new(self.size));
        let begin = Instant::now();
        self.starts.send_replace(1);
        while !configured.are_complete() {
            let Some(Report { proxy, at, event }) = self.next(begin + patience).await else {
                return Err(format!(
                    "within {patience:?}, {} of {} proxies got their certificate and {} their resources: {:?}",
                    certified.times.len(),
                    self.size,
                    configured.times.len(),
                    self.failures
                ));
            };
            match event {
                Event::Certified => certified.add(proxy, at - begin),
                Event::Configured => configured.add(proxy, at - begin),
                Event::Endpoint(_) | Event::Failed(_) => {}
            }
        }
        Ok(ColdStart { certified: certified.sorted(), configured: configured.sorted() })
    }

    /// Closes all connections and opens them again at once, with the certificates that the proxies have. Returns after how long
    /// each has all resources again, sorted, or an error if one does not have them within `patience`.
    pub(super) async fn reconnect(&mut self, patience: Duration) -> Result<Vec<Duration>, String> {
        let since = Instant::now();
        self.starts.send_modify(|starts| *starts += 1);
        self.arrivals(since, patience, "are back", |event| matches!(event, Event::Configured)).await
    }

    /// Waits until each proxy has the endpoint of the shared service with this port, which was written at `since`. Returns how
    /// long each took, sorted, or an error if one does not have it within `patience`.
    pub(super) async fn received(
        &mut self,
        port: u16,
        since: Instant,
        patience: Duration,
    ) -> Result<Vec<Duration>, String> {
        let has_it =
            |event: &Event| matches!(event, Event::Endpoint(received) if *received == u32::from(port));
        self.arrivals(since, patience, "received a change", has_it).await
    }

    /// Waits until such an event has happened to each proxy after `since`.
    async fn arrivals(
        &mut self,
        since: Instant,
        patience: Duration,
        what: &str,
        of: impl Fn(&Event) -> bool,
    ) -> Result<Vec<Duration>, String> {
        let mut arrivals = Arrivals::new(self.size);
        while !arrivals.are_complete() {
            let Some(Report { proxy, at, event }) = self.next(since + patience).await else {
                let arrived = arrivals.times.len();
                return Err(format!(
                    "within {patience:?}, {arrived} of {} proxies {what}: {:?}",
                    self.size, self.failures
                ));
            };
            if at >= since && of(&event) {
                arrivals.add(proxy, at - since);
            }
        }
        Ok(arrivals.sorted())
    }

    /// Returns what failed and was repeated since the last call, with how often.
    pub(super) fn take_failures(&mut self) -> BTreeMap<String, usize> {
        while let Ok(report) = self.reports.try_recv() {
            self.count(&report.event);
        }
        std::mem::take(&mut self.failures)
    }

    /// Returns the next report, or None at the deadline.
    async fn next(&mut self, deadline: Instant) -> Option<Report> {
        let report = timeout_at(deadline, self.reports.recv()).await.ok()??;
        self.count(&report.event);
        Some(report)
    }

    fn count(&mut self, event: &Event) {
        if let Event::Failed(what) = event {
            *self.failures.entry(what.clone()).or_default() += 1;
        }
    }
}

/// The destinations of a proxy: the shared service, and others in turn, so that each service has about as many users.
fn destinations(number: usize, services: usize) -> Vec<String> {
    let others = services.saturating_sub(1 + USED).max(1);
    let used = (1..DESTINATIONS).map(|each| USED + (number * (DESTINATIONS - 1) + each) % others);
    let mut names: Vec<_> = used.map(|service| format!("s{service}.mesh:80")).collect();
    names.push(format!("{SHARED}.mesh:80"));
    names
}

/// When each proxy had something for the first time.
struct Arrivals {
    seen: Vec<bool>,
    times: Vec<Duration>,
}

impl Arrivals {
    fn new(size: usize) -> Self {
        Self { seen: vec![false; size], times: Vec::with_capacity(size) }
    }

    fn add(&mut self, proxy: usize, after: Duration) {
        if !std::mem::replace(&mut self.seen[proxy], true) {
            self.times.push(after);
        }
    }

    fn are_complete(&self) -> bool {
        self.times.len() == self.seen.len()
    }

    fn sorted(mut self) -> Vec<Duration> {
        self.times.sort_unstable();
        self.times
    }
}

#[cfg(test)]
mod tests {
    use outrigger::ports;
    use outrigger_control_plane::run::control_plane::ControlPlane;
    use outrigger_control_plane::run::settings::Settings;

    use super::*;
    use crate::mesh::Mesh;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn all_proxies_start_and_receive_a_change() {
        let directory = tempfile::tempdir().unwrap();
        let mesh = Mesh::new(Path::new("unused"), directory.path()).unwrap();
        let [first, second] = ports::free().unwrap();
        for service in 0..49 {
            mesh.write(service, 0).unwrap();
        }
        mesh.write_plain(SHARED, "http", first).unwrap();
        let state = directory.path().join("control-plane");
        let [admin] = ports::free().unwrap();
        let config = directory.path().join("config");
        let settings = Settings::new(config, state.clone(), mesh.listen, admin, "cluster.local").unwrap();
        let control_plane = ControlPlane::start(settings).await.unwrap();

        let mut fleet = Fleet::prepare(mesh.listen, &state, 20, 50).await.unwrap();
        let started = fleet.cold_start(PATIENCE).await.unwrap();
        assert_eq!((started.certified.len(), started.configured.len()), (20, 20));
        assert!(started.certified[0] < started.configured[0], "{started:?}");
        let since = Instant::now();
        mesh.write_plain(SHARED, "http", second).unwrap();
        let received = fleet.received(second.port(), since, PATIENCE).await.unwrap();
        assert!(received.len() == 20 && received.is_sorted());
        assert_eq!(fleet.reconnect(PATIENCE).await.unwrap().len(), 20);
        assert_eq!(fleet.take_failures(), BTreeMap::new());
        let silent = fleet.received(1, Instant::now(), Duration::from_millis(50)).await;
        assert!(silent.unwrap_err().contains("0 of 20"));
        control_plane.shut_down().await;
    }

    #[test]
    fn destinations_exist_and_are_spread() {
        let mut users: BTreeMap<String, usize> = BTreeMap::new();
        for name in (0..100).flat_map(|number| destinations(number, 50)) {
            *users.entry(name).or_default() += 1;
        }
        assert_eq!(users.remove("shared.mesh:80"), Some(100));
        assert_eq!(users.len(), 50 - 1 - USED, "all services with endpoints");
        assert!(!users.contains_key("s4.mesh:80") && users.contains_key("s48.mesh:80"), "{users:?}");
        assert!(users.values().all(|count| (8..=10).contains(count)), "{users:?}");
    }
}
