//! Dials endpoints: TCP, and TLS if the endpoint uses it, within one timeout.
//!
//! No byte of a request has been written yet, so another attempt after a failure here is safe.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::host_tls::HostTls;
use outrigger_core::Name;
use outrigger_core::error::{Failure, Reached};
use outrigger_core::identity::SpiffeId;
use outrigger_core::reason::Reason;
use outrigger_core::record::TlsSession;
use tokio::time::Instant;

use crate::codec::limits::Limits;
use crate::identity::Identity;
use crate::socket::address::EndpointAddress;
use crate::socket::stream::{self, Stream};
use crate::tls::config::{ALPN_H2, ALPN_HTTP1, ALPN_TCP, ClientConfigs, Expectation};
use crate::tls::handshake;
use crate::tls::host::{self, HostConfigs};

/// The purpose of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// Requests, in the version that the endpoint speaks.
    Requests,
    /// One request that becomes a tunnel: HTTP/1.1.
    Upgrade,
}

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// The one that the host prefers; HTTP/1.1 without TLS.
    Either,
    /// Opaque bytes.
    Opaque,
}

/// What to dial, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The address of the endpoint.
    pub(crate) address: EndpointAddress,
    /// Whether it is the original destination of a redirected connection.
    pub(crate) is_original: bool,
    /// The TLS settings, if the endpoint uses TLS.
    pub(crate) tls: Option<TlsTarget>,
}

impl Target {
    /// Returns whether the endpoint is another sidecar.
    pub(crate) fn is_mesh(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.mesh)
    }
}

/// The TLS settings of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsTarget {
    /// Who the peer must be.
    pub(crate) peer: ExpectedPeer,
    /// The protocols that the cluster offers.
    pub(crate) alpn: Box<[Name]>,
    /// Whether the endpoint is a sidecar.
    pub(crate) mesh: bool,
}

/// Who the peer of a connection must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ExpectedPeer {
    /// A workload.
    Workload {
        /// The identities that it may have; an empty list accepts no peer.
        identities: Arc<[SpiffeId]>,
        /// The server name to send, for routing only.
        server_name: Name,
    },
    /// A host outside the mesh, by its name.
    Host(Arc<HostTls>),
}

impl TlsTarget {
    /// Returns the protocols to offer. A sidecar is offered the one that the sidecar contract defines for this use. Other
    /// servers are offered those of the cluster, except versions of HTTP that will not be spoken; if none is left, the
    /// version's own name, as in Envoy.
    fn offer(&self, wire: Wire) -> Vec<Vec<u8>> {
        let spoken: &[&[u8]] = match wire {
            Wire::Http1 => &[ALPN_HTTP1],
            Wire::Http2 => &[ALPN_H2],
            Wire::Either => &[ALPN_H2, ALPN_HTTP1],
            Wire::Opaque => &[ALPN_TCP],
        };
        let own = || spoken.iter().map(|name| name.to_vec()).collect();
        if self.mesh {
            return own();
        }
        let fits = |name: &&Name| {
            wire == Wire::Opaque || !HTTP.contains(&name.as_bytes()) || spoken.contains(&name.as_bytes())
        };
        let offered: Vec<_> = self.alpn.iter().filter(fits).map(|name| name.as_bytes().to_vec()).collect();
        if offered.is_empty() && wire != Wire::Opaque { own() } else { offered }
    }

    /// Returns whether the negotiated protocol permits this one. If a server negotiates nothing, the cluster's configuration is
    /// trusted, as in Envoy; a sidecar always negotiates.
    fn agrees(&self, wire: Wire, agreed: Option<&[u8]>) -> bool {
        match (wire, agreed) {
            (_, None) => !self.mesh,
            (Wire::Http1, Some(agreed)) => agreed != ALPN_H2,
            (Wire::Http2, Some(agreed)) => !HTTP.contains(&agreed) || agreed == ALPN_H2,
            (Wire::Either | Wire::Opaque, Some(_)) => true,
        }
    }
}

/// Versions of HTTP in ALPN.
const HTTP: [&[u8]; 3] = [ALPN_H2, ALPN_HTTP1, b"http/1.0"];

/// Facts of the endpoint of a connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct EndpointFacts {
    /// Its verified identity; `None` in plaintext, and for a host outside the mesh.
    pub(crate) peer: Option<SpiffeId>,
    /// The TLS session of the connection; `None` in plaintext.
    pub(crate) tls: Option<TlsSession>,
}

/// An established connection.
#[derive(Debug)]
pub(crate) struct Dialled {
    /// The connection.
    pub(crate) stream: Stream,
    /// The endpoint's identity and the TLS session.
    pub(crate) facts: EndpointFacts,
    /// Whether HTTP/2 was negotiated.
    pub(crate) http2: bool,
}

