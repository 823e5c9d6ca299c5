//! A proxy on node 1, outside of any pod, with a token of its own choice, and connections to the control plane in its place.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use outrigger_proto::istio_auth::IstioCertificateRequest;
use outrigger_proto::istio_auth::istio_certificate_service_client::IstioCertificateServiceClient;
use outrigger_test_support::tls;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Request;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::cluster::{attempt, on_the_node};
use crate::namespace::Namespace;

/// Returns a token of the account `default`: for `audience`, bound to `pod` if it is not empty.
pub(crate) fn token(namespace: &Namespace, pod: &str, audience: &str) -> String {
    let (audience, name) = (format!("--audience={audience}"), format!("--bound-object-name={pod}"));
    let mut args = vec!["create", "token", "default", &audience];
    let uid;
    if !pod.is_empty() {
        uid = format!(
            "--bound-object-uid={}",
            namespace.kubectl(&["get", "pod", pod, "-o", "jsonpath={.metadata.uid}"])
        );
        args.extend(["--bound-object-kind=Pod", &name, &uid]);
    }
    namespace.kubectl(&args)
}

/// Runs a proxy until its log `$1` has the text `$2` or a certificate, for half a minute at most, and prints the log.
const SCRIPT: &str = r#"
    log=$1 until=$2
    "${@:3}" >"$log" 2>&1 & proxy=$!
    for _ in {1..150}; do
        grep -qFe "$until" -e 'certificate issued' "$log" && break
        sleep 0.2
    done
    kill -KILL $proxy
    cat "$log"
"#;

/// The files of the proxy.
pub(crate) struct Outsider {
    folder: tempfile::TempDir,
    /// The address of the control plane.
    pub(crate) control_plane: SocketAddr,
}

impl Outsider {
    pub(crate) fn new(token: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let read = |what: &[&str]| attempt(&[&["-n", "outrigger-system", "get"], what].concat()).unwrap();
        let address = read(&["service", "outrigger-control-plane", "-o", "jsonpath={.spec.clusterIP}"]);
        let control_plane = format!("{address}:15010").parse().unwrap();
        let outsider = Self { folder, control_plane };
        let roots = read(&["configmap", "outrigger-trust-roots", "-o", "jsonpath={.data.roots\\.pem}"]);
        std::fs::write(outsider.path("roots.pem"), roots).unwrap();
        std::fs::write(outsider.path("token"), token).unwrap();
        outsider
    }

    /// Returns the path of a file: `roots.pem`, and once it has a certificate, `identity.pem` and `identity.key`.
    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Runs the proxy until it has a certificate or its log has a text, and returns the log. Proxies with different numbers may run at the
    /// same time.
    pub(crate) fn run(&self, number: u8, until: &str) -> String {
        let [roots, token, state, log] = ["roots.pem", "token", "", "log"].map(|name| self.path(name));
        let [admin, outbound] = [15000, 15001].map(|port| format!("127.1.0.{number}:{port}"));
        let proxy = [
            &["bash", "-c", SCRIPT, "proxy", &log, until, env!("CARGO_BIN_EXE_outrigger"), "proxy"][..],
            &["--control-plane", &self.control_plane.to_string(), "--control-plane-ca", &roots],
            &["--token-file", &token, "--state-dir", &state, "--instance", "outsider"],
            &["--admin", &admin, "--outbound", &outbound],
        ];
        on_the_node(&proxy.concat()).unwrap()
    }

    /// Connects to the control plane, with the certificate of the proxy if it has one. To be called in the network of the node.
    pub(crate) async fn connect(&self) -> Channel {
        let certificates = |file: &str| {
            let certificates = CertificateDer::pem_file_iter(self.path(file)).unwrap();
            certificates.map(|certificate| certificate.unwrap()).collect::<Vec<_>>()
        };
        let mut roots = RootCertStore::empty();
        certificates("roots.pem").into_iter().for_each(|root| roots.add(root).unwrap());
        let certificate = Path::new(&self.path("identity.pem")).exists().then(|| {
            let key = PrivateKeyDer::from_pem_file(self.path("identity.key")).unwrap();
            Arc::new(CertifiedKey::new(certificates("identity.pem"), any_supported_type(&key).unwrap()))
        });
        let tls = tls::connector(Some(roots), certificate, &["h2"]);
        let connector = Connector { address: self.control_plane, tls };
        Endpoint::from_static("http://control-plane").connect_with_connector(connector).await.unwrap()
    }

    /// Requests a certificate for an identity, and returns the refusal. To be called in the network of the node.
    pub(crate) async fn refusal_of(&self, identity: &str) -> String {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(identity.try_into().unwrap())];
        let csr = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        let mut request = Request::new(IstioCertificateRequest { csr, ..IstioCertificateRequest::default() });
        let token = std::fs::read_to_string(self.path("token")).unwrap();
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let mut client = IstioCertificateServiceClient::new(self.connect().await);
        client.create_certificate(request).await.unwrap_err().message().to_owned()
    }
}

/// Connects to one address, whatever the URI is.
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
            Ok(TokioIo::new(tls.connect(ServerName::IpAddress(address.ip().into()), stream).await?))
        })
    }
}
