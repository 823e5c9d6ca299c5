//! An accepted connection, up to what handles its bytes: chain, TLS, destination, protocol.
//!
//! Called by the worker, one task each. Whatever goes wrong here ends this connection and is recorded.

mod revocation;
mod chain;
mod silent;
mod first_bytes;
mod detect;
mod http;
mod authorization;

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chain::MatchedConnection;
pub(crate) use detect::FirstSpeakers;
#[cfg(feature = "fuzzing")]
pub(crate) use detect::assert_verdict_is_stable;
use detect::{Detection, FirstSpeaker, Verdict, detect, detect_while_silent};
use http::HttpConnection;
use outrigger_config::http_manager::{Codec, HttpConnectionManager};
use outrigger_config::listener::{
    DestinationBy, DestinationFinder, FilterChain, Handler, Listener, NetworkFilter, UnknownDestination,
};
use outrigger_config::name::normalized_address;
use outrigger_config::tcp_proxy::TcpProxy;
use outrigger_core::Name;
use outrigger_core::drain::DrainGuard;
use outrigger_core::error::Failure;
use outrigger_core::peer::PeerKey;
use outrigger_core::reason::Reason;
use silent::Greeting;
use tokio::io::AsyncReadExt;

use crate::capacity::admission::ConnectionSlot;
use crate::client::ClientFacts;
use crate::codec::server::Protocol;
use crate::context::Context;
use crate::http::downstream::{DestinationLookup, Tunnel, TunnelHandler, find};
use crate::permission::Permission;
use crate::socket::address::OriginalDestination;
use crate::socket::listener::Accepted;
use crate::socket::stream::{Peer, Stream};
use crate::tcp::dial;
use crate::tcp::relay::{self, ClientConnection};
use crate::tls::config::{ALPN_H2, ALPN_HTTP1};

/// How long the client of a destination of unknown protocol may be silent before the server is asked whether it speaks
/// first, at most.
const LONGEST_SILENCE: Duration = Duration::from_millis(100);

/// How long both sides of such a connection may be silent before it is relayed as opaque bytes.
const LONGEST_DETECTION: Duration = Duration::from_secs(3600);

/// Serves a connection that `listener` accepted, until it ends. `drain` tells it to come to its end.
pub(crate) async fn serve(
    context: Rc<Context>,
    first_speakers: Rc<FirstSpeakers>,
    drain: DrainGuard,
    listener: Arc<Listener>,
    accepted: Accepted,
    slot: Rc<ConnectionSlot>,
) {
    let Accepted { stream, client } = accepted;
    let Ok(local) = stream.local_addr() else { return };
    let original = match listener.original_dst.then(|| OriginalDestination::of(&stream)) {
        Some(Ok(original)) => original,
        Some(Err(error)) => {
            tracing::warn!(listener = %listener.name, %error, "no original destination");
            return;
        }
        None => None,
    };
    let facts = ClientFacts {
        address: client.0,
        local: client.is_local(local),
        peer: None,
        key: PeerKey::new(None, client.0.ip()),
        slot: Rc::clone(&slot),
        tls: None,
        certificate: None,
        server_name: None,
        destination: original.map_or(local, |original| original.0),
        listener: listener.name.clone(),
        direction: listener.direction,
    };
    if listener.original_dst && context.is_own(facts.destination) {
        // Dialling it would loop back to this proxy, or lead a client to a listener that is for the application alone.
        let failure =
            Failure::local(Reason::NoDestination, "the destination is a listener of the proxy itself");
        return relay::refuse(&context, &facts, &failure);
    }
    let served = ConnectionHandler { context, first_speakers, drain, original };
    let serving = pin!(async {
        // Each stage is boxed, so that a connection does not hold memory for stages that are over.
        let Some((chain, begun)) = Box::pin(served.choose(&listener, stream, facts)).await else { return };
        if chain.tls.is_none() && listener.serves_mtls() {
            Box::pin(served.filter_while_permitted(&listener, chain, begun)).await;
        } else if let Some(http) = Box::pin(served.filter(chain, begun)).await {
            http.serve().await;
        }
    });
    slot.serve(serving).await;
}

#[derive(Clone)]
struct ConnectionHandler {
    context: Rc<Context>,
    first_speakers: Rc<FirstSpeakers>,
    drain: DrainGuard,
    original: Option<OriginalDestination>,
}

