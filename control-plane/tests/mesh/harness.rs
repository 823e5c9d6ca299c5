//! A whole control plane in process, in a directory of its own, and what a workload needs to reach it over real TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use outrigger_control_plane::admin_client::{AdminAddress, ask};
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
use outrigger_proto::xds::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outrigger_proto::xds::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use outrigger_proto::xds::type_url::LISTENER;
use rcgen::{CertificateParams, KeyPair};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status as Refusal, Streaming};

use super::connection::Connector;

pub(crate) const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
pub(crate) const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {ports: [{port: 80}]}
";

/// A mesh in a directory of its own, whose control plane can be killed and started again.
pub(crate) struct Mesh {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) control_plane: ControlPlane,
}

impl Mesh {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("config")).unwrap();
        std::fs::write(directory.path().join("config/shop.yaml"), SHOP).unwrap();
        let control_plane = ControlPlane::start(settings(directory.path())).await.unwrap();
        Self { directory, control_plane }
    }

    pub(crate) async fn restart(self) -> Self {
        self.restart_after(|_| {}).await
    }

    /// Ends the control plane, changes its state directory, and starts it again.
    pub(crate) async fn restart_after(self, change: impl FnOnce(&Path)) -> Self {
        let Self { directory, control_plane } = self;
        control_plane.shut_down().await;
        change(&directory.path().join("state"));
        let control_plane = ControlPlane::start(settings(directory.path())).await.unwrap();
        Self { directory, control_plane }
    }

    pub(crate) fn state(&self) -> std::path::PathBuf {
        self.directory.path().join("state")
    }

    pub(crate) async fn token(&self) -> String {
        let request =
            TokenRequest { namespace: "shop".into(), service_account: "cart".into(), ttl_seconds: 60 };
        token::create(&self.state(), &request).await.unwrap()
    }

    pub(crate) async fn status(&self) -> Status {
        status::fetch(&AdminAddress::Tcp(self.control_plane.admin())).await.unwrap()
    }

    /// The page of metrics.
    pub(crate) async fn metrics(&self) -> String {
        let page = ask(&AdminAddress::Tcp(self.control_plane.admin()), "/metrics", None).await.unwrap();
        String::from_utf8(page.to_vec()).unwrap()
    }

    /// A connection that verifies the control plane, with a client certificate or without.
    pub(crate) async fn connect(
        &self,
        client: Option<&Identity>,
    ) -> Result<Channel, tonic::transport::Error> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(self.state().join("roots.pem")).unwrap() {
            roots.add(root.unwrap()).unwrap();
        }
        let certificate = client.map(|Identity { chain, key }| {
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
            Arc::new(CertifiedKey::new(chain.clone(), any_supported_type(&key).unwrap()))
        });
        let tls = outrigger_test_support::tls::connector(Some(roots), certificate, &["h2"]);
        let connector = Connector { address: self.control_plane.listen(), tls };
        Endpoint::from_static("http://control-plane").connect_with_connector(connector).await
    }

    pub(crate) async fn certificate(
        &self,
        client: Option<&Identity>,
        token: Option<&str>,
        key: &KeyPair,
    ) -> Result<Vec<CertificateDer<'static>>, Refusal> {
        let channel = self.connect(client).await.unwrap();
        self.certificate_for(channel, token, key, 0).await
    }

    /// Requests a certificate with a lifetime of `validity_duration` seconds; 0 is the CA's default.
    pub(crate) async fn certificate_for(
        &self,
        channel: Channel,
        token: Option<&str>,
        key: &KeyPair,
        validity_duration: i64,
    ) -> Result<Vec<CertificateDer<'static>>, Refusal> {
        let csr = CertificateParams::default().serialize_request(key).unwrap().pem().unwrap();
        let mut request =
            Request::new(IstioCertificateRequest { csr, validity_duration, ..Default::default() });
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let answer = IstioCertificateServiceClient::new(channel).create_certificate(request).await?;
        let chain = answer.into_inner().cert_chain;
        Ok(chain.iter().map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).collect())
    }

    pub(crate) async fn join(&self) -> Identity {
        self.join_for(0).await
    }

    pub(crate) async fn join_for(&self, seconds: i64) -> Identity {
        let key = KeyPair::generate().unwrap();
        let (anonymous, token) = (self.connect(None).await.unwrap(), self.token().await);
        let chain = self.certificate_for(anonymous, Some(&token), &key, seconds).await.unwrap();
        Identity { chain, key }
    }
}

pub(crate) fn settings(directory: &Path) -> Settings {
    let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Settings::new(directory.join("config"), directory.join("state"), free, free, "cluster.local").unwrap()
}

pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: KeyPair,
}

/// One registration stream.
pub(crate) struct Registered {
    pub(crate) say: mpsc::Sender<RegisterRequest>,
    pub(crate) answers: Streaming<RegisterResponse>,
}

impl Registered {
    pub(crate) async fn open(mesh: &Mesh, identity: &Identity) -> Self {
        let channel = mesh.connect(Some(identity)).await.unwrap();
        Self::open_on(channel).await
    }

    pub(crate) async fn open_on(channel: Channel) -> Self {
        let (say, messages) = mpsc::channel(4);
        let answers = RegistrationClient::new(channel).register(ReceiverStream::new(messages)).await;
        Self { say, answers: answers.unwrap().into_inner() }
    }

    pub(crate) async fn say(&mut self, request: RegisterRequest) -> Outcome {
        self.say.send(request).await.unwrap();
        self.answers.message().await.unwrap().unwrap().outcome.unwrap()
    }
}

pub(crate) fn serving(service: &str) -> RegisterRequest {
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

/// Subscribes to listeners, and keeps the stream open.
pub(crate) async fn subscribe(
    channel: Channel,
    names: &[&str],
) -> Result<Streaming<DeltaDiscoveryResponse>, Refusal> {
    let request = DeltaDiscoveryRequest {
        node: Some(Node { id: "cart-1".into(), ..Default::default() }),
        type_url: LISTENER.into(),
        resource_names_subscribe: names.iter().map(|name| (*name).into()).collect(),
        ..Default::default()
    };
    let stream = tokio_stream::iter([request]).chain(tokio_stream::pending());
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    Ok(client.delta_aggregated_resources(stream).await?.into_inner())
}
