//! Matches an accepted connection to a filter chain, and performs the TLS handshake that the chain requires.
//!
//! A connection that matches no chain or fails the handshake is refused, counted and recorded.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use outrigger_config::http_manager::CertificateDetails;
use outrigger_config::listener::{
    ConnectionFacts, FilterChain, Handler, Listener, NetworkFilter, TransportProtocol,
};
use outrigger_config::tls::{ClientCertificate, DownstreamTls};
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use rustls::server::Accepted;
use tokio::net::TcpStream;

use super::ConnectionHandler;
use super::first_bytes::{self, FirstBytes};
use super::silent::{Greeting, Speaker};
use crate::client::ClientFacts;
use crate::socket::stream::Stream;
use crate::tcp::relay;
use crate::tls::handshake;
use crate::tls::peer_certificate::PeerCertificate;

/// The longest that a TLS handshake may take; its hello may take as long before that.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that was matched to a filter chain, after its TLS handshake.
pub(super) struct MatchedConnection {
    pub(super) stream: Stream,
    /// What was read of it already.
    pub(super) first: Bytes,
    pub(super) facts: ClientFacts,
    /// The protocol negotiated by ALPN.
    pub(super) alpn: Option<Vec<u8>>,
    /// The server, if it spoke first.
    pub(super) greeting: Option<Box<Greeting>>,
}

/// A connection without TLS, or whose TLS is not the proxy's own.
fn plaintext(stream: TcpStream, first: BytesMut, facts: ClientFacts) -> MatchedConnection {
    let stream = Stream::Plain(stream);
    MatchedConnection { stream, first: first.freeze(), facts, alpn: None, greeting: None }
}

/// Returns the chain for plain text of this protocol.
pub(super) fn plaintext_chain<'a>(
    listener: &'a Listener,
    facts: &ClientFacts,
    protocol: Option<&'static [u8]>,
) -> Option<&'a FilterChain> {
    let connection = ConnectionFacts {
        destination: facts.destination,
        transport: TransportProtocol::RawBuffer,
        server_name: None,
        application_protocols: protocol.as_slice(),
    };
    listener.chain(&connection).filter(|chain| chain.tls.is_none())
}

/// Returns which details of client certificates the requests of a chain's connections are forwarded with.
fn forwarded_details(chain: &FilterChain) -> Option<CertificateDetails> {
    match &chain.filter {
        NetworkFilter::Handle(Handler::Http(http) | Handler::Detect { http, .. }) => {
            http.settings.client_certificate.details()
        }
        NetworkFilter::Handle(Handler::Tcp(_)) | NetworkFilter::Find(_) => None,
    }
}

