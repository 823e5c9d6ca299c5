//! Test support: a certificate authority, and an in-memory control plane that speaks gRPC over TLS.
//!
//! No socket is opened, so that tests can pause the clock: a paused runtime then waits only for timers.

mod ca;
pub(crate) mod xds;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use outrigger_core::identity::SpiffeId;
use outrigger_proto::istio_auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use outrigger_proto::istio_auth::{IstioCertificateRequest, IstioCertificateResponse};
use outrigger_proto::registration::registration_server::{Registration, RegistrationServer};
use outrigger_proto::registration::{RegisterRequest, RegisterResponse};
use outrigger_proto::xds::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use outrigger_proto::xds::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::{Request, Response, Status, Streaming};

use crate::clock::Clock;
use crate::control_plane::channel::ControlPlane;
use crate::registration::WorkloadPort;

use ca::Connection;
pub(crate) use ca::{CONTROL_PLANE, Ca, credential};

/// Serves on in-memory connections until the returned control plane is dropped.
fn serve(ca: &Ca, services: Services) -> ControlPlane {
    let (accept, mut accepted) = mpsc::unbounded_channel::<DuplexStream>();
    let acceptor = ca.acceptor();
    let (connections, incoming) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(stream) = accepted.recv().await {
            let (acceptor, connections) = (acceptor.clone(), connections.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let _ = connections.send(Ok::<_, Infallible>(Connection(stream)));
                }
            });
        }
    });
    let incoming = UnboundedReceiverStream::new(incoming);
    tokio::spawn(async move {
        tonic::transport::Server::builder().serve_with_incoming(services, incoming).await.unwrap();
    });
    ControlPlane::in_memory(ca.roots_file().to_owned(), accept)
}

/// Relays TCP connections to an in-memory control plane. Aborting the task breaks all of them.
pub(crate) fn relay(listener: TcpListener, to: &ControlPlane) -> JoinHandle<()> {
    let to = to.clone();
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut outside, _)) = listener.accept().await {
            let (mut inside, theirs) = tokio::io::duplex(64 * 1024);
            to.hand_over(theirs);
            connections.spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    })
}

/// A port of the workload behind the Service `cart`.
pub(crate) fn port() -> WorkloadPort {
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

/// Returns the verified identity of a request's connection.
fn caller<T>(request: &Request<T>) -> Option<SpiffeId> {
    request.extensions().get::<Option<SpiffeId>>().cloned().flatten()
}

/// A bidirectional RPC: the client's messages, and a sender for responses.
pub(crate) struct Call<Req, Resp> {
    pub(crate) caller: Option<SpiffeId>,
    pub(crate) requests: Streaming<Req>,
    pub(crate) responses: mpsc::UnboundedSender<Result<Resp, Status>>,
}

/// An ADS stream, played by the test.
pub(crate) type AdsCall = Call<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;
/// A registration, played by the test.
pub(crate) type RegistrationCall = Call<RegisterRequest, RegisterResponse>;

/// How a certificate was requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    Token(String),
    Certificate(SpiffeId),
}

/// The certificate service's state.
pub(crate) struct Issuance {
    pub(crate) identity: &'static str,
    pub(crate) token: &'static str,
    pub(crate) lifetime: Duration,
    /// While set, every request fails with this status.
    pub(crate) outage: Option<Status>,
    pub(crate) issued: Vec<Proof>,
    pub(crate) refused: u32,
}

/// The server ends of a fake control plane's streams, controlled by the test.
pub(crate) struct FakeControlPlane {
    pub(crate) control_plane: ControlPlane,
    pub(crate) issuance: Arc<Mutex<Issuance>>,
    pub(crate) ads: mpsc::UnboundedReceiver<AdsCall>,
    pub(crate) registrations: mpsc::UnboundedReceiver<RegistrationCall>,
}

