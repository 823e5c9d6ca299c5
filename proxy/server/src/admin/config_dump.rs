//! `/config_dump`: the xDS resources in the shape of Envoy's page, and the state of discovery.
//!
//! `configs` is that of `envoy.admin.v3.ConfigDump`. A resource whose newest version was refused has it as `error_state`. Keys and
//! certificates are not xDS resources here, so they are not shown; secrets in resources are redacted by discovery.

use std::collections::BTreeMap;

use outrigger_config::listener::Listener;
use outrigger_config::snapshot::Snapshot;
use outrigger_core::record::Direction;
use outrigger_discovery::status::{Published, Refusal, Status};
use outrigger_discovery::{AcceptedResource, Kind, ResourceState};
use serde_json::{Map, Value, json};

use super::certs::time;

/// Returns the page.
pub(crate) fn config_dump(snapshot: &Snapshot, resources: &[AcceptedResource], status: &Status) -> Value {
    let Snapshot { generation, listeners, destinations, hosts, routes: _, clusters: _ } = snapshot;
    let of = |kind| entries(kind, resources, status);
    let dynamic = |name: &str| resources.iter().any(|of| of.kind == Kind::Listener && *of.name == *name);
    let mut own: Vec<_> = listeners.values().filter(|listener| !dynamic(&listener.name)).collect();
    own.sort_by_key(|listener| &listener.name);
    let mut destinations: Vec<_> = destinations.iter().collect();
    destinations.sort_by_key(|(name, _)| *name);
    let mut hosts: Vec<_> = hosts.values().collect();
    hosts.sort_by_key(|host| &host.name);
    let clusters = of(Kind::Cluster);
    let endpoints = of(Kind::Endpoints).into_iter().map(|of| of.config("endpoint_config"));
    json!({
        "configs": [
            {
                "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
                "static_listeners": own.into_iter().map(|listener| static_listener(listener)).collect::<Vec<_>>(),
                "dynamic_listeners": of(Kind::Listener).into_iter().map(Entry::listener).collect::<Vec<_>>(),
            },
            {
                "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
                "dynamic_active_clusters": clusters.iter().filter_map(Entry::active_cluster).collect::<Vec<_>>(),
                "dynamic_warming_clusters": clusters.iter().filter_map(Entry::warming_cluster).collect::<Vec<_>>(),
            },
            {
                "@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump",
                "dynamic_route_configs":
                    of(Kind::Route).into_iter().map(|of| of.config("route_config")).collect::<Vec<_>>(),
            },
            {
                "@type": "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump",
                "dynamic_endpoint_configs": endpoints.collect::<Vec<_>>(),
            },
        ],
        "generation": generation,
        "control_plane": control_plane(status),
        "rejected_responses": rejected_responses(status),
        "registration": registration(status),
        "destinations": destinations.into_iter().map(|(name, of)| json!({
            "name": &**name, "canonical": &*of.canonical,
        })).collect::<Vec<_>>(),
        "hosts": hosts.into_iter().map(|host| json!({
            "name": &*host.name, "addresses": host.addresses,
        })).collect::<Vec<_>>(),
    })
}

/// A resource, and the refusal of its newest version.
#[derive(Default)]
struct Entry<'a> {
    name: &'a str,
    active: Option<&'a ResourceState>,
    warming: Option<&'a ResourceState>,
    error_state: Option<Value>,
}

/// Returns all resources of a kind by name, including those of which no version was accepted.
fn entries<'a>(kind: Kind, resources: &'a [AcceptedResource], status: &'a Status) -> Vec<Entry<'a>> {
    let mut entries = BTreeMap::new();
    for resource in resources.iter().filter(|resource| resource.kind == kind) {
        let AcceptedResource { kind: _, name, active, warming } = resource;
        let (active, warming) = (active.as_ref(), warming.as_ref());
        entries.insert(&**name, Entry { name, active, warming, error_state: None });
    }
    for (name, refusal) in status.kinds.get(&kind).iter().flat_map(|of| &of.refusals) {
        let entry = entries.entry(name).or_insert_with(|| Entry { name, ..Entry::default() });
        entry.error_state = Some(error_state(kind, name, refusal));
    }
    entries.into_values().collect()
}

