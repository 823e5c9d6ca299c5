//! Clients of the control plane: one that joins, registers and renews its certificate, and one of the whole mesh.

use outrigger_proto::istio_auth::IstioCertificateRequest;
use outrigger_proto::istio_auth::istio_certificate_service_client::IstioCertificateServiceClient;
use outrigger_proto::registration::register_response::Outcome;
use outrigger_proto::registration::registration_client::RegistrationClient;
use outrigger_proto::registration::{Address, Port, RegisterRequest, RegisterResponse, Workload};
use outrigger_proto::xds::core::Node;
use outrigger_proto::xds::discovery::DeltaDiscoveryRequest;
use outrigger_proto::xds::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outrigger_proto::xds::protobuf::{Struct, Value, value};
use outrigger_proto::xds::type_url::{CLUSTER, CLUSTER_LOAD_ASSIGNMENT, LISTENER, ROUTE_CONFIGURATION};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Streaming};

use crate::connection::{ControlPlane, Credential};
use crate::mesh::Mesh;

/// Gets a certificate of the mesh with a join token.
pub(crate) async fn join(mesh: &Mesh<'_>) -> Result<Credential, String> {
    let token = std::fs::read_to_string(mesh.token("server")?).map_err(text)?;
    let key = KeyPair::generate().map_err(text)?;
    let mut request = Request::new(signing_request(&key)?);
    let bearer = format!("Bearer {}", token.trim()).parse().map_err(text)?;
    request.metadata_mut().insert("authorization", bearer);
    let mut authority = IstioCertificateServiceClient::new(connect(mesh, None).await?);
    let answer = authority.create_certificate(request).await.map_err(text)?.into_inner();
    let read = |pem: &String| CertificateDer::from_pem_slice(pem.as_bytes()).map_err(text);
    let chain = answer.cert_chain.iter().map(read).collect::<Result<_, _>>()?;
    Ok(Credential { chain, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() })
}

fn signing_request(key: &KeyPair) -> Result<IstioCertificateRequest, String> {
    let csr = CertificateParams::default().serialize_request(key).and_then(|csr| csr.pem()).map_err(text)?;
    Ok(IstioCertificateRequest { csr, ..Default::default() })
}

/// Opens a connection to the control plane, with a client certificate if there is one.
pub(crate) async fn connect(mesh: &Mesh<'_>, client: Option<&Credential>) -> Result<Channel, String> {
    let roots = mesh.directory.join("control-plane/roots.pem");
    ControlPlane::new(mesh.listen, &roots)?.connect(None, client).await
}

/// A registered workload.
pub(crate) struct Registered {
    requests: mpsc::Sender<RegisterRequest>,
    answers: Streaming<RegisterResponse>,
}

impl Registered {
    /// Registers an instance of the first service and waits until it is accepted.
    pub(crate) async fn open(channel: Channel, number: usize) -> Result<Self, String> {
        let (requests, stream) = mpsc::channel(1);
        let address = |port| Some(Address { ip: "127.0.0.1".into(), port });
        let port = Port {
            services: vec!["s0".into()],
            service_port: 80,
            advertised: address(20_000 + number as u32),
            application: address(8080),
            ..Default::default()
        };
        let instance = format!("probe-{number}");
        let workload = Some(Workload { instance, ports: vec![port], ..Default::default() });
        requests.send(RegisterRequest { workload, ..Default::default() }).await.map_err(text)?;
        let answers = RegistrationClient::new(channel).register(ReceiverStream::new(stream)).await;
        let mut registered = Self { requests, answers: answers.map_err(text)?.into_inner() };
        registered.accepted().await?;
        Ok(registered)
    }

    /// Sends a heartbeat and waits for its response.
    pub(crate) async fn heartbeat(&mut self) -> Result<(), String> {
        self.requests.send(RegisterRequest::default()).await.map_err(text)?;
        self.accepted().await
    }

    async fn accepted(&mut self) -> Result<(), String> {
        match self.answers.message().await.map_err(text)?.and_then(|answer| answer.outcome) {
            Some(Outcome::Accepted(_)) => Ok(()),
            other => Err(format!("not registered: {other:?}")),
        }
    }
}

/// Requests certificates, authenticated by the current one.
pub(crate) struct Renewals {
    authority: IstioCertificateServiceClient<Channel>,
    request: IstioCertificateRequest,
}

impl Renewals {
    pub(crate) fn open(channel: Channel) -> Result<Self, String> {
        let key = KeyPair::generate().map_err(text)?;
        Ok(Self { authority: IstioCertificateServiceClient::new(channel), request: signing_request(&key)? })
    }

    /// Requests one certificate.
    pub(crate) async fn renew(&mut self) -> Result<(), String> {
        self.authority.create_certificate(self.request.clone()).await.map(drop).map_err(text)
    }
}

/// Subscribes to the whole mesh as a sidecar in wildcard mode does. Returns when it has all resources of that many services.
pub(crate) async fn watch_everything(
    channel: Channel,
    instance: String,
    services: usize,
) -> Result<(), String> {
    let (requests, stream) = mpsc::channel(16);
    let mode = Value { kind: Some(value::Kind::StringValue("wildcard".into())) };
    let metadata = Some(Struct { fields: [("OUTRIGGER_MODE".into(), mode)].into() });
    let node =
        Some(Node { id: instance, user_agent_name: "outrigger".into(), metadata, ..Default::default() });
    let ask = |type_url: &str, names: Vec<String>, nonce: String| DeltaDiscoveryRequest {
        type_url: type_url.into(),
        resource_names_subscribe: names,
        response_nonce: nonce,
        ..Default::default()
    };
    let first = DeltaDiscoveryRequest { node, ..ask(CLUSTER, vec!["*".into()], String::new()) };
    requests.send(first).await.map_err(text)?;
    requests.send(ask(LISTENER, vec!["*".into()], String::new())).await.map_err(text)?;
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let answers = client.delta_aggregated_resources(ReceiverStream::new(stream)).await;
    let mut answers = answers.map_err(text)?.into_inner();
    let (mut assignments, mut routes) = (0, 0);
    while assignments < services || routes < services {
        let answer = answers.message().await.map_err(text)?.ok_or("the stream ended")?;
        let names = answer.resources.iter().map(|resource| resource.name.clone());
        // A cluster refers to endpoints of its name, a listener to routes of its name.
        let further = match answer.type_url.as_str() {
            CLUSTER => Some(ask(CLUSTER_LOAD_ASSIGNMENT, names.collect(), String::new())),
            LISTENER => Some(ask(ROUTE_CONFIGURATION, names.collect(), String::new())),
            CLUSTER_LOAD_ASSIGNMENT => {
                assignments += answer.resources.len();
                None
            }
            _ => {
                routes += answer.resources.len();
                None
            }
        };
        let ack = ask(&answer.type_url, Vec::new(), answer.nonce);
        for request in further.into_iter().chain([ack]) {
            requests.send(request).await.map_err(text)?;
        }
    }
    Ok(())
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
