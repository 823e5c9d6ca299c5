//! Endpoints as a table, from `/clusters`.

use serde_json::Value;

use super::clusters::is_healthy;
use super::dump::{list, text};
use crate::output::table::{Table, Tone};

/// Returns the table of the endpoints of `clusters`.
pub(super) fn table(clusters: &[&Value], wide: bool) -> String {
    let mut header = vec!["ENDPOINT", "HEALTH", "EJECTED", "TLS", "CLUSTER"];
    if wide {
        header.extend(["IDENTITY", "INSTANCE", "VERSION", "WEIGHT", "PRIORITY", "ACTIVE", "LATENCY"]);
    }
    let mut table = Table::new(&header);
    for cluster in clusters {
        for endpoint in list(&cluster["endpoints"]) {
            let yes = |field: &str| if endpoint[field] == true { "yes" } else { "no" };
            let mut cells: Vec<String> = [
                text(&endpoint["address"]),
                text(&endpoint["health"]),
                yes("ejected"),
                yes("tls"),
                text(&cluster["name"]),
            ]
            .map(str::to_owned)
            .into();
            if wide {
                cells.extend(
                    ["spiffe_id", "instance", "version"].map(|field| text(&endpoint[field]).to_owned()),
                );
                cells.extend(["weight", "priority", "active_requests"].map(|field| number(&endpoint[field])));
                let latency = endpoint["latency_ewma_ms"].as_f64();
                cells.push(latency.map(|latency| format!("{latency:.1}ms")).unwrap_or_default());
            }
            table.row(if is_healthy(endpoint) { Tone::Plain } else { Tone::Warning }, cells);
        }
    }
    table.to_text()
}

fn number(value: &Value) -> String {
    value.as_u64().map(|number| number.to_string()).unwrap_or_default()
}
