//! Decides on each query: the mesh's own answer, or that of a name server.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use outrigger_config::host::Host;
use outrigger_config::on_demand::OnDemand;
use outrigger_core::dns_name::dns_name;
use outrigger_core::peer::PeerKey;
use tokio::time::timeout;

use super::counters::{QueryCounters, QueryOutcome};
use super::forwarder::Forwarder;
use super::host_name::{mesh_host, service_of};
use super::query::{NotQuery, Query, Transport};

/// How long a query for a new name waits for the control plane before it is forwarded.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Answers queries.
pub(crate) struct Answerer {
    /// The hosts of the mesh.
    pub(crate) on_demand: OnDemand,
    /// Whether the control plane can be asked.
    pub(crate) connected: Box<dyn Fn() -> bool + Send + Sync>,
    /// The DNS domain of the mesh's services.
    pub(crate) cluster_domain: String,
    /// Where other queries go.
    pub(crate) forwarder: Forwarder,
    /// Counts them.
    pub(crate) counters: QueryCounters,
}

/// The first step of a query.
pub(super) enum Step {
    /// The response, or none.
    Done(Option<Vec<u8>>),
    /// To be continued by [`Answerer::wait`].
    Wait(Box<Query>),
}

impl Answerer {
    /// Answers a query without waiting, if it can be: one for a known host, or one that is refused.
    pub(super) fn at_once(&self, bytes: &[u8], transport: Transport) -> Step {
        let query = match Query::read(bytes, transport) {
            Ok(query) => query,
            Err(not_query) => {
                self.counters.count(QueryOutcome::Rejected);
                return Step::Done(match not_query {
                    NotQuery::Ignored => None,
                    NotQuery::Refused(response) => Some(response),
                });
            }
        };
        match self.host(&query).and_then(|host| self.on_demand.known_host(&dns_name(&host))) {
            Some(host) => Step::Done(Some(self.answer(&query, &host))),
            None => Step::Wait(Box::new(query)),
        }
    }

    /// Asks the control plane for the host, and forwards the query if the mesh does not have it. A name below a service of the mesh is
    /// not forwarded: no name server has it. Takes at most twice [`LOOKUP_TIMEOUT`] and the time limits of the name servers.
    pub(super) async fn wait(&self, query: &Query, client: IpAddr) -> Vec<u8> {
        if let Some(host) = self.host(query).filter(|_| (self.connected)()) {
            let client = PeerKey::new(None, client);
            let found = async |host: &str| {
                timeout(LOOKUP_TIMEOUT, self.on_demand.host(&dns_name(host), &client)).await
            };
            match found(&host).await {
                Ok(Some(host)) => return self.answer(query, &host),
                Ok(None) => {
                    if let Some(service) = service_of(&host, &self.cluster_domain)
                        && let Ok(Some(_)) = found(service).await
                    {
                        self.counters.count(QueryOutcome::Answered);
                        return query.failure(ResponseCode::NXDomain);
                    }
                }
                Err(_) => {}
            }
        }
        match self.forwarder.forward(query).await {
            Ok(response) => {
                self.counters.count(QueryOutcome::Forwarded);
                response
            }
            Err(response) => {
                self.counters.count(QueryOutcome::Failed);
                response
            }
        }
    }

    fn answer(&self, query: &Query, host: &Host) -> Vec<u8> {
        self.counters.count(QueryOutcome::Answered);
        query.answer(&host.addresses, host.ttl)
    }

    /// Returns the queried host, if the mesh may have it.
    fn host(&self, query: &Query) -> Option<String> {
        mesh_host(query.question.name(), &self.cluster_domain).filter(|_| query.is_internet())
    }
}
