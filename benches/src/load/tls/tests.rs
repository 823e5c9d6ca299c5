use std::net::SocketAddr;

use clap::Parser;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::super::args::LoadArgs;
use super::super::engine::start;
use super::super::measurement::Measurement;
use super::*;
use crate::backend::{self, Service};

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    args: LoadArgs,
}

/// A directory with a CA (`ca`) and a certificate for `name` with its key (`cert`, `key`).
struct Files(tempfile::TempDir);

impl Files {
    fn new(name: &str) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        for (file, text) in [("ca", issuer.pem()), ("cert", leaf.pem()), ("key", key.serialize_pem())] {
            std::fs::write(files.path(file), text).unwrap();
        }
        files
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// A server's configuration that asks clients for a certificate of the same CA.
    fn server(&self, alpn: &str) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificates(&self.path("ca")).unwrap().remove(0)).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(
                certificates(&self.path("cert")).unwrap(),
                PrivateKeyDer::from_pem_file(self.path("key")).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        config
    }
}

/// Accepts TLS and relays what is in it to a backend.
async fn terminator(config: ServerConfig, service: Service) -> SocketAddr {
    let behind = backend::start(service).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                let mut backend = TcpStream::connect(behind).await?;
                tokio::io::copy_bidirectional(&mut stream, &mut backend).await
            });
        }
    });
    address
}

fn load(line: &str) -> Result<Measurement, String> {
    let line = format!("load {line} -n 10 -c 2 --warm-up 0s");
    start(Cli::try_parse_from(line.split_whitespace()).unwrap().args.spec()?)?.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_verified_and_clients_have_certificates() {
    let files = Files::new("localhost");
    let [ca, cert, key] = ["ca", "cert", "key"].map(|file| files.path(file).display().to_string());
    let client = format!("--cert {cert} --key {key}");
    let service = Service::Http2 { size: 5, trailers: false };
    let address = terminator(files.server("h2"), service).await;
    let url = format!("https://{address}/ --http2");

    let measured = load(&format!("{url} --ca-cert {ca} --server-name localhost {client}")).unwrap();
    assert_eq!((measured.tally.answered, measured.tally.failed()), (10, 0));
    assert_eq!(load(&format!("{url} --insecure {client}")).unwrap().tally.answered, 10);

    let unnamed = load(&format!("{url} --ca-cert {ca} {client}")).unwrap_err();
    assert!(unnamed.contains("TLS handshake: ") && unnamed.contains("127.0.0.1"), "{unnamed}");
    let stranger = Files::new("localhost").path("ca").display().to_string();
    assert!(load(&format!("{url} --ca-cert {stranger} --server-name localhost {client}")).is_err());
    // TLS 1.3 tells a client of its missing certificate with the first bytes that it reads.
    let without = load(&format!("{url} --insecure"));
    assert!(without.is_err() || without.unwrap().tally.answered == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn http1_over_tls_is_counted_and_http2_needs_alpn() {
    let files = Files::new("localhost");
    let [ca, cert, key] = ["ca", "cert", "key"].map(|file| files.path(file).display().to_string());
    let flags = format!("--ca-cert {ca} --server-name localhost --cert {cert} --key {key}");
    let address = terminator(files.server("http/1.1"), Service::Http1 { size: 70_000 }).await;
    let measured = load(&format!("https://{address}/ --expect-size 70000 {flags}")).unwrap();
    assert_eq!((measured.tally.answered, measured.tally.failed()), (10, 0));
    let measured = load(&format!("https://{address}/ --connection-per-request {flags}")).unwrap();
    assert_eq!((measured.tally.answered, measured.connections), (10, 10));
    let error = load(&format!("https://{address}/ --http2 {flags}")).unwrap_err();
    assert!(error.contains("TLS handshake"), "{error}");
}