impl Entry<'_> {
    /// `ListenersConfigDump.DynamicListener`.
    fn listener(self) -> Value {
        let state = |of: &ResourceState| Value::Object(state("listener", of));
        let mut object = Map::from_iter([("name".to_owned(), json!(self.name))]);
        object.extend(self.active.map(|of| ("active_state".to_owned(), state(of))));
        object.extend(self.warming.map(|of| ("warming_state".to_owned(), state(of))));
        self.with_status(object)
    }

    /// `ClustersConfigDump.DynamicCluster` of the active version; without one, of the refusal alone.
    fn active_cluster(&self) -> Option<Value> {
        let state = self.active.map(|active| state("cluster", active));
        (state.is_some() || self.warming.is_none()).then(|| self.with_status(state.unwrap_or_default()))
    }

    /// `ClustersConfigDump.DynamicCluster` of the version that is not warm yet.
    fn warming_cluster(&self) -> Option<Value> {
        Some(self.with_status(state("cluster", self.warming?)))
    }

    /// A dump of a resource type that Envoy shows without warming: of the active version, or else of the one that is not warm yet.
    fn config(self, field: &str) -> Value {
        let state = self.active.or(self.warming).map(|of| state(field, of));
        self.with_status(state.unwrap_or_default())
    }

    fn with_status(&self, mut object: Map<String, Value>) -> Value {
        let client_status = if self.error_state.is_some() { "NACKED" } else { "ACKED" };
        object.insert("client_status".to_owned(), json!(client_status));
        object.extend(self.error_state.clone().map(|error| ("error_state".to_owned(), error)));
        Value::Object(object)
    }
}

fn state(field: &str, state: &ResourceState) -> Map<String, Value> {
    let ResourceState { version, received, json } = state;
    let mut object =
        Map::from_iter([("version_info".to_owned(), json!(version)), (field.to_owned(), json.clone())]);
    object.extend(received.and_then(time).map(|at| ("last_updated".to_owned(), json!(at))));
    object
}

/// `envoy.admin.v3.UpdateFailureState`. Of the refused configuration only the name is known.
fn error_state(kind: Kind, name: &str, refusal: &Refusal) -> Value {
    let field = if kind == Kind::Endpoints { "cluster_name" } else { "name" };
    json!({
        "failed_configuration": { "@type": kind.type_url(), field: name },
        "last_update_attempt": time(refusal.since),
        "details": refusal.reason,
    })
}

/// A listener that the flags define.
fn static_listener(listener: &Listener) -> Value {
    let address = json!({ "address": listener.address.ip(), "port_value": listener.address.port() });
    json!({ "listener": {
        "@type": Kind::Listener.type_url(),
        "name": &*listener.name,
        "address": { "socket_address": address },
        "traffic_direction": match listener.direction {
            Direction::Inbound => "INBOUND",
            Direction::Outbound => "OUTBOUND",
            Direction::Unspecified => "UNSPECIFIED",
        },
    } })
}

