//! The workload in discovery: registered, kept alive by heartbeats, and taken out before the proxy stops.
//!
//! The supervisor starts [`Registration::maintain`]. A stream that breaks removes nobody; it is opened again and the
//! workload said again. What the control plane refuses is said again, too, since the missing Service may yet be added.
//! A workload that drained keeps its stream: with it the control plane would take away the listeners on which it still
//! answers. Its end is the proxy's. For the same reason a stream that moves to the connection of a new certificate is kept
//! until the next one has been answered.

use std::collections::BTreeMap;
use std::convert::Infallible;
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
use crate::control_plane::channel::{Channels, current, describe};
use crate::status::StatusBoard;

/// How long a drain waits for the control plane to say that nobody is sent here any more.
pub(crate) const DRAIN: Duration = Duration::from_secs(2);
/// A control plane that has taken the stream's connection begins to answer within this time.
const ANSWER: Duration = Duration::from_secs(15);
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
    /// It did not say so in time, or is not in reach: the lease, or the peers' own retries, must do.
    Unconfirmed,
}

/// What is to be expected of the control plane when the workload wants to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    /// Nothing: there is no certificate yet, or the last try to reach it failed.
    Hopeless,
    /// An answer.
    Possible,
    /// The answer came, or there is nothing to leave.
    Confirmed,
}

/// The task's state.
#[derive(Debug)]
pub(crate) struct Registration {
    workload: Arc<wire::Workload>,
    wanted: watch::Receiver<Wanted>,
    leave: watch::Sender<Leave>,
    status: StatusBoard,
}

/// An open stream: the way there and the way back. It lives for as long as both are held.
#[derive(Debug)]
struct Call {
    requests: mpsc::UnboundedSender<RegisterRequest>,
    responses: Streaming<wire::RegisterResponse>,
}

/// Why a stream is not read any more.
#[derive(Debug)]
enum Ended {
    /// It broke.
    Broken(Status),
    /// There is a new certificate; the stream is still open.
    Renewed(Box<Call>),
}

/// What others may ask of the registration.
#[derive(Debug, Clone)]
pub(crate) struct RegistrationHandle {
    wanted: Arc<watch::Sender<Wanted>>,
    leave: watch::Receiver<Leave>,
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

    /// Leaves discovery, and waits until that is confirmed, [`DRAIN`] has passed, or the control plane turns out not to be
    /// in reach. Cancel-safe: leaving goes on.
    pub(crate) async fn drain(&self) -> Left {
        self.wanted.send_replace(Wanted::Drained);
        let mut leave = self.leave.clone();
        match tokio::time::timeout(DRAIN, leave.wait_for(|leave| *leave != Leave::Possible)).await {
            Ok(Ok(leave)) if *leave == Leave::Confirmed => Left::Confirmed,
            _ => Left::Unconfirmed,
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
        let nothing_to_leave = if ports.is_empty() { Leave::Confirmed } else { Leave::Hopeless };
        let (leave, leave_receiver) = watch::channel(nothing_to_leave);
        let task = Self { workload: Arc::new(workload), wanted: wanted_receiver, leave, status };
        (task, RegistrationHandle { wanted: Arc::new(wanted), leave: leave_receiver })
    }

    /// Registers, and registers again after each break. Owned by the supervisor, and ends with it.
    pub(crate) async fn maintain(mut self, mut channels: Channels) {
        // Without a certificate there is no channel, and nobody to register.
        if self.workload.ports.is_empty() || current(&mut channels).await.is_none() {
            return;
        }
        self.expect(Leave::Possible);
        let mut backoff = Backoff::default();
        let mut before = None;
        while let Some(channel) = current(&mut channels).await {
            let status = match self.serve(channel, &mut channels, before.take(), &mut backoff).await {
                Ended::Broken(status) => status,
                Ended::Renewed(call) => {
                    before = Some(call);
                    continue;
                }
            };
            let reason = describe(&status);
            tracing::warn!(reason, "the registration stream ended; registering again");
            self.status.registration_failed(reason);
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// One stream, to its end; the one before it goes when it has been answered, or has failed.
    async fn serve(
        &mut self,
        channel: Channel,
        channels: &mut Channels,
        before: Option<Box<Call>>,
        backoff: &mut Backoff,
    ) -> Ended {
        let opened = self.open(channel).await;
        self.expect(if opened.is_ok() { Leave::Possible } else { Leave::Hopeless });
        let mut call = match opened {
            Ok(call) => Box::new(call),
            Err(status) => return Ended::Broken(status),
        };
        tokio::select! {
            Err(status) = self.converse(&mut call, before, backoff) => Ended::Broken(status),
            renewed = channels.changed() => match renewed {
                Ok(()) => Ended::Renewed(call),
                Err(_) => Ended::Broken(Status::cancelled("shutting down")),
            },
        }
    }

    async fn open(&mut self, channel: Channel) -> Result<Call, Status> {
        let (requests, outgoing) = mpsc::unbounded_channel();
        let _ = requests.send(self.message(true));
        let mut client = RegistrationClient::new(channel);
        let opened = tokio::time::timeout(ANSWER, client.register(UnboundedReceiverStream::new(outgoing)))
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("the control plane does not answer")));
        Ok(Call { requests, responses: opened?.into_inner() })
    }

    /// Says what is wanted, and that the workload is alive, until the stream breaks.
    async fn converse(
        &mut self,
        Call { requests, responses }: &mut Call,
        mut before: Option<Box<Call>>,
        backoff: &mut Backoff,
    ) -> Result<Infallible, Status> {
        let mut heartbeat = FIRST_HEARTBEAT;
        let mut refused = false;
        let mut next = Instant::now() + heartbeat;
        loop {
            let full = tokio::select! {
                outcome = outcome(responses) => {
                    let outcome = outcome?;
                    drop(before.take());
                    match outcome {
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
                        // Said again after each heartbeat, which keeps the workload's own listeners.
                        Outcome::Drained(wire::Drained {}) => {
                            refused = false;
                            backoff.reset();
                            self.status.registration_left();
                            self.expect(Leave::Confirmed);
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

    /// What has been confirmed stays so.
    fn expect(&self, now: Leave) {
        self.leave.send_if_modified(|leave| {
            let change = *leave != Leave::Confirmed && *leave != now;
            if change {
                *leave = now;
            }
            change
        });
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
mod tests;
