//! `/config_dump`: the compiled snapshot, the versions of the accepted resources, and the refusals with reasons.
//!
//! Secrets are not part of a snapshot, so no private key can appear here.

use std::sync::Arc;

use outrigger_config::Map;
use outrigger_config::listener::{FilterChain, Handler, Listener, NetworkFilter};
use outrigger_config::snapshot::Snapshot;
use outrigger_core::record::Direction;
use outrigger_discovery::ResourceVersion;
use outrigger_discovery::status::{Published, Refusal, Status};
use serde_json::{Value, json};

use super::certs::time;

/// Returns the page.
pub(crate) fn config_dump(snapshot: &Snapshot, versions: &[ResourceVersion], status: &Status) -> Value {
    let Snapshot { generation, listeners, destinations, routes, clusters } = snapshot;
    json!({
        "generation": generation,
        "control_plane": control_plane(status),
        "versions": versions.iter().map(version).collect::<Vec<_>>(),
        "refused": refused(status),
        "registration": registration(status),
        "listeners": sorted(listeners).map(|(_, of)| listener(of)).collect::<Vec<_>>(),
        "destinations": sorted(destinations).map(|(name, of)| json!({
            "name": &**name, "canonical": &*of.canonical, "handler": handler(&of.handler),
        })).collect::<Vec<_>>(),
        "routes": sorted(routes).map(|(name, of)| json!({
            "name": &**name,
            "hosts": of.hosts.iter().map(|host| json!({
                "name": &*host.name,
                "routes": host.routes.iter().map(|route| format!("{route:?}")).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "clusters": sorted(clusters).map(|(name, of)| json!({
            "name": &**name,
            "discovery": format!("{:?}", of.discovery),
            "connect_timeout_ms": of.connect_timeout.as_millis() as u64,
            "breakers": format!("{:?}", of.breakers),
            "outlier_detection": format!("{:?}", of.outlier),
            "balancing": format!("{:?}", of.balancing),
            "protocol": format!("{:?}", of.protocol),
            "endpoints": of.endpoints.load().list.len(),
        })).collect::<Vec<_>>(),
    })
}

/// Sorts by name, so that dumps can be compared.
fn sorted<V>(map: &Map<Arc<V>>) -> impl Iterator<Item = (&outrigger_core::Name, &Arc<V>)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by_key(|(name, _)| *name);
    entries.into_iter()
}

fn version(resource: &ResourceVersion) -> Value {
    let ResourceVersion { kind, name, version } = resource;
    json!({ "type": kind.to_string(), "name": &**name, "version": version })
}

fn control_plane(status: &Status) -> Value {
    let stream = &status.stream;
    let (source, since) = match status.published {
        None => (None, None),
        Some(Published::FromSaved(since)) => (Some("saved"), time(since)),
        Some(Published::FromControlPlane(since)) => (Some("control plane"), time(since)),
    };
    json!({
        "connected_since": stream.connected_since.and_then(time),
        "connections": stream.connections,
        "failures": stream.failures,
        "last_failure": stream.last_failure,
        "first_configuration": source,
        "first_configuration_at": since,
        "snapshots": status.snapshots,
    })
}

fn refused(status: &Status) -> Vec<Value> {
    let one = |kind: String, name: Option<&String>, refusal: &Refusal| json!({ "type": kind, "name": name, "reason": refusal.reason, "since": time(refusal.since) });
    let of_kind = |(kind, of): (&outrigger_discovery::Kind, &outrigger_discovery::status::KindStatus)| {
        let whole = of.last_refused_response.iter().map(|refusal| one(kind.to_string(), None, refusal));
        let named = of.refusals.iter().map(|(name, refusal)| one(kind.to_string(), Some(name), refusal));
        whole.chain(named).collect::<Vec<_>>()
    };
    status.kinds.iter().flat_map(of_kind).collect()
}

fn registration(status: &Status) -> Value {
    let of = &status.registration;
    json!({
        "registered_since": of.registered_since.and_then(time),
        "lease_seconds": of.lease.map(|lease| lease.as_secs_f64()),
        "refused": of.refused.iter().map(|(port, why)| json!({ "port": port, "reason": why })).collect::<Vec<_>>(),
        "last_failure": of.last_failure,
    })
}

fn listener(listener: &Listener) -> Value {
    let Listener {
        name,
        address,
        direction,
        original_dst,
        first_bytes_timeout,
        serves_silent,
        detects_http,
        chains,
        default_chain,
    } = listener;
    json!({
        "name": &**name,
        "address": address,
        "direction": match direction { Direction::Inbound => "inbound", Direction::Outbound => "outbound" },
        "original_dst": original_dst,
        "first_bytes_timeout_ms": first_bytes_timeout.as_millis() as u64,
        "serves_silent": serves_silent,
        "detects_http": detects_http,
        "chains": chains.iter().map(chain).collect::<Vec<_>>(),
        "default_chain": default_chain.as_ref().map(chain),
    })
}

fn chain(chain: &FilterChain) -> Value {
    let FilterChain { name, matcher, tls, handshake_timeout, filter } = chain;
    json!({
        "name": &**name,
        "match": format!("{matcher:?}"),
        "tls": tls.as_ref().map(|tls| format!("{tls:?}")),
        "handshake_timeout_ms": handshake_timeout.map(|timeout| timeout.as_millis() as u64),
        "filter": match filter {
            NetworkFilter::Handle(of) => handler(of),
            NetworkFilter::Find(finder) => json!({
                "find": format!("{:?}", finder.by), "unknown": format!("{:?}", finder.unknown),
            }),
        },
    })
}

fn handler(handler: &Handler) -> Value {
    match handler {
        Handler::Http(http) => json!({ "http": format!("{http:?}") }),
        Handler::Tcp(tcp) => json!({ "tcp": format!("{tcp:?}") }),
        Handler::Detect { http, tcp, within } => json!({
            "http": format!("{http:?}"), "tcp": format!("{tcp:?}"), "within_ms": within.as_millis() as u64,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_named_with_their_reason() {
        let mut status = Status::default();
        let refusal =
            Refusal { reason: "routes[0]: no such field".into(), since: std::time::SystemTime::UNIX_EPOCH };
        let kind = status.kinds.entry(outrigger_discovery::Kind::Route).or_default();
        kind.refusals.insert("cart.shop.svc.cluster.local:80".into(), refusal);
        let page = config_dump(&Snapshot::default(), &[], &status);
        assert_eq!(page["refused"][0]["type"], "route");
        assert_eq!(page["refused"][0]["name"], "cart.shop.svc.cluster.local:80");
        assert_eq!(page["refused"][0]["reason"], "routes[0]: no such field");
        assert_eq!(page["refused"][0]["since"], "1970-01-01T00:00:00Z");
    }
}