/// Dials for one worker.
#[derive(Debug)]
pub(crate) struct Dialer {
    identity: Rc<Identity>,
    configs: RefCell<ClientConfigs>,
    hosts: RefCell<HostConfigs>,
    limits: Rc<Limits>,
    mesh_limits: Rc<Limits>,
}

impl Dialer {
    /// Creates a dialer that presents these credentials.
    pub(crate) fn new(identity: Rc<Identity>, limits: Rc<Limits>) -> Self {
        let mesh_limits = Rc::new(Limits::clone(&limits).with_slack());
        Self { identity, configs: RefCell::default(), hosts: RefCell::default(), limits, mesh_limits }
    }

    /// Returns the limits of HTTP connections to `target`. Over mutual TLS it is another sidecar, which has added fields to
    /// those of its application.
    pub(crate) fn limits(&self, target: &Target) -> &Rc<Limits> {
        if target.is_mesh() { &self.mesh_limits } else { &self.limits }
    }

    /// Establishes a connection within `timeout`, including the handshake.
    pub(crate) async fn dial(
        &self,
        target: &Target,
        wire: Wire,
        timeout: Duration,
    ) -> Result<Dialled, Failure> {
        let started = Instant::now();
        let tcp = stream::connect(target.address, target.is_original, timeout).await?;
        let Some(tls) = &target.tls else {
            return Ok(Dialled { stream: Stream::Plain(tcp), facts: EndpointFacts::default(), http2: false });
        };
        let left = timeout.saturating_sub(started.elapsed());
        let (stream, shown) = match &tls.peer {
            ExpectedPeer::Workload { identities, server_name } => {
                let credentials = self.identity.credentials().ok_or_else(|| {
                    Failure::local(Reason::UpstreamTlsFailure, "this workload has no certificate")
                })?;
                let expectation = Expectation { identities: Arc::clone(identities), alpn: tls.offer(wire) };
                let config = self.configs.borrow_mut().config(&credentials, &expectation)?;
                handshake::connect(tcp, left, config, host_of(server_name)).await?
            }
            ExpectedPeer::Host(of) => {
                let config = self.hosts.borrow_mut().config(of, tls.offer(wire))?;
                host::connect(tcp, left, config, &of.name).await?
            }
        };
        let agreed = shown.alpn.as_deref();
        if !tls.agrees(wire, agreed) {
            let agreed = agreed.map_or("nothing".into(), String::from_utf8_lossy);
            return Err(Failure::upstream(
                Reason::UpstreamTlsFailure,
                Reached::NotWritten,
                format!("{} agrees on {agreed}, which does not fit {wire:?}", target.address),
            ));
        }
        let http2 = agreed == Some(ALPN_H2);
        // A sidecar requires our certificate; whether another server does is not known.
        let session = TlsSession { mutual: tls.mesh, ..shown.tls };
        Ok(Dialled { stream, facts: EndpointFacts { peer: shown.peer, tls: Some(session) }, http2 })
    }
}

/// A server name has no port (RFC 6066 section 3).
fn host_of(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(alpn: &[&str], mesh: bool, wire: Wire) -> Vec<String> {
        let alpn = alpn.iter().map(|name| (*name).into()).collect();
        let peer = ExpectedPeer::Workload { identities: [].into(), server_name: "a".into() };
        let tls = TlsTarget { peer, alpn, mesh };
        tls.offer(wire).into_iter().map(|name| String::from_utf8(name).unwrap()).collect()
    }

    #[test]
    fn what_is_offered_is_what_will_be_spoken() {
        let mesh = &["h2", "http/1.1", "outrigger-tcp"][..];
        for (alpn, wire, expected) in [
            (mesh, Wire::Http2, &["h2"][..]),
            (mesh, Wire::Http1, &["http/1.1"]),
            (mesh, Wire::Opaque, &["outrigger-tcp"]),
        ] {
            assert_eq!(offered(alpn, true, wire), expected, "{wire:?}");
        }
        for (alpn, wire, expected) in [
            (&[][..], Wire::Http1, &["http/1.1"][..]),
            (&[], Wire::Http2, &["h2"]),
            (&[], Wire::Either, &["h2", "http/1.1"]),
            (&[], Wire::Opaque, &[]),
            (&["h2", "http/1.1"], Wire::Http1, &["http/1.1"]),
            (&["istio", "h2", "http/1.1"], Wire::Http2, &["istio", "h2"]),
            (&["http/1.1"], Wire::Either, &["http/1.1"]),
            (&["h2"], Wire::Http1, &["http/1.1"]),
            (&["postgresql", "h2"], Wire::Opaque, &["postgresql", "h2"]),
        ] {
            assert_eq!(offered(alpn, false, wire), expected, "{alpn:?} {wire:?}");
        }
    }
}
