//! The workload in discovery: registered, kept alive by heartbeats, and taken out before the proxy stops.
//!
//! The supervisor starts [`Registration::maintain`]. A stream that breaks removes nobody; it is opened again and the
//! workload said again. What the control plane refuses is said again, too, since the missing Service may yet be added.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::registration as wire;
use outrigger_proto::registration::registration_client::RegistrationClient;
use outrigger_proto::registration::{RegisterRequest, register_response::Outcome};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::backoff::Backoff;
use crate::channel::{Credentials, describe};
use crate::status::StatusBoard;

/// How long a drain waits for the control plane to say that nobody is sent here any more.
pub(crate) const DRAIN: Duration = Duration::from_secs(2);
/// How soon a refused workload is offered again.
const OFFER_AGAIN: Duration = Duration::from_secs(5);
/// Heartbeats before the control plane has named its lease.
const FIRST_HEARTBEAT: Duration = Duration::from_secs(10);
/// No heartbeat comes faster, whatever lease is named.
const FASTEST_HEARTBEAT: Duration = Duration::from_millis(200);

/// One port of the workload, as `--service` gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadPort {
    /// Services of the workload's namespace behind which the port stands.
    pub services: Vec<String>,
    /// The port number of those services.
    pub service_port: u16,
    /// `appProtocol`; `None` takes what the Service says.
    pub protocol: Option<String>,
    /// What other sidecars connect to.
    pub advertised: SocketAddr,
    /// What this proxy listens on.
    pub listen: SocketAddr,
    /// Where the application listens.
    pub application: SocketAddr,
    /// `listen` gets redirected connections, whatever their destination.
    pub original_destination: bool,
}

/// What the proxy wants the control plane to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    NotReady,
    Ready,
    /// Out of discovery, for good.
    Drained,
}

/// How a drain of the registration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// The control plane has taken the workload out of discovery, or nothing was ever registered.
    Confirmed,
    /// It did not say so in time: the lease, or the peers' own retries, must do.
    Unconfirmed,
}

/// The task's state.
#[derive(Debug)]
pub(crate) struct Registration {
    workload: Arc<wire::Workload>,
    wanted: watch::Receiver<Wanted>,
    /// Set once the control plane has confirmed the drain.
    left: watch::Sender<bool>,
    status: StatusBoard,
}

/// What others may ask of the registration.
#[derive(Debug, Clone)]
pub(crate) struct RegistrationHandle {
    wanted: Arc<watch::Sender<Wanted>>,
    left: watch::Receiver<bool>,
}

impl RegistrationHandle {
    /// Says whether the application takes traffic. Without effect once draining.
    pub(crate) fn ready(&self, ready: bool) {
        let next = if ready { Wanted::Ready } else { Wanted::NotReady };
        self.wanted.send_if_modified(|wanted| {
            let change = *wanted != Wanted::Drained && *wanted != next;
            if change {
                *wanted = next;
            }
            change
        });
    }

    /// Leaves discovery, and waits until that is confirmed or [`DRAIN`] has passed. Cancel-safe: leaving goes on.
    pub(crate) async fn drain(&self) -> Left {
        self.wanted.send_replace(Wanted::Drained);
        let mut left = self.left.clone();
        match tokio::time::timeout(DRAIN, left.wait_for(|left| *left)).await {
            Ok(Ok(_)) => Left::Confirmed,
            Ok(Err(_)) | Err(_) => Left::Unconfirmed,
        }
    }
}

impl Registration {
    /// A workload that is not registered yet, and not ready. One without ports never is: there is nothing to find.
    pub(crate) fn new(
        instance: &str,
        ports: &[WorkloadPort],
        labels: &BTreeMap<String, String>,
        status: StatusBoard,
    ) -> (Self, RegistrationHandle) {
        let workload = wire::Workload {
            instance: instance.into(),
            ports: ports.iter().map(port).collect(),
            labels: labels.clone().into_iter().collect(),
        };
        let (wanted, wanted_receiver) = watch::channel(Wanted::NotReady);
        let (left, left_receiver) = watch::channel(ports.is_empty());
        let task = Self { workload: Arc::new(workload), wanted: wanted_receiver, left, status };
        (task, RegistrationHandle { wanted: Arc::new(wanted), left: left_receiver })
    }

