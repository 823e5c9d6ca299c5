//! An HTTP connection of a client: facts of the client, and how the destinations of its requests are looked up.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_config::destination::Destination as MeshDestination;
use outrigger_config::http_manager::{HttpConnectionManager, HttpSettings};
use outrigger_config::listener::{FilterChain, Handler, NetworkFilter, UnknownDestination};
use outrigger_config::name::normalized_name;
use outrigger_config::on_demand::Lookup;
use outrigger_config::snapshot::Snapshot;
use outrigger_core::Name;
use outrigger_core::drain::DrainGuard;
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;
use outrigger_policy::filter::connection::decide;

use super::journal::Journal;
use crate::capacity::admission::ActiveGuard;
use crate::client::ClientFacts;
use crate::codec::head::RequestHead;
use crate::codec::limits::{Limits, ResetLimits};
use crate::codec::upgrade::Upgraded;
use crate::context::Context;

/// Where `http` goes without a port (RFC 9110 section 4.2.1).
const HTTP_PORT: u16 = 80;

/// How the destination of a request is looked up.
#[derive(Debug, Clone)]
pub(crate) enum DestinationLookup {
    /// In the filter chain of the listener, read from each request's snapshot.
    FilterChain {
        /// The chain's name.
        chain: Name,
        /// Its configuration when the connection was accepted; used if the listener was removed.
        manager: Arc<HttpConnectionManager>,
    },
    /// By this name, for every request.
    Name(Name, UnknownDestination),
    /// By the authority of each request; CONNECT may open tunnels.
    Authority(UnknownDestination, TunnelHandler),
}

/// A connection that speaks HTTP.
#[derive(Debug)]
pub(crate) struct Downstream {
    pub(crate) context: Rc<Context>,
    pub(crate) client: ClientFacts,
    pub(crate) lookup: DestinationLookup,
    /// What this client may cost.
    pub(crate) limits: Rc<Limits>,
    /// Notifies it of the drain.
    pub(crate) drain: DrainGuard,
}

/// Serves the tunnel that a CONNECT opens like an accepted connection, until it ends.
#[derive(Clone)]
pub(crate) struct TunnelHandler(Rc<dyn Fn(Tunnel) -> Serving>);

type Serving = Pin<Box<dyn Future<Output = ()>>>;

impl TunnelHandler {
    pub(crate) fn new(serve: impl Fn(Tunnel) -> Serving + 'static) -> Self {
        Self(Rc::new(serve))
    }

    pub(super) async fn serve(&self, tunnel: Tunnel) {
        (self.0)(tunnel).await;
    }
}

impl fmt::Debug for TunnelHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TunnelHandler")
    }
}

/// A connection through a CONNECT, and the name it goes to.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) connection: Upgraded,
    pub(crate) requested: Name,
    pub(crate) unknown: UnknownDestination,
}

/// The destination of a request.
#[derive(Debug)]
pub(super) enum Destination {
    /// A destination in the mesh.
    Manager(Arc<HttpConnectionManager>),
    /// A host outside the mesh, by its requested name.
    Passthrough(Name),
}

impl Downstream {
    /// A request of that version is under way, until the guard is dropped. An HTTP/2 connection that has carried one stays
    /// for as long as it likes: what is on its way on it cannot be known.
    pub(super) fn running(&self, version: http::Version) -> ActiveGuard {
        if version == http::Version::HTTP_2 {
            self.client.slot.keep();
        }
        self.client.slot.begin()
    }

    /// Returns the destination of `head`'s request, and the snapshot it was read from: the only one that the request uses.
    /// What the network filters of its chain decide about the connection now is noted in `journal`.
    pub(super) async fn destination(
        &self,
        head: &RequestHead,
        journal: &mut Journal,
    ) -> Result<(Destination, Arc<Snapshot>), Failure> {
        let (requested, unknown) = match &self.lookup {
            DestinationLookup::FilterChain { chain, manager } => {
                let snapshot = self.context.view.snapshot();
                let listener = snapshot.listeners.get(&self.client.listener);
                let newest = listener.and_then(|listener| listener.chain_named(chain));
                if let Some(newest) = newest.filter(|newest| !newest.connection_filters.is_empty()) {
                    self.authorize(newest, journal)?;
                }
                let manager = Arc::clone(newest.and_then(manager_of).unwrap_or(manager));
                return Ok((Destination::Manager(manager), snapshot));
            }
            DestinationLookup::Name(requested, unknown) => {
                (std::borrow::Cow::Borrowed(&**requested), *unknown)
            }
            DestinationLookup::Authority(unknown, _) => (requested_name(head)?, *unknown),
        };
        let (found, snapshot) = find(&self.context, &self.client, &requested, unknown).await?;
        let Some(found) = found else { return Ok((Destination::Passthrough(requested.into()), snapshot)) };
        match &found.handler {
            Handler::Http(manager) | Handler::Detect { http: manager, .. } => {
                Ok((Destination::Manager(Arc::clone(manager)), snapshot))
            }
            Handler::Tcp(_) => {
                Err(Failure::local(Reason::DestinationNotHttp, format!("{requested} is a TCP service")))
            }
        }
    }
}

