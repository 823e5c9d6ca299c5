//! `outrigger.registration.v1.Registration`: one stream for each workload.
//!
//! A message may be partial: absent fields keep their values. The stream keeps the merged state and registers it again
//! with each heartbeat, so that a workload is accepted as soon as its Service exists. Each stream is a task that ends
//! with the stream, with the certificate that opened it, or with the control plane.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use outrigger_core::identity::SpiffeId;
use outrigger_proto::registration::register_response::Outcome;
use outrigger_proto::registration::registration_server::Registration;
use outrigger_proto::registration::{
    Accepted, Drained, Health, Refused, RefusedPort, RegisterRequest, RegisterResponse,
};
use outrigger_proto::xds::protobuf;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::registrar::{RegistrarError, RegistrarHandle};
use crate::metrics::Metrics;
use crate::model::mesh::Mesh;
use crate::model::registration::WorkloadKey;
use crate::peer::{PeerIdentity, expired, until, verified};
use crate::quota::{KeyedRateLimiter, Rate, RateLimiter, Slots};

/// Maximum number of streams of one identity, over all its instances.
const MAX_STREAMS: usize = 1024;
/// Rate of new streams of one identity: a restart of all its instances, and then reconnections.
const OPENING_RATE: Rate = Rate { burst: 1024, interval: Duration::from_millis(50) };
/// Rate of messages on one stream. Each may be a change that is written to disk and pushed to proxies. With the shortest
/// lease, there are three heartbeats a second.
const MESSAGE_RATE: Rate = Rate { burst: 20, interval: Duration::from_millis(100) };

/// The registration RPC.
#[derive(Debug, Clone)]
pub(crate) struct RegistrationService {
    registrar: RegistrarHandle,
    mesh: watch::Receiver<Arc<Mesh>>,
    metrics: Arc<Metrics>,
    limits: Arc<Limits>,
    streams: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Limits {
    streams: Slots<SpiffeId>,
    opening_rate: KeyedRateLimiter<SpiffeId>,
}

impl RegistrationService {
    /// Creates the service. `mesh` is the mesh that xDS serves, including the registrations.
    pub(crate) fn new(
        registrar: RegistrarHandle,
        mesh: watch::Receiver<Arc<Mesh>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let limits = Arc::new(Limits {
            streams: Slots::new(MAX_STREAMS),
            opening_rate: KeyedRateLimiter::new(OPENING_RATE),
        });
        Self { registrar, mesh, metrics, limits, streams: Arc::default() }
    }

    /// Runs a stream until it ends.
    async fn run(
        mut self,
        PeerIdentity { identity, not_after }: PeerIdentity,
        mut messages: impl Stream<Item = Result<RegisterRequest, Status>> + Unpin,
        answers: mpsc::Sender<Result<RegisterResponse, Status>>,
    ) {
        let stream = self.streams.fetch_add(1, Ordering::Relaxed);
        let mut state = RegisterRequest::default();
        let mut registered: Option<WorkloadKey> = None;
        let mut limiter = RateLimiter::default();
        let over = until(not_after);
        tokio::pin!(over);
        loop {
            let message = tokio::select! {
                message = messages.next() => message,
                () = answers.closed() => None,
                () = self.registrar.closed() => None,
                () = &mut over => Some(Err(expired())),
            };
            let message = match message {
                None => break,
                Some(Ok(_)) if !limiter.admit(MESSAGE_RATE, Instant::now()) => {
                    Err(self.limit_exceeded("rate-limit", &identity, "sends too many messages"))
                }
                Some(Ok(message)) if registered.as_ref().is_some_and(|key| !is_about(&message, key)) => {
                    Err(Status::invalid_argument("the instance changed on the stream"))
                }
                Some(message) => message,
            };
            match message {
                Ok(message) => state = merge(state, message),
                Err(status) => {
                    // Fails if the client has disconnected.
                    let _ = answers.send(Err(status)).await;
                    break;
                }
            }
            let Some(answer) = self.registrar.register(identity.clone(), stream, state.clone()).await else {
                break;
            };
            let outcome = match answer {
                Ok(Ok(key)) => {
                    let outcome = self.accepted(&key, state.drain).await;
                    registered = Some(key);
                    Ok(outcome)
                }
                // It was never published, so it has drained.
                Ok(Err(_)) if state.drain && registered.is_none() => Ok(Outcome::Drained(Drained {})),
                Ok(Err(refusals)) => Ok(Outcome::Refused(Refused {
                    ports: refusals
                        .into_iter()
                        .map(|refusal| RefusedPort {
                            port: u32::try_from(refusal.port).unwrap_or(u32::MAX),
                            reason: refusal.text,
                        })
                        .collect(),
                })),
                Err(RegistrarError::Malformed(malformed)) => {
                    Err(Status::invalid_argument(malformed.to_string()))
                }
                Err(RegistrarError::NotPersisted) => Err(Status::unavailable(
                    "the state cannot be written now; see the log of the control plane",
                )),
            };
            let ends = outcome.is_err();
            let answer = outcome.map(|outcome| RegisterResponse { outcome: Some(outcome) });
            if answers.send(answer).await.is_err() || ends {
                break;
            }
        }
        if let Some(key) = registered {
            self.registrar.ended(key, stream).await;
        }
    }

