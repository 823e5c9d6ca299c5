//! Routes as a table: a row for each route, in the order in which they are matched.

use serde_json::Value;

use super::dump::{Resource, list, text};
use crate::output::table::Table;

/// Returns the table.
pub(super) fn table(configurations: &[Resource<'_>], wide: bool) -> String {
    let mut header = vec!["NAME", "MATCH", "DESTINATION", "ROUTE"];
    if wide {
        header.extend(["DOMAINS", "TIMEOUT", "RETRIES", "STATUS", "VERSION"]);
    }
    let mut table = Table::new(&header);
    for configuration in configurations {
        let tone = configuration.tone();
        let hosts = list(&configuration.config["virtual_hosts"]).iter();
        let routes = hosts.flat_map(|host| list(&host["routes"]).iter().map(move |route| (host, route)));
        let mut rows = 0;
        for (host, route) in routes {
            let mut cells = vec![
                configuration.name.to_owned(),
                requests(&route["match"]),
                destination(route),
                text(&route["name"]).to_owned(),
            ];
            if wide {
                let domains: Vec<_> = list(&host["domains"]).iter().map(text).collect();
                cells.extend([domains.join(","), timeout(route), retries(route)]);
                cells.extend([configuration.status, configuration.version].map(str::to_owned));
            }
            table.row(tone, cells);
            rows += 1;
        }
        if rows == 0 {
            let mut cells = vec![configuration.name, "", "", ""];
            if wide {
                cells.extend(["", "", "", configuration.status, configuration.version]);
            }
            table.row(tone, cells);
        }
    }
    table.to_text()
}

/// Returns which requests a route matches: `GET /cart/* x-canary=yes ?debug=1`. `~` stands before a regular expression.
fn requests(of: &Value) -> String {
    let mut words = Vec::new();
    let (methods, headers): (Vec<_>, Vec<_>) =
        list(&of["headers"]).iter().partition(|header| header["name"] == ":method");
    words.extend(methods.into_iter().map(|header| value(&header["string_match"])));
    words.push(path(of));
    let pair = |prefix: &str, header: &Value| {
        format!("{prefix}{}={}", text(&header["name"]), value(&header["string_match"]))
    };
    words.extend(headers.into_iter().map(|header| pair("", header)));
    words.extend(list(&of["query_parameters"]).iter().map(|parameter| pair("?", parameter)));
    words.join(" ")
}

fn path(of: &Value) -> String {
    match ["path", "prefix", "path_separated_prefix"].map(|field| of[field].as_str()) {
        [Some(path), _, _] => path.to_owned(),
        [_, Some(prefix), _] => format!("{prefix}*"),
        [_, _, Some(prefix)] => format!("{prefix}/*"),
        [None, None, None] => format!("~{}", text(&of["safe_regex"]["regex"])),
    }
}

/// Returns the value that a `StringMatcher` wants.
fn value(of: &Value) -> String {
    match (&of["exact"], &of["prefix"], &of["safe_regex"]["regex"]) {
        (Value::String(exact), _, _) => exact.clone(),
        (_, Value::String(prefix), _) => format!("{prefix}*"),
        (_, _, Value::String(regex)) => format!("~{regex}"),
        // A credential, which the proxy does not show, is a text in place of the matcher.
        _ => of.as_str().unwrap_or("?").to_owned(),
    }
}

/// Returns where a route leads: clusters with their shares, a redirect, or the status of a direct response.
fn destination(route: &Value) -> String {
    let action = &route["route"];
    if let Some(cluster) = action["cluster"].as_str() {
        return cluster.to_owned();
    }
    let weighted = list(&action["weighted_clusters"]["clusters"]);
    if !weighted.is_empty() {
        let weight = |cluster: &Value| cluster["weight"].as_u64().unwrap_or_default();
        let total = weighted.iter().map(weight).sum::<u64>().max(1);
        let share = |cluster: &Value| {
            let percent = format!("{:.1}", weight(cluster) as f64 * 100.0 / total as f64);
            let percent = percent.strip_suffix(".0").unwrap_or(&percent);
            format!("{} ({percent}%)", text(&cluster["name"]))
        };
        return weighted.iter().map(share).collect::<Vec<_>>().join(", ");
    }
    if let Some(status) = route["direct_response"]["status"].as_u64() {
        return format!("answer {status}");
    }
    if route["redirect"].is_object() { "redirect".to_owned() } else { String::new() }
}

/// Returns the time limit of a request. 0 means none, as in Envoy.
fn timeout(route: &Value) -> String {
    match text(&route["route"]["timeout"]) {
        "0s" => "none".to_owned(),
        limit => limit.to_owned(),
    }
}

fn retries(route: &Value) -> String {
    match route["route"]["retry_policy"]["num_retries"].as_u64() {
        Some(number) => number.to_string(),
        None => String::new(),
    }
}