impl Downstream {
    /// Passes the connection through the network filters of its chain. They decided when it was accepted, and may have changed.
    fn authorize(&self, chain: &FilterChain, journal: &mut Journal) -> Result<(), Failure> {
        let decision = decide(&chain.connection_filters, &self.client.source());
        journal.authorized(decision);
        match decision.denied_by {
            Some(_) => Err(Failure::downstream(Reason::AccessDenied, "the connection is no longer allowed")),
            None => Ok(()),
        }
    }
}

/// What a client may cost where `http` says how it is spoken with: the process's own bounds, and the listener's. A client
/// that proved to be of the mesh is a sidecar, which has added fields to what came to it.
pub(crate) fn limits(own: &Limits, http: &HttpSettings, client: &ClientFacts) -> Rc<Limits> {
    let limits = Limits {
        head_bytes: http.max_request_headers,
        fields: http.max_headers_count,
        head_timeout: http.request_headers_timeout.unwrap_or(own.head_timeout),
        longest_life: http.max_connection_duration,
        requests: http.max_requests_per_connection,
        idle_timeout: http.idle_timeout.unwrap_or(own.idle_timeout),
        concurrent_streams: http.max_concurrent_streams,
        stream_window: http.initial_stream_window,
        connection_window: http.initial_connection_window,
        ..own.clone()
    };
    Rc::new(match &client.peer {
        Some(_) => Limits { resets: ResetLimits::MEMBER, ..limits.with_slack() },
        None => limits,
    })
}

/// Returns the mesh's destination of a requested name, or None for passthrough, and the snapshot it was read from.
pub(crate) async fn find(
    context: &Context,
    client: &ClientFacts,
    requested: &str,
    unknown: UnknownDestination,
) -> Result<(Option<Arc<MeshDestination>>, Arc<Snapshot>), Failure> {
    let mut snapshot = context.view.snapshot();
    if let Some(found) = context.on_demand.known(&snapshot, requested) {
        return Ok((Some(found), snapshot));
    }
    let answer = context.on_demand.destination(&context.view, requested, &client.key).await;
    snapshot = context.view.snapshot();
    match answer {
        Lookup::Found(found) => {
            // The snapshot of now, so that destination, routes and clusters are of one moment.
            let found = context.on_demand.known(&snapshot, requested).unwrap_or(found);
            Ok((Some(found), snapshot))
        }
        Lookup::Absent if unknown == UnknownDestination::PassThrough => Ok((None, snapshot)),
        Lookup::Absent => Err(Failure::local(Reason::NoDestination, format!("the mesh has no {requested}"))),
        Lookup::Refused => {
            Err(unknowable(format!("what the control plane says of {requested} cannot be used")))
        }
        Lookup::Unknown => Err(unknowable(format!("nobody said in time what {requested} is"))),
    }
}

/// The destination may exist, and nothing can be done for it now.
fn unknowable(why: String) -> Failure {
    Failure::upstream(Reason::DestinationTimeout, Reached::NotWritten, why)
}

/// Returns the destination name that a request's authority stands for.
pub(super) fn requested_name(head: &RequestHead) -> Result<std::borrow::Cow<'_, str>, Failure> {
    let none = |what: &str| Failure::downstream(Reason::DownstreamProtocolError, what);
    let authority = head.authority.as_ref().ok_or_else(|| none("the request names no host"))?;
    normalized_name(authority.as_str(), HTTP_PORT).ok_or_else(|| none("the request's host is no name"))
}

fn manager_of(chain: &FilterChain) -> Option<&Arc<HttpConnectionManager>> {
    match &chain.filter {
        NetworkFilter::Handle(Handler::Http(manager) | Handler::Detect { http: manager, .. }) => {
            Some(manager)
        }
        _ => None,
    }
}
