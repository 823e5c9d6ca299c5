//! A whole control plane in process, and workloads that reach it over real TLS.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use outrigger_control_plane::admin_client::AdminAddress;
use outrigger_control_plane::ca::certificate::LeafCertificate;
use outrigger_control_plane::history;
use outrigger_control_plane::run::control_plane::ControlPlane;
use outrigger_control_plane::run::settings::Settings;
use outrigger_control_plane::status::{self, Status};
use outrigger_control_plane::token::{self, TokenRequest};
use outrigger_proto::istio_auth::IstioCertificateRequest;
use outrigger_proto::istio_auth::istio_certificate_service_client::IstioCertificateServiceClient;
use outrigger_proto::registration::register_response::Outcome;
use outrigger_proto::registration::registration_client::RegistrationClient;
use outrigger_proto::registration::{Address, Port, RegisterRequest, RegisterResponse, Workload};
use outrigger_proto::xds::core::Node;
use outrigger_proto::xds::discovery::DeltaDiscoveryRequest;
use outrigger_proto::xds::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outrigger_proto::xds::type_url::LISTENER;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status as Refusal, Streaming};

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {ports: [{port: 80}]}
";

/// A mesh in a directory of its own, whose control plane can be killed and started again.
struct Mesh {
    directory: tempfile::TempDir,
    control_plane: ControlPlane,
}

impl Mesh {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("config")).unwrap();
        std::fs::write(directory.path().join("config/shop.yaml"), SHOP).unwrap();
        let control_plane = ControlPlane::start(settings(directory.path())).await.unwrap();
        Self { directory, control_plane }
    }

    async fn restart(self) -> Self {
        let Self { directory, control_plane } = self;
        control_plane.shut_down().await;
        let control_plane = ControlPlane::start(settings(directory.path())).await.unwrap();
        Self { directory, control_plane }
    }

    fn state(&self) -> std::path::PathBuf {
        self.directory.path().join("state")
    }

    async fn token(&self) -> String {
        let request =
            TokenRequest { namespace: "shop".into(), service_account: "cart".into(), ttl_seconds: 60 };
        token::create(&self.state(), &request).await.unwrap()
    }

    async fn status(&self) -> Status {
        status::fetch(&AdminAddress::Tcp(self.control_plane.admin())).await.unwrap()
    }

    /// A connection that verifies the control plane, with a client certificate or without.
    async fn connect(&self, client: Option<&Identity>) -> Result<Channel, tonic::transport::Error> {
        let roots = std::fs::read(self.state().join("roots.pem")).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = ControlPlaneVerifier::new(&roots, Arc::clone(&provider));
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match client {
            None => config.with_no_client_auth(),
            Some(Identity { chain, key }) => {
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
                config.with_client_auth_cert(chain.clone(), key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tls = TlsConnector::from(Arc::new(config));
        let connector = Connector { address: self.control_plane.listen(), tls };
        Endpoint::from_static("http://control-plane").connect_with_connector(connector).await
    }

    async fn certificate(
        &self,
        client: Option<&Identity>,
        token: Option<&str>,
        key: &KeyPair,
    ) -> Result<Vec<CertificateDer<'static>>, Refusal> {
        let channel = self.connect(client).await.unwrap();
        let csr = CertificateParams::default().serialize_request(key).unwrap().pem().unwrap();
        let mut request = Request::new(IstioCertificateRequest { csr, ..Default::default() });
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let answer = IstioCertificateServiceClient::new(channel).create_certificate(request).await?;
        let chain = answer.into_inner().cert_chain;
        Ok(chain.iter().map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).collect())
    }

    async fn join(&self) -> Identity {
        let key = KeyPair::generate().unwrap();
        let chain = self.certificate(None, Some(&self.token().await), &key).await.unwrap();
        Identity { chain, key }
    }
}

fn settings(directory: &Path) -> Settings {
    let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Settings::new(directory.join("config"), directory.join("state"), free, free, "cluster.local").unwrap()
}

struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

#[tokio::test]
async fn a_workload_joins_with_a_token_and_renews_with_its_certificate() {
    let mesh = Mesh::start().await;
    let joined = mesh.join().await;
    assert_eq!(LeafCertificate::read(&joined.chain[0]).unwrap().identity.as_str(), CART);
    let mesh = mesh.restart().await;
    let new_key = KeyPair::generate().unwrap();
    let renewed = mesh.certificate(Some(&joined), None, &new_key).await.unwrap();
    assert_eq!(LeafCertificate::read(&renewed[0]).unwrap().identity.as_str(), CART);
    assert_eq!(renewed.last(), joined.chain.last(), "the root survived the restart");
    assert_eq!(mesh.status().await.certificates_issued, 1);
}