impl ConnectionHandler {
    /// The chain that takes the connection, and the connection after its TLS handshake if there is one.
    pub(super) async fn choose<'a>(
        &self,
        listener: &'a Listener,
        mut stream: TcpStream,
        mut facts: ClientFacts,
    ) -> Option<(&'a FilterChain, MatchedConnection)> {
        let mut first = BytesMut::new();
        let hello = loop {
            match first_bytes::read(listener, &mut stream, &mut first, HANDSHAKE_TIMEOUT).await {
                Ok(FirstBytes::Tls(hello)) => break hello,
                Ok(FirstBytes::Plaintext(protocol)) => {
                    let Some(chain) = plaintext_chain(listener, &facts, protocol) else {
                        self.refuse_without_mtls(listener, &facts, &first_bytes::no_plaintext());
                        return None;
                    };
                    self.without_mtls(listener, &facts, true);
                    return Some((chain, plaintext(stream, first, facts)));
                }
                Ok(FirstBytes::Silent) => {
                    let chain = plaintext_chain(listener, &facts, None);
                    let waited =
                        self.first_speaker(chain, &mut stream, &mut first, &facts, HANDSHAKE_TIMEOUT).await;
                    match (waited, chain) {
                        (Speaker::Client, _) => {}
                        (Speaker::Server(greeting), Some(chain)) => {
                            self.without_mtls(listener, &facts, true);
                            let greeting = Some(greeting);
                            let plain = plaintext(stream, first, facts);
                            return Some((chain, MatchedConnection { greeting, ..plain }));
                        }
                        (Speaker::Server(_) | Speaker::Neither, _) => return None,
                    }
                }
                Ok(FirstBytes::Nothing) => return None,
                Err(_) if first_bytes::is_plaintext(&first) => {
                    self.refuse_without_mtls(listener, &facts, &first_bytes::no_plaintext());
                    return None;
                }
                Err(failure) => {
                    self.refuse(&facts, &failure);
                    return None;
                }
            }
        };
        let chain = {
            let asked = hello.client_hello();
            facts.server_name = asked.server_name().map(|name| name.to_ascii_lowercase().into());
            let alpn: Vec<_> = asked.alpn().map(Iterator::collect).unwrap_or_default();
            listener.chain(&ConnectionFacts {
                destination: facts.destination,
                transport: TransportProtocol::Tls,
                server_name: asked.server_name(),
                application_protocols: &alpn,
            })
        };
        let Some(chain) = chain else {
            let failure = handshake::refuse(stream, &hello).await;
            self.refuse_without_mtls(listener, &facts, &failure);
            return None;
        };
        let Some(tls) = &chain.tls else {
            // TLS passthrough: an upstream answers the ClientHello.
            self.without_mtls(listener, &facts, true);
            return Some((chain, plaintext(stream, first, facts)));
        };
        match self.handshake(stream, *hello, tls, chain.handshake_timeout, facts.clone()).await {
            Ok(mut begun) => {
                if let Some(details) = forwarded_details(chain) {
                    let certificate = PeerCertificate::of(&begun.stream, details);
                    begun.facts.certificate = certificate.map(|certificate| Rc::new(certificate.into()));
                }
                Some((chain, begun))
            }
            Err((facts, failure)) => {
                self.refuse(&facts, &failure);
                None
            }
        }
    }
    /// Answers a TLS client. Fails with what is known of it by then.
    async fn handshake(
        &self,
        stream: TcpStream,
        hello: Accepted,
        tls: &Arc<DownstreamTls>,
        timeout: Option<Duration>,
        mut facts: ClientFacts,
    ) -> Result<MatchedConnection, (ClientFacts, Failure)> {
        let config = match self.context.identity.server(tls) {
            Ok(config) => config,
            Err(error) => {
                tracing::warn!(%error, "no TLS configuration");
                let failure = handshake::refuse(stream, &hello).await;
                return Err((facts, failure));
            }
        };
        let longest = timeout.map_or(HANDSHAKE_TIMEOUT, |timeout| timeout.min(HANDSHAKE_TIMEOUT));
        let answered = tokio::time::timeout(longest, handshake::accept(stream, hello, config)).await;
        let (stream, shown) = match answered.unwrap_or_else(|_| Err(handshake::late(longest))) {
            Ok(answered) => answered,
            Err(failure) => return Err((facts, failure)),
        };
        facts.identify(shown.peer);
        // Who may go on without a certificate has no identity to be judged by.
        let may = match (&facts.peer, &tls.peers) {
            (None, _) => tls.client_certificate != ClientCertificate::Required,
            (Some(_), None) => true,
            (Some(peer), Some(peers)) => peers.contains(peer),
        };
        if !may {
            let failure = Failure::downstream(Reason::DownstreamTlsFailure, "this peer may not call");
            return Err((facts, failure));
        }
        let process = &self.context.recorder.metrics().process;
        if !facts.settle() {
            process.downstream_connections_refused.increment();
            let failure = Failure::downstream(
                Reason::DownstreamTlsFailure,
                "this peer has its share of the connections",
            );
            return Err((facts, failure));
        }
        process.downstream_tls_ok.increment();
        facts.tls = Some(shown.tls);
        Ok(MatchedConnection { stream, first: Bytes::new(), facts, alpn: shown.alpn, greeting: None })
    }

    /// Counts and records a connection that no chain takes because it does not use mTLS.
    fn refuse_without_mtls(&self, listener: &Listener, facts: &ClientFacts, failure: &Failure) {
        self.without_mtls(listener, facts, false);
        self.refuse(facts, failure);
    }

    /// Counts a connection without mTLS to a listener that serves mTLS. The first one of a client to a port is logged: such
    /// clients keep the port from being strict, or are what a strict port cuts off.
    pub(super) fn without_mtls(&self, listener: &Listener, facts: &ClientFacts, permitted: bool) {
        if !listener.serves_mtls() {
            return;
        }
        let (source, port) = (facts.address.ip(), facts.destination.port());
        let is_new = self.context.recorder.metrics().without_mtls(source, port, permitted);
        match permitted {
            _ if !is_new => {}
            true => {
                tracing::info!(client = %source, port, "a client connects without mTLS: the port is permissive")
            }
            false => {
                tracing::warn!(client = %source, port, "a client without mTLS is refused: the port is strict")
            }
        }
    }

    /// Counts and records a connection that no chain takes.
    fn refuse(&self, facts: &ClientFacts, failure: &Failure) {
        self.context.recorder.metrics().process.downstream_tls_failed.increment();
        relay::refuse(&self.context, facts, failure);
    }
}
