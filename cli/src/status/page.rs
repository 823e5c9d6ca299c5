//! The text of `outrigger status`: one line about the control plane, a table of the proxies, and a table for each kind of problem
//! that there is.

use std::collections::HashSet;

use jiff::Timestamp;
use outrigger_control_plane::status::{RegistrationStatus, ResourceStatus, Status, StreamStatus, TypeStatus};

use crate::output::table::{NONE, Table, Tone, printable};
use crate::output::time::{has_passed, relative};

/// The resource types, in the order in which a request passes them.
const TYPES: [&str; 4] = ["lds", "rds", "cds", "eds"];

/// Returns the page. `wide` adds columns, and the table of registered workloads.
pub(super) fn page(status: &Status, wide: bool, now: Timestamp) -> String {
    let Status { version, trust_domain, services, proxies, certificates_issued, .. } = status;
    let mut page = format!(
        "control plane {version}, trust domain {trust_domain}; services: {services}, connected proxies: {}, \
         certificates issued: {certificates_issued}\n",
        proxies.len()
    );
    let connected: HashSet<_> = proxies.iter().map(|proxy| (&proxy.node, &proxy.identity)).collect();
    let disconnected =
        workloads(status, |workload| !connected.contains(&(&workload.instance, &workload.identity)));
    let workloads = if wide { workloads(status, |_| true) } else { String::new() };
    for (title, text) in [
        ("", self::proxies(proxies, wide, now)),
        ("Refused by proxies:\n", refused_by_proxies(proxies, now)),
        ("Refused configuration:\n", lines(&status.refusals)),
        ("Ignored fields:\n", lines(&status.ignored_fields)),
        ("Routes and policies that do not apply as written:\n", lines(&status.unmet_conditions)),
        ("Endpoints that are not ready:\n", endpoints(status)),
        ("Pods without the sidecar that they are to have (restart them):\n", pods(status)),
        ("Registered workloads without a connected proxy:\n", disconnected),
        ("Registered workloads:\n", workloads),
        ("Problems of the control plane:\n", lines(&status.problems)),
    ] {
        if !text.is_empty() {
            page.push_str(&format!("\n{title}{text}"));
        }
    }
    page
}

fn proxies(proxies: &[StreamStatus], wide: bool, now: Timestamp) -> String {
    let mut header = vec!["PROXY", "IDENTITY", "VERSION", "CONFIGURATION", "CERTIFICATE ENDS", "REFUSED"];
    if wide {
        header.extend(["MODE", "LDS", "RDS", "CDS", "EDS", "CONNECTED"]);
    }
    let mut table = Table::new(&header);
    for proxy in proxies {
        let resources = || proxy.types.iter().flat_map(|kind| &kind.resources);
        let refused = resources().filter(|resource| resource.nacked.is_some()).count();
        let stale = proxy.types.iter().any(is_stale);
        let end = proxy.certificate_expires.as_deref().unwrap_or_default();
        let tone = match (refused > 0 || has_passed(end, now), stale) {
            (true, _) => Tone::Error,
            (false, true) => Tone::Warning,
            (false, false) => Tone::Plain,
        };
        let ends = if wide { end.to_owned() } else { relative(end, now) };
        let state = if stale { "STALE" } else { "SYNCED" };
        let mut cells: Vec<String> = [&proxy.node, &proxy.identity, &proxy.software].map(Clone::clone).into();
        cells.extend([state.to_owned(), ends, refused.to_string()]);
        if wide {
            cells.push(proxy.mode.to_string());
            cells.extend(TYPES.map(|kind| of_type(proxy, kind)));
            cells.push(relative(&proxy.since, now));
        }
        table.row(tone, cells);
    }
    table.to_text()
}

/// Returns true if something that was sent is not acknowledged.
fn is_stale(kind: &TypeStatus) -> bool {
    kind.waiting || kind.resources.iter().any(|resource| !is_acknowledged(resource))
}

/// Returns true if the version that was sent last is acknowledged. A resource that was not sent has nothing to acknowledge.
fn is_acknowledged(resource: &ResourceStatus) -> bool {
    resource.sent.is_none() || resource.acked == resource.sent
}

