//! Makes connections to endpoints: TCP, and TLS where the endpoint speaks it, within one time limit.
//!
//! Nothing of a request was written when this fails, so that every failure here is safe to try elsewhere.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_core::Name;
use outrigger_core::error::{Failure, Reached};
use outrigger_core::identity::SpiffeId;
use outrigger_core::reason::Reason;
use tokio::time::Instant;

use crate::codec::limits::Limits;
use crate::identity::Identity;
use crate::socket::address::EndpointAddress;
use crate::socket::stream::{self, Stream};
use crate::tls::config::{ALPN_H2, ALPN_HTTP1, ALPN_TCP, ClientConfigs, Expectation};
use crate::tls::handshake;

/// What a connection is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Use {
    /// Requests, in the version that the endpoint speaks.
    Requests,
    /// One request that turns into a tunnel: HTTP/1.1.
    Upgrade,
    /// Bytes as they are.
    Opaque,
}

/// Whom to dial, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Where it listens.
    pub(crate) address: EndpointAddress,
    /// Whether mTLS is spoken there.
    pub(crate) tls: Option<TlsTarget>,
}

/// How mTLS is spoken with an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsTarget {
    /// Who may answer there; nobody if empty.
    pub(crate) identities: Arc<[SpiffeId]>,
    /// The server name to send, for routing only.
    pub(crate) server_name: Name,
}

/// A connection that was made.
#[derive(Debug)]
pub(crate) struct Dialled {
    /// The connection.
    pub(crate) stream: Stream,
    /// Who answered, verified; `None` in plaintext.
    pub(crate) peer: Option<SpiffeId>,
}

/// Dials for one worker.
#[derive(Debug)]
pub(crate) struct Dialer {
    identity: Rc<Identity>,
    configs: RefCell<ClientConfigs>,
    limits: Rc<Limits>,
    mesh_limits: Rc<Limits>,
}

impl Dialer {
    /// A dialer that shows these credentials.
    pub(crate) fn new(identity: Rc<Identity>, limits: Rc<Limits>) -> Self {
        let mesh_limits = Rc::new(Limits::clone(&limits).with_slack());
        Self { identity, configs: RefCell::default(), limits, mesh_limits }
    }

    /// The bounds of connections to `target` that speak HTTP. Over mutual TLS it is another sidecar, which has added fields
    /// to what its application said.
    pub(crate) fn limits(&self, target: &Target) -> &Rc<Limits> {
        if target.tls.is_some() { &self.mesh_limits } else { &self.limits }
    }

    /// Makes a connection within `timeout`, handshake included.
    pub(crate) async fn dial(
        &self,
        target: &Target,
        purpose: Use,
        timeout: Duration,
    ) -> Result<Dialled, Failure> {
        let started = Instant::now();
        let tcp = stream::connect(target.address, timeout).await?;
        let Some(tls) = &target.tls else {
            return Ok(Dialled { stream: Stream::Plain(tcp), peer: None });
        };
        let credentials = self.identity.credentials().ok_or_else(|| {
            Failure::upstream(
                Reason::UpstreamTlsFailure,
                Reached::NotWritten,
                "this workload has no certificate",
            )
        })?;
        let alpn = match purpose {
            Use::Requests => ALPN_H2,
            Use::Upgrade => ALPN_HTTP1,
            Use::Opaque => ALPN_TCP,
        };
        let expectation = Expectation { identities: Arc::clone(&tls.identities), alpn };
        let config = self.configs.borrow_mut().config(&credentials, &expectation)?;
        let left = timeout.saturating_sub(started.elapsed());
        let (stream, facts) = handshake::connect(tcp, left, config, host_of(&tls.server_name)).await?;
        if facts.alpn.as_deref() != Some(alpn) {
            return Err(Failure::upstream(
                Reason::UpstreamTlsFailure,
                Reached::NotWritten,
                format!("{} does not speak {}", target.address, String::from_utf8_lossy(alpn)),
            ));
        }
        Ok(Dialled { stream, peer: facts.peer })
    }
}

/// A server name has no port (RFC 6066 section 3).
fn host_of(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(host, _)| host)
}