    /// Registers, and registers again after each break, until drained. Owned by the supervisor.
    pub(crate) async fn maintain(mut self, channel: Channel, mut credentials: Credentials) {
        // Without a certificate there is nobody to register.
        if self.workload.ports.is_empty() || credentials.wait_for(Option::is_some).await.is_err() {
            return;
        }
        let mut backoff = Backoff::default();
        loop {
            let end = self.serve(channel.clone(), &mut backoff).await;
            match end {
                Ok(()) => return,
                Err(status) => {
                    let reason = describe(&status);
                    tracing::warn!(reason, "the registration stream ended; registering again");
                    self.status.registration_failed(reason);
                }
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// One stream. `Ok`: the workload has left.
    async fn serve(&mut self, channel: Channel, backoff: &mut Backoff) -> Result<(), Status> {
        let (requests, outgoing) = mpsc::unbounded_channel();
        let _ = requests.send(self.message(true));
        let mut client = RegistrationClient::new(channel);
        let mut responses = client.register(UnboundedReceiverStream::new(outgoing)).await?.into_inner();
        let mut heartbeat = FIRST_HEARTBEAT;
        let mut refused = false;
        let mut next = Instant::now() + heartbeat;
        loop {
            let full = tokio::select! {
                outcome = outcome(&mut responses) => {
                    match outcome? {
                        Outcome::Accepted(accepted) => {
                            let lease = lease(accepted);
                            heartbeat = (lease / 3).max(FASTEST_HEARTBEAT);
                            refused = false;
                            backoff.reset();
                            self.status.registered(lease);
                        }
                        Outcome::Refused(wire::Refused { ports }) => {
                            refused = true;
                            self.refused(ports);
                        }
                        Outcome::Drained(wire::Drained {}) => {
                            self.status.registration_left();
                            self.left.send_replace(true);
                            return Ok(());
                        }
                    }
                    next = next.min(Instant::now() + if refused { OFFER_AGAIN } else { heartbeat });
                    continue;
                }
                changed = self.wanted.changed() => {
                    // The handle is gone with the supervisor, which ends this task.
                    changed.map_err(|_| Status::cancelled("shutting down"))?;
                    false
                }
                () = tokio::time::sleep_until(next) => refused,
            };
            if requests.send(self.message(full)).is_err() {
                return Err(Status::unavailable("the stream takes no more messages"));
            }
            next = Instant::now() + if refused { OFFER_AGAIN } else { heartbeat };
        }
    }

    fn message(&mut self, full: bool) -> RegisterRequest {
        let wanted = *self.wanted.borrow_and_update();
        RegisterRequest {
            workload: full.then(|| wire::Workload::clone(&self.workload)),
            health: match wanted {
                Wanted::Ready => wire::Health::Ready,
                Wanted::NotReady | Wanted::Drained => wire::Health::NotReady,
            }
            .into(),
            drain: wanted == Wanted::Drained,
        }
    }

    fn refused(&self, ports: Vec<wire::RefusedPort>) {
        let named: Vec<_> =
            ports.into_iter().map(|p| (usize::try_from(p.port).unwrap_or(usize::MAX), p.reason)).collect();
        for (index, reason) in &named {
            let services = self.workload.ports.get(*index).map(|port| port.services.join(","));
            tracing::warn!(services, reason, "the control plane refuses this port");
        }
        self.status.registration_refused(named);
    }
}

/// The next outcome. One that this version does not know is passed over.
async fn outcome(responses: &mut Streaming<wire::RegisterResponse>) -> Result<Outcome, Status> {
    loop {
        match responses.message().await? {
            Some(wire::RegisterResponse { outcome: Some(outcome) }) => return Ok(outcome),
            Some(wire::RegisterResponse { outcome: None }) => {}
            None => return Err(Status::unavailable("the control plane closed the stream")),
        }
    }
}

/// The lease granted; one that is absent or makes no sense is taken for that of our first heartbeat.
fn lease(wire::Accepted { lease }: wire::Accepted) -> Duration {
    let seconds = lease.and_then(|lease| u64::try_from(lease.seconds).ok().map(|s| (s, lease.nanos)));
    let lease =
        seconds.map(|(s, nanos)| Duration::new(s, u32::try_from(nanos).unwrap_or(0).min(999_999_999)));
    lease.filter(|lease| !lease.is_zero()).unwrap_or(3 * FIRST_HEARTBEAT)
}

fn port(port: &WorkloadPort) -> wire::Port {
    let WorkloadPort {
        services,
        service_port,
        protocol,
        advertised,
        listen,
        application,
        original_destination,
    } = port;
    wire::Port {
        services: services.clone(),
        service_port: (*service_port).into(),
        app_protocol: protocol.clone().unwrap_or_default(),
        advertised: Some(address(advertised)),
        listen: Some(address(listen)),
        application: Some(address(application)),
        original_destination: *original_destination,
    }
}

fn address(address: &SocketAddr) -> wire::Address {
    wire::Address { ip: address.ip().to_string(), port: address.port().into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::testing::{Ca, RegistrationCall, Stage, stage};
    use outrigger_proto::registration::{Accepted, Drained, RegisterResponse};

    fn cart() -> WorkloadPort {
        let address = |a: &str| a.parse().unwrap();
        WorkloadPort {
            services: vec!["cart".into()],
            service_port: 80,
            protocol: Some("http".into()),
            advertised: address("10.0.0.5:15006"),
            listen: address("127.0.0.1:15006"),
            application: address("127.0.0.1:8080"),
            original_destination: false,
        }
    }

    fn start(ports: &[WorkloadPort]) -> (Stage, RegistrationHandle, StatusBoard) {
        let ca = Arc::new(Ca::new());
        let stage = stage(&ca, Clock::paused());
        let status = StatusBoard::default();
        let (task, handle) = Registration::new("cart-1", ports, &BTreeMap::new(), status.clone());
        let credential = crate::testing::credential(&ca, "spiffe://cluster.local/ns/shop/sa/cart");
        let credentials = watch::channel(Some(credential)).1;
        tokio::spawn(task.maintain(stage.control_plane.channel(credentials.clone()), credentials));
        (stage, handle, status)
    }

    fn answer(call: &RegistrationCall, outcome: Outcome) {
        call.responses.send(Ok(RegisterResponse { outcome: Some(outcome) })).unwrap();
    }

    fn accepted(seconds: i64) -> Outcome {
        let lease = outrigger_proto::xds::protobuf::Duration { seconds, nanos: 0 };
        Outcome::Accepted(Accepted { lease: Some(lease) })
    }

    async fn heard(call: &mut RegistrationCall) -> RegisterRequest {
        call.requests.message().await.unwrap().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_workload_registers_and_beats_at_a_third_of_its_lease() {
        let (mut stage, handle, status) = start(&[cart()]);
        let mut call = stage.registrations.recv().await.unwrap();
        assert_eq!(call.caller.as_ref().unwrap().service_account(), "cart");
        let first = heard(&mut call).await;
        assert_eq!(first.health(), wire::Health::NotReady);
        assert_eq!(first.workload.unwrap().ports[0].services, ["cart"]);
        answer(&call, accepted(3));
        handle.ready(true);
        assert_eq!(heard(&mut call).await.health(), wire::Health::Ready);
        let asked = Instant::now();
        let beat = heard(&mut call).await;
        assert_eq!((beat.workload, asked.elapsed().as_millis() / 100), (None, 10));
        assert!(status.read().registration.registered_since.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_stream_is_opened_again_with_the_whole_workload() {
        let (mut stage, handle, _) = start(&[cart()]);
        handle.ready(true);
        let call = stage.registrations.recv().await.unwrap();
        call.responses.send(Err(Status::unavailable("restart"))).unwrap();
        let broken = Instant::now();
        let mut call = stage.registrations.recv().await.unwrap();
        assert!(broken.elapsed() <= Duration::from_millis(500));
        let again = heard(&mut call).await;
        assert!(again.workload.is_some());
        assert_eq!(again.health(), wire::Health::Ready);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_port_is_named_and_offered_again() {
        let (mut stage, _handle, status) = start(&[cart()]);
        let mut call = stage.registrations.recv().await.unwrap();
        heard(&mut call).await;
        let port = wire::RefusedPort { port: 0, reason: "no Service cart".into() };
        answer(&call, Outcome::Refused(wire::Refused { ports: vec![port] }));
        assert!(heard(&mut call).await.workload.is_some(), "offered again");
        assert_eq!(status.read().registration.refused, [(0, "no Service cart".into())]);
        answer(&call, accepted(30));
        assert_eq!(heard(&mut call).await.workload, None);
        assert!(status.read().registration.refused.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_until_the_control_plane_confirms() {
        let (mut stage, handle, status) = start(&[cart()]);
        let mut call = stage.registrations.recv().await.unwrap();
        heard(&mut call).await;
        answer(&call, accepted(30));
        let drained = tokio::spawn(async move { handle.drain().await });
        assert!(heard(&mut call).await.drain);
        answer(&call, Outcome::Drained(Drained {}));
        assert_eq!(drained.await.unwrap(), Left::Confirmed);
        assert_eq!(status.read().registration.registered_since, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_gives_up_on_a_silent_control_plane() {
        let (_stage, handle, _) = start(&[cart()]);
        let asked = Instant::now();
        assert_eq!(handle.drain().await, Left::Unconfirmed);
        assert_eq!(asked.elapsed().as_millis() / 10, DRAIN.as_millis() / 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_goes_on_across_a_reconnect() {
        let (mut stage, handle, _) = start(&[cart()]);
        let call = stage.registrations.recv().await.unwrap();
        let drained = tokio::spawn(async move { handle.drain().await });
        drop(call);
        let mut call = stage.registrations.recv().await.unwrap();
        assert!(heard(&mut call).await.drain);
        answer(&call, Outcome::Drained(Drained {}));
        assert_eq!(drained.await.unwrap(), Left::Confirmed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_workload_without_ports_has_nothing_to_leave() {
        let (_stage, handle, _) = start(&[]);
        assert_eq!(handle.drain().await, Left::Confirmed);
    }
}
