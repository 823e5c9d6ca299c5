//! Listeners as a table.

use serde_json::Value;

use super::dump::{Resource, address, list, text};
use crate::output::table::Table;

/// Returns the table.
pub(super) fn table(listeners: &[Resource<'_>], wide: bool) -> String {
    let mut header = vec!["NAME", "ADDRESS", "DIRECTION", "PROTOCOL", "DESTINATION", "STATUS"];
    header.extend(wide.then_some("VERSION"));
    let mut table = Table::new(&header);
    for listener in listeners {
        let config = listener.config;
        let mut cells = vec![
            listener.name.to_owned(),
            address(&config["address"]),
            text(&config["traffic_direction"]).to_lowercase(),
            protocols(config),
            destinations(config),
            listener.status.to_owned(),
        ];
        cells.extend(wide.then(|| listener.version.to_owned()));
        table.row(listener.tone(), cells);
    }
    table.to_text()
}

/// Returns what the filter chains handle: `HTTP`, `TCP`, or both if the protocol is detected.
fn protocols(config: &Value) -> String {
    let filters =
        || chains(config).flat_map(|chain| list(&chain["filters"])).map(|filter| text(&filter["name"]));
    let api = &config["api_listener"];
    let http = api.is_object() || filters().any(|name| name.ends_with("http_connection_manager"));
    let tcp = filters().any(|name| name.ends_with("tcp_proxy"));
    let names = [(http, "HTTP"), (tcp, "TCP")];
    names.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect::<Vec<_>>().join(",")
}

fn chains(config: &Value) -> impl Iterator<Item = &Value> {
    list(&config["filter_chains"]).iter().chain([&config["default_filter_chain"]])
}

/// Returns the destinations in the metadata of the listener and its chains, each once.
fn destinations(config: &Value) -> String {
    let of = |value: &Value| {
        text(&value["metadata"]["filter_metadata"]["outrigger.destination"]["name"]).to_owned()
    };
    let mut all: Vec<_> = chains(config).chain([config]).map(of).filter(|name| !name.is_empty()).collect();
    all.sort_unstable();
    all.dedup();
    all.join(",")
}