#[tokio::test]
async fn strangers_get_nothing() {
    let mesh = Mesh::start().await;
    let key = KeyPair::generate().unwrap();
    let refused = mesh.certificate(None, None, &key).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    let other_mesh = Mesh::start().await;
    let foreign = other_mesh.join().await;
    let refused = mesh.certificate(None, Some(&other_mesh.token().await), &key).await.unwrap_err();
    assert!(refused.message().contains("unknown") || refused.message().contains("another"), "{refused}");
    // TLS 1.3: the client learns only with its first read that its certificate was refused.
    let with_foreign_certificate = async {
        let channel = mesh.connect(Some(&foreign)).await.map_err(|error| error.to_string())?;
        let request = Request::new(IstioCertificateRequest::default());
        let answer = IstioCertificateServiceClient::new(channel).create_certificate(request).await;
        answer.map_err(|status| format!("{:?}", status.code()))
    };
    let refused = with_foreign_certificate.await.unwrap_err();
    assert_ne!(refused, "InvalidArgument", "the request reached the CA");
    let nobody = mesh.connect(None).await.unwrap();
    let refused = RegistrationClient::new(nobody).register(tokio_stream::empty()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_eq!(mesh.status().await.certificates_issued, 0);
}

#[tokio::test]
async fn discovery_answers_those_with_a_certificate() {
    let mesh = Mesh::start().await;
    let joined = mesh.join().await;
    let subscribe = || DeltaDiscoveryRequest {
        node: Some(Node { id: "cart-1".into(), ..Default::default() }),
        type_url: LISTENER.into(),
        resource_names_subscribe: vec!["cart:80".into()],
        ..Default::default()
    };
    let stream = || tokio_stream::iter([subscribe()]).chain(tokio_stream::pending());
    let nobody = AggregatedDiscoveryServiceClient::new(mesh.connect(None).await.unwrap());
    let refused = { nobody }.delta_aggregated_resources(stream()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let channel = mesh.connect(Some(&joined)).await.unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let mut answers = client.delta_aggregated_resources(stream()).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!(answer.resources[0].name, "cart:80");
    let proxies = mesh.status().await.proxies;
    assert_eq!((proxies[0].node.as_str(), proxies[0].identity.as_str()), ("cart-1", CART));
}

#[tokio::test]
async fn silent_and_senseless_callers_hold_nobody_up() {
    use tokio::io::AsyncWriteExt;
    let mesh = Mesh::start().await;
    let mut callers = Vec::new();
    for _ in 0..20 {
        let silent = TcpStream::connect(mesh.control_plane.listen()).await.unwrap();
        let mut senseless = TcpStream::connect(mesh.control_plane.listen()).await.unwrap();
        senseless.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        callers.push((silent, senseless));
    }
    mesh.join().await;
}

#[tokio::test]
async fn a_service_that_nobody_has_is_unimplemented() {
    let mesh = Mesh::start().await;
    let joined = mesh.join().await;
    let mut client = tonic::client::Grpc::new(mesh.connect(Some(&joined)).await.unwrap());
    client.ready().await.unwrap();
    let codec = tonic_codec();
    let path = http::uri::PathAndQuery::from_static("/unknown.v1.Service/Call");
    let refused = client.unary(Request::new(RegisterRequest::default()), path, codec).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}

fn tonic_codec() -> tonic_prost::ProstCodec<RegisterRequest, RegisterResponse> {
    tonic_prost::ProstCodec::default()
}

/// One registration stream.
struct Registered {
    say: mpsc::Sender<RegisterRequest>,
    answers: Streaming<RegisterResponse>,
}

impl Registered {
    async fn open(mesh: &Mesh, identity: &Identity) -> Self {
        let (say, messages) = mpsc::channel(4);
        let channel = mesh.connect(Some(identity)).await.unwrap();
        let answers = RegistrationClient::new(channel).register(ReceiverStream::new(messages)).await;
        Self { say, answers: answers.unwrap().into_inner() }
    }

    async fn say(&mut self, request: RegisterRequest) -> Outcome {
        self.say.send(request).await.unwrap();
        self.answers.message().await.unwrap().unwrap().outcome.unwrap()
    }
}

fn serving(service: &str) -> RegisterRequest {
    let address = |port| Some(Address { ip: "127.0.0.1".into(), port });
    let port = Port {
        services: vec![service.into()],
        service_port: 80,
        advertised: address(9000),
        application: address(8080),
        ..Default::default()
    };
    let workload = Workload { instance: "cart-1".into(), ports: vec![port], ..Default::default() };
    RegisterRequest { workload: Some(workload), ..Default::default() }
}

#[tokio::test]
async fn a_registration_outlives_its_stream_and_the_control_plane_and_ends_by_draining() {
    let mesh = Mesh::start().await;
    let joined = mesh.join().await;
    let mut stream = Registered::open(&mesh, &joined).await;
    let Outcome::Refused(refused) = stream.say(serving("nobody")).await else { panic!("not refused") };
    assert_eq!(refused.ports[0].reason, "there is no Service nobody.shop");
    let Outcome::Accepted(accepted) = stream.say(serving("cart")).await else { panic!("not accepted") };
    assert_eq!(accepted.lease.unwrap().seconds, 30);

    let mesh = mesh.restart().await;
    let known = &mesh.status().await.registrations;
    assert_eq!((known.len(), known[0].serves[0].as_str()), (1, "cart.shop:80 at 127.0.0.1:9000"));

    let mut stream = Registered::open(&mesh, &joined).await;
    assert!(matches!(stream.say(serving("cart")).await, Outcome::Accepted(_)));
    let drain = RegisterRequest { drain: true, ..Default::default() };
    assert!(matches!(stream.say(drain).await, Outcome::Drained(_)));
    assert_eq!(mesh.status().await.registrations[0].health, "draining");
    drop(stream);
    let gone = async {
        while !mesh.status().await.registrations.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("drained, and still there");
}

#[tokio::test]
async fn what_the_configuration_said_is_in_the_history_with_the_control_plane_and_without() {
    let mesh = Mesh::start().await;
    let state = mesh.state();
    let read = async {
        loop {
            let entries = history::read(&state, 10).await.unwrap();
            if !entries.is_empty() {
                return entries;
            }
        }
    };
    let entries = tokio::time::timeout(Duration::from_secs(10), read).await.unwrap();
    assert_eq!(entries[0].what, "Service shop/cart added");
    let Mesh { directory, control_plane } = mesh;
    control_plane.shut_down().await;
    assert_eq!(history::read(&directory.path().join("state"), 10).await.unwrap(), entries);
}

#[tokio::test]
async fn what_is_missing_at_start_is_said_in_one_line() {
    let mesh = Mesh::start().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let directory = elsewhere.path();
    std::fs::create_dir(directory.join("config")).unwrap();
    std::fs::write(directory.join("file"), "").unwrap();
    let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let taken = mesh.control_plane.listen();
    let with = |config: &str, state: &Path, listen, admin| {
        Settings::new(directory.join(config), state, listen, admin, "cluster.local").unwrap()
    };
    let state = directory.join("state");
    for (settings, says) in [
        (with("config", &state, taken, free), format!("cannot listen on {taken} (--listen)")),
        (with("config", &state, free, taken), format!("cannot listen on {taken} (--admin)")),
        (with("nowhere", &state, free, free), "nowhere".into()),
        (with("config", &directory.join("file"), free, free), "file".into()),
        (with("config", &mesh.state(), free, free), "in use by another process".into()),
    ] {
        let error = ControlPlane::start(settings).await.unwrap_err().to_string();
        assert!(error.contains(&says) && !error.contains('\n'), "{error:?} does not say {says:?}");
    }
}

/// Dials the control plane whatever the URI says.
struct Connector {
    address: SocketAddr,
    tls: TlsConnector,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let (address, tls) = (self.address, self.tls.clone());
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::IpAddress(address.ip().into());
            Ok(TokioIo::new(tls.connect(name, stream).await?))
        })
    }
}

/// What a proxy does: the chain by the roots, and the exact SPIFFE ID.
#[derive(Debug)]
struct ControlPlaneVerifier {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl ControlPlaneVerifier {
    fn new(pem: &[u8], provider: Arc<CryptoProvider>) -> Self {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(pem) {
            roots.add(root.unwrap()).unwrap();
        }
        Self { roots, provider }
    }
}

impl ServerCertVerifier for ControlPlaneVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        let identity = LeafCertificate::read(leaf).unwrap().identity;
        assert_eq!(identity.as_str(), "spiffe://cluster.local/ns/outrigger-system/sa/control-plane");
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
