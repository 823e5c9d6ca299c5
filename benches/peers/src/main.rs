//! A small proxy on pingora for `outrigger-benches compare`: one thread, routes by path prefix, a counter per route.
//!
//! `peer-pingora LISTEN DOWNSTREAM CONNECT UPSTREAM ROUTES CHAIN KEY ROOTS`, where DOWNSTREAM and UPSTREAM are `http1`, `h2c` or `mtls`
//! (HTTP/2 in mutual TLS). Arguments that it cannot use end it with a panic, which the comparison reports.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use pingora::apps::HttpServerOptions;
use pingora::listeners::tls::TlsSettings;
use pingora::prelude::{HttpPeer, ProxyHttp, Result, Server, Session};
use pingora::proxy::ProxyServiceBuilder;
use pingora::server::configuration::ServerConf;
use pingora::tls::pkey::PKey;
use pingora::tls::ssl::{SslVerifyMode, SslVersion};
use pingora::tls::x509::X509;
use pingora::upstreams::peer::ALPN;
use pingora::utils::tls::CertKey;
use pingora::{Error, ErrorType};

/// Concurrent streams of a connection to the other proxy or the application, as by default in HAProxy.
const STREAMS: usize = 100;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "--version") {
        println!("pingora {}", env!("PINGORA_VERSION"));
        return;
    }
    let [listen, downstream, connect, upstream, routes, chain, key, roots] = &args[..] else {
        panic!("LISTEN DOWNSTREAM CONNECT UPSTREAM ROUTES CHAIN KEY ROOTS");
    };
    let read = |file: &str| std::fs::read(file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let mut peer = HttpPeer::new(connect.as_str(), upstream == "mtls", "localhost".into());
    if upstream == "mtls" {
        let chain = X509::stack_from_pem(&read(chain)).expect("a chain");
        let key = PKey::private_key_from_pem(&read(key)).expect("a key");
        peer.client_cert_key = Some(Arc::new(CertKey::new(chain, key)));
        let roots = X509::stack_from_pem(&read(roots)).expect("roots");
        peer.options.ca = Some(Arc::new(roots.into_boxed_slice()));
    }
    if upstream != "http1" {
        peer.options.alpn = ALPN::H2;
        peer.options.max_h2_streams = STREAMS;
    }
    let count = routes.parse().expect("a number of routes");
    let proxy = Proxy {
        routes: (0..count).map(|route| (format!("/r{route}/"), AtomicU64::new(0))).collect(),
        peer,
    };

    let conf = ServerConf { threads: 1, ..ServerConf::new().expect("a configuration") };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut options = HttpServerOptions::default();
    options.h2c = downstream == "h2c";
    let mut service = ProxyServiceBuilder::new(&server.configuration, proxy).server_options(options).build();
    if downstream == "mtls" {
        let mut tls = TlsSettings::intermediate(chain, key).expect("a certificate");
        tls.set_alpn(ALPN::H2);
        tls.set_ca_file(roots).expect("roots");
        tls.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        tls.set_min_proto_version(Some(SslVersion::TLS1_3)).expect("TLS 1.3");
        service.add_tls_with_settings(listen, None, tls);
    } else {
        service.add_tcp(listen);
    }
    server.add_service(service);
    server.run_forever();
}

struct Proxy {
    /// A prefix, and how many requests took it.
    routes: Vec<(String, AtomicU64)>,
    peer: HttpPeer,
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, session: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        let path = session.req_header().uri.path();
        let (_, requests) = self
            .routes
            .iter()
            .find(|(prefix, _)| path.starts_with(prefix.as_str()))
            .ok_or_else(|| Error::new(ErrorType::HTTPStatus(404)))?;
        requests.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(self.peer.clone()))
    }
}
