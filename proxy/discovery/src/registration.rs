//! Registers the workload with the control plane, sends heartbeats, and drains the registration before the proxy stops.
//!
//! The supervisor starts [`Registration::maintain`]. A broken stream does not deregister the workload; it is reopened and the
//! registration is sent again. A port that the control plane refused is sent again too, since its Service may be added later. A
//! drained workload keeps its stream until the proxy ends, because the control plane would otherwise remove the listeners that
//! are still in use. For the same reason a stream moves to the connection of a new certificate only after the new stream has
//! been answered.

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
use crate::control_plane::channel::{Channels, current};
use crate::control_plane::failure::describe;
use crate::log_throttle::LogThrottle;
use crate::status::StatusBoard;

/// How long a drain waits for the control plane's confirmation.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit for the first response on a stream.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);
/// Interval at which a refused workload is sent again.
const REFUSED_RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Heartbeat interval before the control plane has sent a lease.
const INITIAL_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
/// Lower bound of the heartbeat interval, whatever the lease.
const MIN_HEARTBEAT_INTERVAL: Duration = Duration::from_millis(200);

/// One port of the workload, from `--service`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadPort {
    /// The services, in the workload's namespace, that have this port.
    pub services: Vec<String>,
    /// The port number of those services.
    pub service_port: u16,
    /// `appProtocol`; if None, the Service declares it.
    pub protocol: Option<String>,
    /// The address that peers connect to.
    pub advertised: SocketAddr,
    /// The address that this proxy listens on.
    pub listen: SocketAddr,
    /// The address that the application listens on.
    pub application: SocketAddr,
    /// `listen` receives redirected connections, whatever their destination.
    pub original_destination: bool,
}

/// The desired state of the workload in discovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    NotReady,
    Ready,
    /// Permanently out of discovery.
    Drained,
}

/// The outcome of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deregistration {
    /// The control plane has removed the workload from discovery, or nothing was ever registered.
    Confirmed,
    /// There was no confirmation in time, or the control plane is unreachable. The lease or the peers' retries must suffice.
    Unconfirmed,
}

/// What a drain can expect from the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Confirmation {
    /// Nothing: there is no certificate yet, or the last attempt to reach it failed.
    Unreachable,
    /// A response.
    Pending,
    /// The response has arrived, or nothing was registered.
    Received,
}

/// The state of the task.
#[derive(Debug)]
pub(crate) struct Registration {
    workload: Arc<wire::Workload>,
    wanted: watch::Receiver<Wanted>,
    confirmation: watch::Sender<Confirmation>,
    status: StatusBoard,
    /// Limits the log of failed streams and refused ports.
    log: LogThrottle,
}

/// An open stream, both directions. It stays open while both are held.
#[derive(Debug)]
struct Call {
    requests: mpsc::UnboundedSender<RegisterRequest>,
    responses: Streaming<wire::RegisterResponse>,
}

/// Why a stream is no longer read.
#[derive(Debug)]
enum Ended {
    /// The stream broke.
    Broken(Status),
    /// The certificate was renewed; the stream is still open.
    Renewed(Box<Call>),
}

/// Controls the registration.
#[derive(Debug, Clone)]
pub(crate) struct RegistrationHandle {
    wanted: Arc<watch::Sender<Wanted>>,
    confirmation: watch::Receiver<Confirmation>,
}

impl RegistrationHandle {
    /// Sets whether the application is ready. No effect once draining.
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

    /// Leaves discovery. Waits until that is confirmed, [`DRAIN_TIMEOUT`] has passed, or the control plane is found unreachable.
    /// Cancel-safe: leaving continues.
    pub(crate) async fn drain(&self) -> Deregistration {
        self.wanted.send_replace(Wanted::Drained);
        let mut confirmation = self.confirmation.clone();
        match tokio::time::timeout(
            DRAIN_TIMEOUT,
            confirmation.wait_for(|confirmation| *confirmation != Confirmation::Pending),
        )
        .await
        {
            Ok(Ok(confirmation)) if *confirmation == Confirmation::Received => Deregistration::Confirmed,
            _ => Deregistration::Unconfirmed,
        }
    }
}

