//! `outrigger.registration.v1.Registration`: one stream for each workload.
//!
//! A message may say little: what it leaves out stays as it was. The stream keeps the whole and says it again with
//! each heartbeat, so that a workload that was refused because its Service was not there yet gets in by itself.
//! Each stream is a task, which ends with the stream, with the certificate that opened it, or with the control plane.

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

use super::registrar::{RegistrarHandle, Unanswered};
use crate::metrics::Metrics;
use crate::model::mesh::Mesh;
use crate::model::registration::WorkloadKey;
use crate::peer::{PeerIdentity, expired, until, verified};
use crate::quota::{Meter, Meters, Pace, Slots};

/// Streams of one identity: of all instances of a workload together.
const STREAMS: usize = 1024;
/// New streams of one identity: a restart of all its instances, and then what broken connections cost.
const OPENINGS: Pace = Pace { burst: 1024, interval: Duration::from_millis(50) };
/// Messages on one stream. Each may be a change that is written to the disk and pushed to others; heartbeats at the
/// shortest lease come three times a second.
const MESSAGES: Pace = Pace { burst: 20, interval: Duration::from_millis(100) };

/// The RPC in front of the registrar.
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
    openings: Meters<SpiffeId>,
}

impl RegistrationService {
    /// A service that tells `registrar`; `mesh` is what discovery serves, registrations included.
    pub(crate) fn new(
        registrar: RegistrarHandle,
        mesh: watch::Receiver<Arc<Mesh>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let limits = Arc::new(Limits { streams: Slots::new(STREAMS), openings: Meters::new(OPENINGS) });
        Self { registrar, mesh, metrics, limits, streams: Arc::default() }
    }

    /// Carries a stream to its end.
    async fn converse(
        mut self,
        PeerIdentity { identity, not_after }: PeerIdentity,
        mut messages: impl Stream<Item = Result<RegisterRequest, Status>> + Unpin,
        answers: mpsc::Sender<Result<RegisterResponse, Status>>,
    ) {
        let stream = self.streams.fetch_add(1, Ordering::Relaxed);
        let mut said = RegisterRequest::default();
        let mut registered: Option<WorkloadKey> = None;
        let mut meter = Meter::default();
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
                Some(Ok(_)) if !meter.admit(MESSAGES, Instant::now()) => {
                    Err(self.full("rate-limit", &identity, "says too much"))
                }
                Some(Ok(message)) if registered.as_ref().is_some_and(|key| !names(&message, key)) => {
                    Err(Status::invalid_argument("the instance changed on the stream"))
                }
                Some(message) => message,
            };
            match message {
                Ok(message) => said = merge(said, message),
                Err(status) => {
                    // Nobody may be left to read it.
                    let _ = answers.send(Err(status)).await;
                    break;
                }
            }
            let Some(answer) = self.registrar.hear(identity.clone(), stream, said.clone()).await else {
                break;
            };
            let outcome = match answer {
                Ok(Ok(key)) => {
                    let outcome = self.accepted(&key, said.drain).await;
                    registered = Some(key);
                    Ok(outcome)
                }
                // Nothing of it is in discovery that could leave.
                Ok(Err(_)) if said.drain && registered.is_none() => Ok(Outcome::Drained(Drained {})),
                Ok(Err(refusals)) => Ok(Outcome::Refused(Refused {
                    ports: refusals
                        .into_iter()
                        .map(|refusal| RefusedPort {
                            port: u32::try_from(refusal.port).unwrap_or(u32::MAX),
                            reason: refusal.text,
                        })
                        .collect(),
                })),
                Err(Unanswered::Malformed(malformed)) => Err(Status::invalid_argument(malformed.to_string())),
                Err(Unanswered::NotKept) => Err(Status::unavailable(
                    "the state cannot be written now; the control plane's log says why",
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

    /// The refusal of a caller that asks for more than its share.
    fn full(&self, reason: &'static str, identity: &SpiffeId, does: &str) -> Status {
        self.metrics.registration_refused(reason);
        tracing::warn!(reason, %identity, "registration refused");
        Status::resource_exhausted(format!("{identity} {does}: try again later"))
    }

    /// The answer to what was registered; for one that drains, once no new answer of discovery sends it requests.
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
        // An error means that the control plane is ending, and serves nobody any more.
        let _ = self.mesh.wait_for(left).await;
        Outcome::Drained(Drained {})
    }
}

/// Whether a message is about this workload: a stream speaks for one.
fn names(message: &RegisterRequest, key: &WorkloadKey) -> bool {
    message.workload.as_ref().is_none_or(|workload| *workload.instance == *key.instance)
}

/// What a workload says once a message is added to what it said. Draining is for good.
fn merge(said: RegisterRequest, message: RegisterRequest) -> RegisterRequest {
    let RegisterRequest { workload, health, drain } = message;
    let unspecified = health == i32::from(Health::Unspecified as u8);
    RegisterRequest {
        workload: workload.or(said.workload),
        health: if unspecified { said.health } else { health },
        drain: drain || said.drain,
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
        if !self.limits.openings.admit(identity, Instant::now()) {
            return Err(self.full("rate-limit", identity, "opens streams too fast"));
        }
        let place = self.limits.streams.take(identity);
        let place = place.ok_or_else(|| self.full("identity-limit", identity, "has too many streams"))?;
        let (answers, outgoing) = mpsc::channel(4);
        let conversation = self.clone().converse(peer, request.into_inner(), answers);
        tokio::spawn(async move {
            conversation.await;
            drop(place);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}