    /// Returns the refusal of a caller that exceeds a limit.
    fn limit_exceeded(&self, reason: &'static str, identity: &SpiffeId, does: &str) -> Status {
        self.metrics.registration_refused(reason);
        tracing::warn!(reason, %identity, "registration refused");
        Status::resource_exhausted(format!("{identity} {does}: try again later"))
    }

    /// Returns the outcome of an accepted registration. For a draining workload, it waits until xDS no longer serves it.
    async fn accepted(&mut self, key: &WorkloadKey, drain: bool) -> Outcome {
        if !drain {
            let lease = self.registrar.lease();
            return Outcome::Accepted(Accepted {
                lease: Some(protobuf::Duration {
                    seconds: i64::try_from(lease.as_secs()).unwrap_or(i64::MAX),
                    nanos: i32::try_from(lease.subsec_nanos()).unwrap_or(0),
                }),
            });
        }
        let left = |mesh: &Arc<Mesh>| mesh.workload(key).is_none_or(|workload| workload.draining);
        // Fails only if the control plane is shutting down.
        let _ = self.mesh.wait_for(left).await;
        Outcome::Drained(Drained {})
    }
}

/// Returns true if a message is about this workload: a stream has one.
fn is_about(message: &RegisterRequest, key: &WorkloadKey) -> bool {
    message.workload.as_ref().is_none_or(|workload| *workload.instance == *key.instance)
}

/// Merges a message into the state of a workload. Draining is final.
fn merge(state: RegisterRequest, message: RegisterRequest) -> RegisterRequest {
    let RegisterRequest { workload, health, drain } = message;
    let unspecified = health == i32::from(Health::Unspecified as u8);
    RegisterRequest {
        workload: workload.or(state.workload),
        health: if unspecified { state.health } else { health },
        drain: drain || state.drain,
    }
}

#[tonic::async_trait]
impl Registration for RegistrationService {
    type RegisterStream = Pin<Box<ReceiverStream<Result<RegisterResponse, Status>>>>;

    async fn register(
        &self,
        request: Request<Streaming<RegisterRequest>>,
    ) -> Result<Response<Self::RegisterStream>, Status> {
        let peer = verified(&request)?;
        let identity = &peer.identity;
        if !self.limits.opening_rate.admit(identity, Instant::now()) {
            return Err(self.limit_exceeded("rate-limit", identity, "opens streams too fast"));
        }
        let slot = self.limits.streams.acquire(identity);
        let slot =
            slot.ok_or_else(|| self.limit_exceeded("identity-limit", identity, "has too many streams"))?;
        let (answers, outgoing) = mpsc::channel(4);
        let stream = self.clone().run(peer, request.into_inner(), answers);
        tokio::spawn(async move {
            stream.await;
            drop(slot);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}