/// Returns the state of one type and how many of its resources are acknowledged: `SYNCED 5`, `STALE 4/5`.
fn of_type(proxy: &StreamStatus, name: &str) -> String {
    let Some(kind) = proxy.types.iter().find(|kind| kind.kind == name) else { return NONE.into() };
    let sent = || kind.resources.iter().filter(|resource| resource.sent.is_some());
    let acknowledged = sent().filter(|resource| is_acknowledged(resource)).count();
    match is_stale(kind) {
        false => format!("SYNCED {acknowledged}"),
        true => format!("STALE {acknowledged}/{}", sent().count()),
    }
}

fn refused_by_proxies(proxies: &[StreamStatus], now: Timestamp) -> String {
    let mut table = Table::new(&["PROXY", "TYPE", "RESOURCE", "SINCE", "REASON"]);
    for proxy in proxies {
        for kind in &proxy.types {
            for resource in &kind.resources {
                if let Some(nack) = &resource.nacked {
                    let since = relative(&nack.since, now);
                    table.row(Tone::Error, [&proxy.node, &*kind.kind, &resource.name, &since, &nack.detail]);
                }
            }
        }
    }
    table.to_text()
}

fn endpoints(status: &Status) -> String {
    let mut table = Table::new(&["SERVICE", "NAMESPACE", "PORT", "ADDRESS", "INSTANCE", "HEALTH"]);
    for endpoint in &status.endpoints_not_ready {
        let (port, instance) = (endpoint.port.to_string(), endpoint.instance.as_deref().unwrap_or_default());
        let (service, namespace) = (&endpoint.service, &endpoint.namespace);
        table.row(Tone::Warning, [service, namespace, &port, &endpoint.address, instance, &endpoint.health]);
    }
    table.to_text()
}

fn pods(status: &Status) -> String {
    let mut table = Table::new(&["NAMESPACE", "POD"]);
    for pod in &status.pods_without_sidecar {
        table.row(Tone::Warning, [&pod.namespace, &pod.name]);
    }
    table.to_text()
}

fn workloads(status: &Status, shown: impl Fn(&RegistrationStatus) -> bool) -> String {
    let mut table = Table::new(&["INSTANCE", "IDENTITY", "HEALTH", "SERVES"]);
    for workload in status.registrations.iter().filter(|workload| shown(workload)) {
        let tone = if workload.health == "ready" { Tone::Plain } else { Tone::Warning };
        let serves = workload.serves.join(", ");
        table.row(tone, [&workload.instance, &workload.identity, &workload.health, &serves]);
    }
    table.to_text()
}

fn lines(reasons: &[String]) -> String {
    reasons.iter().map(|reason| format!("  {}\n", printable(reason))).collect()
}

#[cfg(test)]
mod tests {
    use outrigger_control_plane::status::PodStatus;
    use serde_json::{Value, json};

    use super::*;

    fn status(types: Value) -> Status {
        let proxy = json!({
            "node": "web-1", "identity": "spiffe://cluster.local/ns/shop/sa/web", "namespace": "shop",
            "software": "outrigger 0.1.0", "certificate_expires": "2026-11-29T11:30:00Z",
            "mode": "on-demand", "since": "2026-11-28T11:50:00Z", "types": types,
        });
        let status = json!({
            "version": "0.1.0", "trust_domain": "cluster.local", "services": 1, "proxies": [proxy],
            "refusals": [], "registrations": [], "certificates_issued": 1,
        });
        serde_json::from_value(status).unwrap()
    }

    fn text(status: &Status, wide: bool) -> String {
        let page = page(status, wide, "2026-11-28T12:00:00Z".parse().unwrap());
        anstream::adapter::strip_str(&page).to_string()
    }

    fn kind(name: &str, waiting: bool, resources: &[Value]) -> Value {
        json!({ "kind": name, "wildcard": false, "waiting": waiting, "resources": resources })
    }

    fn acknowledged(name: &str) -> Value {
        json!({ "name": name, "sent": "1", "acked": "1" })
    }

