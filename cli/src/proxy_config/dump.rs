//! The resources on a proxy's `/config_dump`, which has the shape of `envoy.admin.v3.ConfigDump`.

use serde_json::Value;

use crate::output::table::{Table, Tone};

/// A resource type on the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Listener,
    Route,
    Cluster,
}

impl Kind {
    /// The type of its part of the page, and the field of a resource in an entry.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Listener => ("ListenersConfigDump", "listener"),
            Self::Route => ("RoutesConfigDump", "route_config"),
            Self::Cluster => ("ClustersConfigDump", "cluster"),
        }
    }
}

/// One resource.
#[derive(Debug)]
pub(super) struct Resource<'a> {
    pub(super) name: &'a str,
    /// The resource as it was sent. Null if no version of it was accepted.
    pub(super) config: &'a Value,
    /// `ACKED`, `NACKED`, `WARMING` or `STATIC`.
    pub(super) status: &'static str,
    pub(super) version: &'a str,
    /// Why the newest version was refused. Empty if it was accepted.
    pub(super) refused: &'a str,
    /// The port of a listener that has an address.
    pub(super) ports: Vec<u16>,
    /// The whole entry of the page.
    pub(super) entry: &'a Value,
}

impl Resource<'_> {
    /// Returns the colour of its row.
    pub(super) fn tone(&self) -> Tone {
        match self.status {
            "NACKED" => Tone::Error,
            "WARMING" => Tone::Warning,
            _ => Tone::Plain,
        }
    }
}

/// Returns the resources of one kind in the order of the page.
pub(super) fn resources(page: &Value, kind: Kind) -> Vec<Resource<'_>> {
    let (dump, field) = kind.names();
    let of_kind = |part: &&Value| text(&part["@type"]).ends_with(dump);
    let lists = list(&page["configs"]).iter().filter(of_kind).filter_map(Value::as_object).flatten();
    lists
        .filter(|(name, _)| *name != "@type")
        .flat_map(|(name, entries)| list(entries).iter().map(move |entry| resource(name, entry, field)))
        .collect()
}

fn resource<'a>(list: &str, entry: &'a Value, field: &str) -> Resource<'a> {
    // Only listeners have their states side by side.
    let states = [&entry["active_state"], &entry["warming_state"], entry];
    let state = states.into_iter().find(|state| state[field].is_object()).unwrap_or(entry);
    let (config, error) = (&state[field], &entry["error_state"]);
    let names = [&config["name"], &entry["name"], &error["failed_configuration"]["name"]];
    let is_warming =
        list.contains("warming") || (entry["active_state"].is_null() && entry["warming_state"].is_object());
    let status = match (list.starts_with("static"), error.is_object(), is_warming) {
        (true, _, _) => "STATIC",
        (_, true, _) => "NACKED",
        (_, _, true) => "WARMING",
        (false, false, false) => "ACKED",
    };
    let port = config["address"]["socket_address"]["port_value"].as_u64();
    Resource {
        name: names.into_iter().find_map(Value::as_str).unwrap_or_default(),
        config,
        status,
        version: text(&state["version_info"]),
        refused: text(&error["details"]),
        ports: port.and_then(|port| port.try_into().ok()).into_iter().collect(),
        entry,
    }
}

/// Returns the table of the refused resources, or an empty text.
pub(super) fn refusals(resources: &[Resource<'_>]) -> String {
    let mut table = Table::new(&["NAME", "REASON"]);
    for resource in resources.iter().filter(|resource| !resource.refused.is_empty()) {
        table.row(Tone::Error, [resource.name, resource.refused]);
    }
    match table.to_text() {
        none if none.is_empty() => none,
        rows => format!("\nRefused, the last good version stays active:\n{rows}"),
    }
}

/// The parts of a name such as `cart.shop.svc.cluster.local:80` or `cart:80`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ServiceName<'a> {
    pub(super) namespace: Option<&'a str>,
    pub(super) port: Option<u16>,
}

impl<'a> ServiceName<'a> {
    /// Parses a name. Every part is optional.
    pub(super) fn of(name: &'a str) -> Self {
        // The cluster of one endpoint: 10.0.0.5:8080@cart.shop.svc.cluster.local:80.
        let name = name.rsplit_once('@').map_or(name, |(_, service)| service);
        let (host, port) = name.rsplit_once(':').unwrap_or((name, ""));
        let mut labels = host.split('.').skip(1);
        let namespace = labels.next().filter(|_| labels.next() == Some("svc"));
        Self { namespace, port: port.parse().ok() }
    }
}

/// Returns the text of a string, and an empty one of anything else.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Returns the elements of a list, and none of anything else.
pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Returns `10.0.0.5:80` of an `envoy.config.core.v3.Address`.
pub(super) fn address(address: &Value) -> String {
    let socket = &address["socket_address"];
    match (socket["address"].as_str(), socket["port_value"].as_u64()) {
        (Some(ip), Some(port)) if ip.contains(':') => format!("[{ip}]:{port}"),
        (Some(ip), Some(port)) => format!("{ip}:{port}"),
        _ => String::new(),
    }
}
