//! Starts the DNS answerer on the sockets of `--dns`.

use std::sync::Arc;

use outrigger_config::on_demand::OnDemand;
use outrigger_discovery::Reader;

use crate::args::Args;
use crate::dns::counters::QueryCounters;
use crate::dns::name_servers::{NameServers, RESOLV_CONF};
use crate::dns::{Answerer, DnsSocket, Forwarder, serve};
use crate::error::Error;

/// Starts the answerer on the current runtime. Returns its counters, or None if there is no socket.
pub(super) fn start(
    sockets: Vec<DnsSocket>,
    args: &Args,
    on_demand: OnDemand,
    reader: Reader,
) -> Result<Option<QueryCounters>, Error> {
    if sockets.is_empty() {
        return Ok(None);
    }
    let own = sockets.iter().map(DnsSocket::address).collect();
    let servers = NameServers::new(args.dns_upstream.clone(), own, RESOLV_CONF.into());
    let counters = QueryCounters::default();
    let answerer = Arc::new(Answerer {
        on_demand,
        connected: Box::new(move || reader.status().stream.connected_since.is_some()),
        cluster_domain: args.cluster_domain.clone(),
        forwarder: Forwarder::new(servers),
        counters: counters.clone(),
    });
    for socket in sockets {
        tracing::info!(address = %socket.address(), "answering DNS queries");
        serve(socket, Arc::clone(&answerer))
            .map_err(|source| Error::Start { what: "the DNS answerer", source })?;
    }
    Ok(Some(counters))
}