    #[test]
    fn a_proxy_is_synced_once_it_has_acknowledged_everything() {
        let absent = json!({ "name": "none:80" });
        let types = json!([kind("lds", false, &[acknowledged("cart:80"), absent])]);
        assert_eq!(
            text(&status(types), false),
            "\
control plane 0.1.0, trust domain cluster.local; services: 1, connected proxies: 1, certificates issued: 1

PROXY  IDENTITY                               VERSION          CONFIGURATION  CERTIFICATE ENDS  REFUSED
web-1  spiffe://cluster.local/ns/shop/sa/web  outrigger 0.1.0  SYNCED         in 23h            0
"
        );
    }

    #[test]
    fn the_wide_page_has_the_state_of_each_type() {
        let types = json!([
            kind("lds", false, &[acknowledged("cart:80")]),
            kind("cds", true, &[acknowledged("a"), json!({ "name": "b", "sent": "1" })]),
        ]);
        let text = text(&status(types), true);
        let row = text.lines().find(|line| line.starts_with("web-1")).unwrap();
        let cells: Vec<_> = row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).skip(3).collect();
        assert_eq!(
            cells,
            ["STALE", "2026-11-29T11:30:00Z", "0", "on-demand", "SYNCED 1", "-", "STALE 1/2", "-", "10m ago"]
        );
    }

    #[test]
    fn what_a_proxy_refused_is_listed_with_the_reason() {
        let resource = json!({
            "name": "cart.shop.svc.cluster.local:80", "sent": "2", "acked": "1",
            "nacked": { "version": "2", "detail": "retry_policy: no such thing", "since": "2026-11-28T11:59:00Z" },
        });
        let text = text(&status(json!([kind("rds", false, &[resource])])), false);
        assert!(text.contains("STALE          in 23h            1\n"), "{text}");
        let refused = "\nRefused by proxies:\nPROXY  TYPE  RESOURCE                        SINCE    REASON\n\
                       web-1  rds   cart.shop.svc.cluster.local:80  60s ago  retry_policy: no such thing\n";
        assert!(text.ends_with(refused), "{text}");
    }

    #[test]
    fn refused_files_endpoints_that_are_not_ready_and_problems_have_a_table_each() {
        let mut status = status(json!([]));
        status.refusals = vec!["shop.yaml, document 2: HTTPRoute shop/cart: spec.rules: is no list".into()];
        let unmet = "AuthorizationPolicy shop/a, Service crat: Accepted=False (TargetNotFound)";
        status.unmet_conditions = vec![unmet.into()];
        status.problems = vec!["the state cannot be written".into()];
        status.endpoints_not_ready = serde_json::from_value(json!([{
            "namespace": "shop", "service": "cart", "port": 80, "address": "10.0.0.1:9080", "health": "draining",
        }]))
        .unwrap();
        status.pods_without_sidecar = vec![PodStatus { namespace: "shop".into(), name: "web-1".into() }];
        let text = text(&status, false);
        for expected in [
            "\nPods without the sidecar that they are to have (restart them):\nNAMESPACE  POD\nshop       web-1\n",
            "\nRefused configuration:\n  shop.yaml, document 2: HTTPRoute shop/cart: spec.rules: is no list\n",
            "\nRoutes and policies that do not apply as written:\n  AuthorizationPolicy shop/a, Service crat: Accepted=False (TargetNotFound)\n",
            "\nEndpoints that are not ready:\nSERVICE  NAMESPACE  PORT  ADDRESS        INSTANCE  HEALTH\n\
             cart     shop       80    10.0.0.1:9080  -         draining\n",
            "\nProblems of the control plane:\n  the state cannot be written\n",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }

    #[test]
    fn a_registered_workload_whose_proxy_is_not_connected_is_listed() {
        let mut status = status(json!([]));
        let workload = |instance: &str| {
            json!({
                "instance": instance, "identity": "spiffe://cluster.local/ns/shop/sa/web", "health": "ready",
                "serves": ["web.shop:80 at 10.0.0.1:9080"],
            })
        };
        status.registrations = serde_json::from_value(json!([workload("web-1"), workload("web-2")])).unwrap();
        let text = text(&status, false);
        let listed = text.split_once("without a connected proxy:\n").unwrap().1;
        assert!(listed.contains("web-2") && !listed.contains("web-1"), "{text}");
    }
}