/// The last response that was rejected as a whole, by discovery service.
fn rejected_responses(status: &Status) -> Value {
    let of = status.kinds.iter().filter_map(|(kind, of)| Some((kind, of.last_refused_response.as_ref()?)));
    let of = of.map(|(kind, Refusal { reason, since })| {
        (kind.service().to_owned(), json!({ "details": reason, "last_update_attempt": time(*since) }))
    });
    Value::Object(of.collect())
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

fn registration(status: &Status) -> Value {
    let of = &status.registration;
    json!({
        "registered_since": of.registered_since.and_then(time),
        "lease_seconds": of.lease.map(|lease| lease.as_secs_f64()),
        "refused": of.refused.iter().map(|(port, why)| json!({ "port": port, "reason": why })).collect::<Vec<_>>(),
        "last_failure": of.last_failure,
    })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    const EPOCH: &str = "1970-01-01T00:00:00Z";

    fn state_of(kind: Kind, version: &str) -> ResourceState {
        let json = json!({ "@type": kind.type_url(), "version": version });
        ResourceState { version: version.into(), received: Some(SystemTime::UNIX_EPOCH), json }
    }

    fn resource(kind: Kind, active: Option<&str>, warming: Option<&str>) -> AcceptedResource {
        let state = |version| state_of(kind, version);
        AcceptedResource { kind, name: "cart".into(), active: active.map(state), warming: warming.map(state) }
    }

    fn refused(kind: Kind, name: &str) -> Status {
        let mut status = Status::default();
        let refusal = Refusal { reason: "no such field".into(), since: SystemTime::UNIX_EPOCH };
        status.kinds.entry(kind).or_default().refusals.insert(name.into(), refusal);
        status
    }

    /// Returns the only entry of a list of the page.
    fn only<'a>(page: &'a Value, dump: &str, list: &str) -> &'a Value {
        let kind = format!("type.googleapis.com/envoy.admin.v3.{dump}");
        let dump = page["configs"].as_array().unwrap().iter().find(|of| of["@type"] == kind).unwrap();
        let entries = dump[list].as_array().unwrap();
        assert_eq!(entries.len(), 1, "{page:#}");
        &entries[0]
    }

    #[test]
    fn each_kind_is_shown_in_the_shape_of_envoy() {
        let resources = [
            resource(Kind::Listener, Some("1"), Some("2")),
            resource(Kind::Cluster, Some("3"), None),
            resource(Kind::Route, Some("4"), None),
            resource(Kind::Endpoints, None, Some("5")),
        ];
        let page = config_dump(&Snapshot::default(), &resources, &Status::default());
        let json = |kind, version| state_of(kind, version).json;
        let listener = only(&page, "ListenersConfigDump", "dynamic_listeners");
        assert_eq!(listener["name"], "cart");
        assert_eq!(listener["active_state"]["listener"], json(Kind::Listener, "1"));
        assert_eq!(listener["warming_state"]["version_info"], "2");
        let cluster = only(&page, "ClustersConfigDump", "dynamic_active_clusters");
        let expected = json!({
            "version_info": "3",
            "cluster": json(Kind::Cluster, "3"),
            "last_updated": EPOCH,
            "client_status": "ACKED",
        });
        assert_eq!(*cluster, expected);
        let route = only(&page, "RoutesConfigDump", "dynamic_route_configs");
        assert_eq!(route["route_config"], json(Kind::Route, "4"));
        let endpoints = only(&page, "EndpointsConfigDump", "dynamic_endpoint_configs");
        assert_eq!(endpoints["endpoint_config"], json(Kind::Endpoints, "5"));
    }

    #[test]
    fn a_refusal_is_the_error_state_of_the_version_in_use() {
        let held = [resource(Kind::Route, Some("7"), None)];
        let page = config_dump(&Snapshot::default(), &held, &refused(Kind::Route, "cart"));
        let route = only(&page, "RoutesConfigDump", "dynamic_route_configs");
        assert_eq!((&route["version_info"], &route["client_status"]), (&json!("7"), &json!("NACKED")));
        let error = json!({
            "failed_configuration": { "@type": Kind::Route.type_url(), "name": "cart" },
            "last_update_attempt": EPOCH,
            "details": "no such field",
        });
        assert_eq!(route["error_state"], error);
    }

    #[test]
    fn a_resource_of_which_no_version_was_accepted_is_named_by_its_refusal() {
        for (kind, dump, list, field) in [
            (Kind::Listener, "ListenersConfigDump", "dynamic_listeners", "name"),
            (Kind::Cluster, "ClustersConfigDump", "dynamic_active_clusters", "name"),
            (Kind::Route, "RoutesConfigDump", "dynamic_route_configs", "name"),
            (Kind::Endpoints, "EndpointsConfigDump", "dynamic_endpoint_configs", "cluster_name"),
        ] {
            let page = config_dump(&Snapshot::default(), &[], &refused(kind, "cart"));
            let entry = only(&page, dump, list);
            assert_eq!(entry["error_state"]["failed_configuration"][field], "cart", "{page:#}");
            assert!(entry.get("version_info").is_none());
        }
    }

    #[test]
    fn a_cluster_that_is_not_warm_is_listed_apart() {
        let page = config_dump(
            &Snapshot::default(),
            &[resource(Kind::Cluster, None, Some("1"))],
            &Status::default(),
        );
        assert_eq!(only(&page, "ClustersConfigDump", "dynamic_warming_clusters")["version_info"], "1");
        assert_eq!(page["configs"][1]["dynamic_active_clusters"], json!([]));
    }
}