impl ConnectionHandler {
    /// Runs the network filter of the chain. Returns the connection if it speaks HTTP.
    async fn filter(&self, chain: &FilterChain, begun: MatchedConnection) -> Option<Box<HttpConnection>> {
        let MatchedConnection { stream, first, facts, alpn, greeting } = begun;
        let authorization = self.admit(chain, &facts)?;
        let permission = || Some(self.context.permissions.give(chain, &facts, authorization));
        match &chain.filter {
            NetworkFilter::Handle(Handler::Http(manager)) => {
                let finder = DestinationLookup::FilterChain {
                    chain: chain.name.clone(),
                    manager: Arc::clone(manager),
                };
                let protocol = protocol_of(manager.codec, alpn.as_deref());
                Some(self.http(stream, first, protocol, facts, (finder, &manager.settings)))
            }
            NetworkFilter::Handle(Handler::Tcp(proxy)) => {
                let permission = permission();
                let client = ClientConnection { stream, first, facts, permission };
                match greeting.map(|greeting| *greeting) {
                    None => self.tcp(client, proxy).await,
                    Some(Greeting { opened, spoken }) => {
                        Box::pin(relay::relay_opened(&self.context, proxy, client, opened, spoken)).await;
                    }
                }
                None
            }
            NetworkFilter::Handle(Handler::Detect { http, tcp, within }) => {
                let finder =
                    DestinationLookup::FilterChain { chain: chain.name.clone(), manager: Arc::clone(http) };
                let (within, permission) = (*within, permission());
                let either = DetectTarget { http, tcp, within, finder, destination: &chain.name, permission };
                self.detect(stream, BytesMut::from(first), facts, either).await
            }
            NetworkFilter::Find(finder) => self.serve_destination(finder, stream, first, facts).await,
        }
    }

    /// Finds what the connection is for.
    async fn serve_destination(
        &self,
        finder: &DestinationFinder,
        stream: Stream,
        first: Bytes,
        facts: ClientFacts,
    ) -> Option<Box<HttpConnection>> {
        match &finder.by {
            DestinationBy::Authority => {
                let way = DestinationLookup::Authority(finder.unknown, self.tunnels(&facts));
                Some(self.http(stream, first, Protocol::Detect, facts, (way, &finder.http)))
            }
            DestinationBy::Name(name) => {
                self.serve_named(name.clone(), finder.unknown, stream, first, facts).await
            }
            DestinationBy::OriginalDestination => match self.original {
                Some(original) => {
                    let name = normalized_address(original.0).into();
                    self.serve_named(name, finder.unknown, stream, first, facts).await
                }
                None => {
                    // Dialling its destination would loop back to this listener.
                    let failure = Failure::local(Reason::NoDestination, "the connection was not redirected");
                    relay::refuse(&self.context, &facts, &failure);
                    None
                }
            },
        }
    }

    /// Serves a connection to the destination of an asked name.
    async fn serve_named(
        &self,
        asked: Name,
        unknown: UnknownDestination,
        stream: Stream,
        first: Bytes,
        facts: ClientFacts,
    ) -> Option<Box<HttpConnection>> {
        let (found, snapshot) = match find(&self.context, &facts, &asked, unknown).await {
            Ok(found) => found,
            Err(failure) => {
                relay::refuse(&self.context, &facts, &failure);
                return None;
            }
        };
        let Some(found) = found else {
            drop(snapshot);
            let _running = facts.slot.begin();
            let client = ClientConnection { stream, first, facts, permission: None };
            Box::pin(relay::relay_passthrough(&self.context, &asked, client)).await;
            return None;
        };
        drop(snapshot);
        match &found.handler {
            Handler::Http(manager) => {
                let way = (DestinationLookup::Name(asked, unknown), &*manager.settings);
                Some(self.http(stream, first, protocol_of(manager.codec, None), facts, way))
            }
            Handler::Tcp(proxy) => {
                self.tcp(ClientConnection { stream, first, facts, permission: None }, proxy).await;
                None
            }
            Handler::Detect { http, tcp, within } => {
                let (within, finder) = (*within, DestinationLookup::Name(asked, unknown));
                let destination = &found.canonical;
                let either = DetectTarget { http, tcp, within, finder, destination, permission: None };
                self.detect(stream, BytesMut::from(first), facts, either).await
            }
        }
    }

    /// What becomes of CONNECTs: a tunnel is a connection to that destination. It may hold another CONNECT only if that
    /// destination is a proxy, in which case it is the proxy's, so that this nests once.
    fn tunnels(&self, facts: &ClientFacts) -> TunnelHandler {
        let (served, facts) = (self.clone(), facts.clone());
        TunnelHandler::new(move |Tunnel { connection, requested: asked, unknown }| {
            let (served, facts) = (served.clone(), facts.clone());
            Box::pin(async move {
                let (stream, read) = (connection.stream, connection.read);
                let found = Box::pin(served.serve_named(asked, unknown, stream, read, facts)).await;
                if let Some(http) = found {
                    http.serve().await;
                }
            })
        })
    }

    async fn tcp(&self, client: ClientConnection, proxy: &TcpProxy) {
        let _running = client.facts.slot.begin();
        let snapshot = self.context.view.snapshot();
        Box::pin(relay::relay(&self.context, &snapshot, proxy, client)).await;
    }