impl Registration {
    /// Creates an unregistered workload that is not ready. Without ports it is never registered.
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
        let initial = if ports.is_empty() { Confirmation::Received } else { Confirmation::Unreachable };
        let (confirmation, confirmation_receiver) = watch::channel(initial);
        let task = Self {
            workload: Arc::new(workload),
            wanted: wanted_receiver,
            confirmation,
            status,
            log: LogThrottle::default(),
        };
        (task, RegistrationHandle { wanted: Arc::new(wanted), confirmation: confirmation_receiver })
    }

    /// Registers, and registers again after each break. Owned by the supervisor and ends with it.
    pub(crate) async fn maintain(mut self, mut channels: Channels) {
        // Without a certificate there is no channel.
        if self.workload.ports.is_empty() || current(&mut channels).await.is_none() {
            return;
        }
        self.set_confirmation(Confirmation::Pending);
        let mut backoff = Backoff::default();
        let mut previous = None;
        while let Some(channel) = current(&mut channels).await {
            let status = match self.serve(channel, &mut channels, previous.take(), &mut backoff).await {
                Ended::Broken(status) => status,
                Ended::Renewed(call) => {
                    previous = Some(call);
                    continue;
                }
            };
            let reason = describe(&status);
            if self.log.admits(&reason) {
                tracing::warn!(reason, "the workload is not registered; registering again");
            }
            self.status.registration_failed(reason);
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// Serves one stream to its end. The previous stream is closed once this one has been answered or has failed.
    async fn serve(
        &mut self,
        channel: Channel,
        channels: &mut Channels,
        previous: Option<Box<Call>>,
        backoff: &mut Backoff,
    ) -> Ended {
        let opened = self.open(channel).await;
        self.set_confirmation(if opened.is_ok() { Confirmation::Pending } else { Confirmation::Unreachable });
        let mut call = match opened {
            Ok(call) => Box::new(call),
            Err(status) => return Ended::Broken(status),
        };
        tokio::select! {
            Err(status) = self.exchange(&mut call, previous, backoff) => Ended::Broken(status),
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
        let opened =
            tokio::time::timeout(RESPONSE_TIMEOUT, client.register(UnboundedReceiverStream::new(outgoing)))
                .await
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("the control plane did not respond")));
        Ok(Call { requests, responses: opened?.into_inner() })
    }

    /// Sends the desired state and heartbeats until the stream breaks.
    async fn exchange(
        &mut self,
        Call { requests, responses }: &mut Call,
        mut previous: Option<Box<Call>>,
        backoff: &mut Backoff,
    ) -> Result<Infallible, Status> {
        let mut heartbeat = INITIAL_HEARTBEAT_INTERVAL;
        let mut refused = false;
        let mut next = Instant::now() + heartbeat;
        loop {
            let full = tokio::select! {
                outcome = outcome(responses) => {
                    let outcome = outcome?;
                    drop(previous.take());
                    match outcome {
                        Outcome::Accepted(accepted) => {
                            let lease = lease(accepted);
                            heartbeat = (lease / 3).max(MIN_HEARTBEAT_INTERVAL);
                            refused = false;
                            backoff.reset();
                            self.log.reset();
                            self.status.registered(lease);
                        }
                        Outcome::Refused(wire::Refused { ports }) => {
                            refused = true;
                            self.refused(ports);
                        }
                        // Repeated after each heartbeat, which keeps the workload's listeners.
                        Outcome::Drained(wire::Drained {}) => {
                            refused = false;
                            backoff.reset();
                            self.status.registration_left();
                            self.set_confirmation(Confirmation::Received);
                        }
                    }
                    next = next.min(Instant::now() + if refused { REFUSED_RETRY_INTERVAL } else { heartbeat });
                    continue;
                }
                changed = self.wanted.changed() => {
                    // The handle is dropped with the supervisor, which ends this task.
                    changed.map_err(|_| Status::cancelled("shutting down"))?;
                    false
                }
                () = tokio::time::sleep_until(next) => refused,
            };
            if requests.send(self.message(full)).is_err() {
                return Err(Status::unavailable("the stream accepts no more messages"));
            }
            next = Instant::now() + if refused { REFUSED_RETRY_INTERVAL } else { heartbeat };
        }
    }

    /// Sets the state of the confirmation. A received one is final.
    fn set_confirmation(&self, now: Confirmation) {
        self.confirmation.send_if_modified(|confirmation| {
            let change = *confirmation != Confirmation::Received && *confirmation != now;
            if change {
                *confirmation = now;
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

    fn refused(&mut self, ports: Vec<wire::RefusedPort>) {
        let named: Vec<_> =
            ports.into_iter().map(|p| (usize::try_from(p.port).unwrap_or(usize::MAX), p.reason)).collect();
        if self.log.admits(&format!("{named:?}")) {
            for (index, reason) in &named {
                let port = self.workload.ports.get(*index);
                let service = port.map(|port| format!("{}:{}", port.services.join(","), port.service_port));
                tracing::error!(
                    service,
                    reason,
                    "the control plane refused a --service, which gets no requests; correct the flag, or add the Service to the \
                     control plane's --config"
                );
            }
        }
        self.status.registration_refused(named);
    }
}

/// Returns the next outcome. Skips outcomes that are unknown to this version.
async fn outcome(responses: &mut Streaming<wire::RegisterResponse>) -> Result<Outcome, Status> {
    loop {
        match responses.message().await? {
            Some(wire::RegisterResponse { outcome: Some(outcome) }) => return Ok(outcome),
            Some(wire::RegisterResponse { outcome: None }) => {}
            None => return Err(Status::unavailable("the control plane closed the stream")),
        }
    }
}

/// Returns the granted lease. A missing or invalid one is replaced by that of the first heartbeat.
fn lease(wire::Accepted { lease }: wire::Accepted) -> Duration {
    let seconds = lease.and_then(|lease| u64::try_from(lease.seconds).ok().map(|s| (s, lease.nanos)));
    let lease =
        seconds.map(|(s, nanos)| Duration::new(s, u32::try_from(nanos).unwrap_or(0).min(999_999_999)));
    lease.filter(|lease| !lease.is_zero()).unwrap_or(3 * INITIAL_HEARTBEAT_INTERVAL)
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
