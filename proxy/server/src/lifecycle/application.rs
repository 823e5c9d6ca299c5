//! Watches whether the application accepts connections: only then is the workload registered as ready, and callers send it
//! requests if they have another endpoint.
//!
//! A sidecar starts faster than its application and survives its crashes. At the start each application port is probed until it
//! accepts a connection. Later it is probed only after a connection for a request has failed, since some servers count or log
//! connections without a request. Only a refused connection makes it not ready: one that takes long may wait in a full accept
//! queue, which is no reason to send all of its load to others.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outrigger_core::Name;
use outrigger_core::inbound_name::inbound_name;
use outrigger_dataplane::metrics::Registry;
use outrigger_discovery::WorkloadPort;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// Time limit of a probe.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause between probes: short at first, because most applications start quickly, then longer.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const MAX_PAUSE: Duration = Duration::from_millis(500);
/// How long an application may take to start before the log says that it does not accept connections.
const START_TIME: Duration = Duration::from_secs(2);

/// What keeps the workload from being ready: one text for each application port that accepts no connections.
pub(crate) type Problems = watch::Receiver<Vec<String>>;

/// Starts to watch the applications of `ports` on the current runtime. Ends when the receiver is dropped.
pub(crate) fn watch_applications(ports: &[WorkloadPort], registry: Arc<Registry>) -> Problems {
    let mut watched: Vec<Application> = Vec::new();
    for port in ports {
        let services = format!("{}:{}", port.services.join(","), port.service_port);
        match watched.iter_mut().find(|known| known.address == port.application) {
            Some(known) => known.services = format!("{},{services}", known.services),
            None => watched.push(Application::new(port.application, services)),
        }
    }
    let (problems, receiver) = watch::channel(problems_of(&watched));
    tokio::spawn(run(watched, registry, problems));
    receiver
}

async fn run(mut watched: Vec<Application>, registry: Arc<Registry>, problems: watch::Sender<Vec<String>>) {
    let (started, mut pause) = (Instant::now(), FIRST_PAUSE);
    while !watched.is_empty() {
        for application in &mut watched {
            application.check(&registry, started.elapsed() >= START_TIME).await;
        }
        let now = problems_of(&watched);
        problems.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
        tokio::select! {
            () = sleep(pause) => pause = (pause * 2).min(MAX_PAUSE),
            () = problems.closed() => return,
        }
    }
}

fn problems_of(watched: &[Application]) -> Vec<String> {
    let not_accepting = watched.iter().filter(|application| !application.accepts);
    not_accepting
        .map(|Application { address, services, .. }| {
            format!("nothing listens at {address}, the application of {services} (--service)")
        })
        .collect()
}

/// One application port.
#[derive(Debug)]
struct Application {
    address: SocketAddr,
    services: String,
    /// The cluster whose failed connections make a probe necessary.
    cluster: Name,
    /// Its failed connections so far.
    failures: u64,
    accepts: bool,
    /// Whether the log says that it does not accept connections.
    logged: bool,
}

impl Application {
    fn new(address: SocketAddr, services: String) -> Self {
        let cluster = inbound_name(address);
        Self { address, services, cluster, failures: 0, accepts: false, logged: false }
    }

    /// Probes it if there is a reason to. With `log`, an application that does not accept connections is logged, once.
    async fn check(&mut self, registry: &Registry, log: bool) {
        let failures = registry.connect_failures(&self.cluster);
        if self.accepts && failures == self.failures {
            return;
        }
        self.failures = failures;
        let Self { address, services, .. } = self;
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(*address)).await {
            Ok(Ok(_)) => {
                if self.logged {
                    tracing::info!(%address, services, "the application accepts connections");
                }
                (self.accepts, self.logged) = (true, false);
            }
            Ok(Err(error)) if self.accepts && error.kind() != ErrorKind::ConnectionRefused => {}
            Err(_) if self.accepts => {}
            _ => {
                self.accepts = false;
                if log && !self.logged {
                    tracing::warn!(
                        %address,
                        services,
                        "nothing listens at the address of the application; the workload is not ready until it does"
                    );
                    self.logged = true;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(application: SocketAddr) -> WorkloadPort {
        WorkloadPort {
            services: vec!["cart".into()],
            service_port: 80,
            protocol: None,
            advertised: application,
            listen: application,
            application,
            original_destination: false,
        }
    }

    #[tokio::test]
    async fn an_application_is_awaited_and_its_crash_is_noticed_by_the_first_failed_connection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let registry = Registry::new();
        let mut problems = watch_applications(&[port(address)], Arc::clone(&registry));
        let text = format!("nothing listens at {address}, the application of cart:80 (--service)");
        assert_eq!(*problems.borrow_and_update(), [text.as_str()]);

        let application = tokio::net::TcpListener::bind(address).await.unwrap();
        problems.changed().await.unwrap();
        assert!(problems.borrow_and_update().is_empty());

        drop(application);
        let failed = registry.worker().cluster(&inbound_name(address));
        sleep(2 * MAX_PAUSE).await;
        assert!(!problems.has_changed().unwrap(), "it is not probed without a reason");
        failed.connect_failed.increment();
        problems.changed().await.unwrap();
        assert_eq!(*problems.borrow_and_update(), [text]);

        let _application = tokio::net::TcpListener::bind(address).await.unwrap();
        problems.changed().await.unwrap();
        assert!(problems.borrow().is_empty());
    }
}