/// A control plane that issues certificates and leaves the streams to the test.
#[derive(Clone)]
struct FakeServices {
    ca: Arc<Ca>,
    clock: Clock,
    issuance: Arc<Mutex<Issuance>>,
    ads: mpsc::UnboundedSender<AdsCall>,
    registrations: mpsc::UnboundedSender<RegistrationCall>,
}

/// Starts a fake control plane. It issues certificates for `shop/cart`, by the token `good`.
pub(crate) fn fake_control_plane(ca: &Arc<Ca>, clock: Clock) -> FakeControlPlane {
    let issuance = Arc::new(Mutex::new(Issuance {
        identity: "spiffe://cluster.local/ns/shop/sa/cart",
        token: "good",
        lifetime: Duration::from_secs(30),
        outage: None,
        issued: Vec::new(),
        refused: 0,
    }));
    let (ads, ads_calls) = mpsc::unbounded_channel();
    let (registrations, registration_calls) = mpsc::unbounded_channel();
    let fake =
        FakeServices { ca: Arc::clone(ca), clock, issuance: Arc::clone(&issuance), ads, registrations };
    let services = Services {
        certificates: IstioCertificateServiceServer::new(fake.clone()),
        discovery: AggregatedDiscoveryServiceServer::new(fake.clone()),
        registration: RegistrationServer::new(fake),
    };
    FakeControlPlane {
        control_plane: serve(ca, services),
        issuance,
        ads: ads_calls,
        registrations: registration_calls,
    }
}

#[tonic::async_trait]
impl IstioCertificateService for FakeServices {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let mut issuance = self.issuance.lock().unwrap();
        if let Some(status) = issuance.outage.clone() {
            issuance.refused += 1;
            return Err(status);
        }
        let bearer = request.metadata().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        let proof = match (caller(&request), bearer) {
            (Some(identity), None) => Proof::Certificate(identity),
            (None, Some(bearer)) if bearer == format!("Bearer {}", issuance.token) => {
                Proof::Token(issuance.token.into())
            }
            _ => {
                issuance.refused += 1;
                return Err(Status::unauthenticated("neither token nor certificate"));
            }
        };
        issuance.issued.push(proof);
        let chain =
            self.ca.issue_at(&request.get_ref().csr, issuance.identity, self.clock.now(), issuance.lifetime);
        Ok(Response::new(IstioCertificateResponse { cert_chain: vec![chain] }))
    }
}

type Responses<T> = UnboundedReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for FakeServices {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("state of the world"))
    }

    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;
    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        accept_stream(&self.ads, request)
    }
}

#[tonic::async_trait]
impl Registration for FakeServices {
    type RegisterStream = Responses<RegisterResponse>;
    async fn register(
        &self,
        request: Request<Streaming<RegisterRequest>>,
    ) -> Result<Response<Self::RegisterStream>, Status> {
        accept_stream(&self.registrations, request)
    }
}

fn accept_stream<Req, Resp>(
    fake: &mpsc::UnboundedSender<Call<Req, Resp>>,
    request: Request<Streaming<Req>>,
) -> Result<Response<Responses<Resp>>, Status> {
    let (responses, stream) = mpsc::unbounded_channel();
    let call = Call { caller: caller(&request), requests: request.into_inner(), responses };
    fake.send(call).map_err(|_| Status::unavailable("the test is over"))?;
    Ok(Response::new(UnboundedReceiverStream::new(stream)))
}

/// Dispatches to the fake's services by path, on one connection.
#[derive(Clone)]
pub(crate) struct Services {
    certificates: IstioCertificateServiceServer<FakeServices>,
    discovery: AggregatedDiscoveryServiceServer<FakeServices>,
    registration: RegistrationServer<FakeServices>,
}

impl Service<http::Request<Body>> for Services {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if path.starts_with("/istio.") {
            Box::pin(self.certificates.call(request))
        } else if path.starts_with("/envoy.") {
            Box::pin(self.discovery.call(request))
        } else {
            Box::pin(self.registration.call(request))
        }
    }
}