    /// Detects whether the connection is HTTP by the client's first bytes, or if it sends none, by whether the server sends first.
    async fn detect(
        &self,
        mut stream: Stream,
        mut first: BytesMut,
        facts: ClientFacts,
        either: DetectTarget<'_>,
    ) -> Option<Box<HttpConnection>> {
        let wait = match self.first_speakers.of(either.destination) {
            Some(FirstSpeaker::Server) => Duration::ZERO,
            Some(FirstSpeaker::Client) => either.within,
            None => either.within.min(LONGEST_SILENCE),
        };
        match detect(&mut stream, &mut first, wait).await {
            Ok(Detection::Decided(verdict)) => {
                self.first_speakers.learn(either.destination, FirstSpeaker::Client);
                self.serve_detected(verdict, stream, first.freeze(), facts, either).await
            }
            Ok(Detection::TimedOut) => Box::pin(self.detect_both(stream, first, facts, either)).await,
            // It may wait for the server's bytes. One that has closed the connection only probed the port.
            Ok(Detection::Closed) if stream.peer() != Peer::Gone => {
                let DetectTarget { tcp, permission, .. } = either;
                self.tcp(ClientConnection { stream, first: Bytes::new(), facts, permission }, tcp).await;
                None
            }
            Ok(Detection::Closed) | Err(_) => None,
        }
    }

    async fn serve_detected(
        &self,
        verdict: Verdict,
        stream: Stream,
        first: Bytes,
        facts: ClientFacts,
        either: DetectTarget<'_>,
    ) -> Option<Box<HttpConnection>> {
        let protocol = match (either.http.codec, verdict) {
            (_, Verdict::Opaque) => {
                let DetectTarget { tcp, permission, .. } = either;
                self.tcp(ClientConnection { stream, first, facts, permission }, tcp).await;
                return None;
            }
            (Codec::Auto, Verdict::Http1) | (Codec::Http1, _) => Protocol::Http1,
            (Codec::Auto, Verdict::Http2) | (Codec::Http2, _) => Protocol::Http2,
        };
        Some(self.http(stream, first, protocol, facts, (either.finder, &either.http.settings)))
    }

    /// The client is silent: dials an endpoint, and the side that sends first decides.
    async fn detect_both(
        &self,
        mut stream: Stream,
        mut first: BytesMut,
        facts: ClientFacts,
        either: DetectTarget<'_>,
    ) -> Option<Box<HttpConnection>> {
        let running = facts.slot.begin();
        let snapshot = self.context.view.snapshot();
        let mut opened = match dial::open(&self.context, &snapshot, either.tcp, &facts).await {
            Ok(opened) => opened,
            Err(failure) => {
                relay::refuse(&self.context, &facts, &failure);
                return None;
            }
        };
        drop(snapshot);
        let mut spoken = BytesMut::new();
        let said = tokio::select! {
            biased;
            heard = detect_while_silent(&mut stream, &mut first, LONGEST_DETECTION, either.within) => match heard {
                Ok(Detection::Decided(verdict)) => Some(verdict),
                Ok(Detection::TimedOut | Detection::Closed) => Some(Verdict::Opaque),
                Err(_) => return None,
            },
            // An endpoint that hangs up, or whose connection fails, is relayed as just that.
            _ = opened.stream.read_buf(&mut spoken) => None,
        };
        match said {
            Some(Verdict::Opaque) | None => {
                if said.is_none() && !spoken.is_empty() {
                    self.first_speakers.learn(either.destination, FirstSpeaker::Server);
                }
                let DetectTarget { tcp, permission, .. } = either;
                let client = ClientConnection { stream, first: first.freeze(), facts, permission };
                relay::relay_opened(&self.context, tcp, client, opened, spoken.freeze()).await;
                None
            }
            Some(verdict) => {
                drop((opened, running));
                self.first_speakers.learn(either.destination, FirstSpeaker::Client);
                self.serve_detected(verdict, stream, first.freeze(), facts, either).await
            }
        }
    }
}

/// A destination whose protocol is detected.
struct DetectTarget<'a> {
    http: &'a HttpConnectionManager,
    tcp: &'a TcpProxy,
    /// How long the client's first bytes may take.
    within: Duration,
    /// How the destination of its HTTP requests is looked up.
    finder: DestinationLookup,
    /// The name under which it is remembered which side sends first.
    destination: &'a Name,
    /// The permission to be relayed.
    permission: Option<Permission>,
}

fn protocol_of(codec: Codec, alpn: Option<&[u8]>) -> Protocol {
    match (codec, alpn) {
        (Codec::Http1, _) | (Codec::Auto, Some(ALPN_HTTP1)) => Protocol::Http1,
        (Codec::Http2, _) | (Codec::Auto, Some(ALPN_H2)) => Protocol::Http2,
        (Codec::Auto, _) => Protocol::Detect,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of the future that a function of six arguments returns, in bytes.
    fn size_of_future<A, B, C, D, E, G, F: Future>(_: impl FnOnce(A, B, C, D, E, G) -> F) -> usize {
        size_of::<F>()
    }

    fn size_of_stage<A, B, C, F: Future>(_: impl FnOnce(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_fits_in_four_and_a_half_kib_beside_what_its_protocol_takes() {
        let (own, stage) = (size_of_future(serve), size_of_stage(ConnectionHandler::filter));
        assert!(own + stage <= 4608, "it takes {own} and {stage} bytes");
    }
}
