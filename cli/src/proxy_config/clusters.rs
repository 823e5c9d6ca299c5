//! Clusters as a table, with their use from `/clusters`.

use serde_json::Value;

use super::dump::{Resource, list, text};
use crate::output::table::{Table, Tone};

/// Returns the table.
pub(super) fn table(clusters: &[Resource<'_>], usage: &Value, wide: bool) -> String {
    let mut header = vec!["NAME", "TYPE", "PROTOCOL", "HEALTHY", "STATUS"];
    if wide {
        header.extend(["BALANCING", "CONNECT TIMEOUT", "ATTEMPTS", "RETRIES", "CONNECTIONS", "VERSION"]);
    }
    let mut table = Table::new(&header);
    for cluster in clusters {
        let config = cluster.config;
        let state = list(usage).iter().find(|of| of["name"] == cluster.name).unwrap_or(&Value::Null);
        let endpoints = list(&state["endpoints"]);
        let healthy = endpoints.iter().filter(|endpoint| is_healthy(endpoint)).count();
        let tone = match cluster.tone() {
            Tone::Plain if healthy == 0 || healthy < endpoints.len() => Tone::Warning,
            tone => tone,
        };
        let mut cells = vec![
            cluster.name.to_owned(),
            text(&config["type"]).to_owned(),
            protocol(config).to_owned(),
            format!("{healthy}/{}", endpoints.len()),
            cluster.status.to_owned(),
        ];
        if wide {
            let count = |field: &str| state["use"][field].as_u64().unwrap_or_default().to_string();
            cells.extend([balancing(config), text(&config["connect_timeout"])].map(str::to_owned));
            cells.extend([count("attempts"), count("retries"), count("connections_open")]);
            cells.push(cluster.version.to_owned());
        }
        table.row(tone, cells);
    }
    table.to_text()
}

/// Returns true if an endpoint of `/clusters` gets requests.
pub(super) fn is_healthy(endpoint: &Value) -> bool {
    endpoint["health"] == "healthy" && endpoint["ejected"] != true
}

/// Returns the protocol of requests to the endpoints.
fn protocol(config: &Value) -> &'static str {
    let options = config["typed_extension_protocol_options"].as_object().into_iter().flatten();
    let mut explicit = options.map(|(_, options)| &options["explicit_http_config"]);
    match explicit.find(|config| config.is_object()) {
        Some(config) if config["http2_protocol_options"].is_object() => "HTTP/2",
        Some(_) => "HTTP/1.1",
        None if config.is_null() => "",
        None => "TCP",
    }
}

/// Returns the name of the first balancing policy, without its prefix.
fn balancing(config: &Value) -> &str {
    let policies = list(&config["load_balancing_policy"]["policies"]);
    let name = policies.first().map_or("", |policy| text(&policy["typed_extension_config"]["name"]));
    name.rsplit('.').next().unwrap_or_default()
}
