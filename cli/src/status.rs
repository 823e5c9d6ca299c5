//! `outrigger status`: the proxies, sources and registrations of a running control plane.

use clap::Args;
use outrigger_control_plane::status::{Status, fetch};

use crate::flags::ControlPlaneArgs;
use crate::output::OutputArgs;
use crate::runtime::block_on;

/// Prints the state of a running control plane.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    control_plane: ControlPlaneArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Needs a running control plane.
pub(crate) fn run(args: StatusArgs) -> Result<(), String> {
    let status = block_on(fetch(&args.control_plane.address()))?;
    args.output.print(&status, |_| describe(&status))
}

fn describe(status: &Status) -> String {
    let Status {
        trust_domain,
        services,
        proxies,
        refusals,
        ignored_fields,
        registrations,
        certificates_issued,
        problems,
    } = status;
    let mut text = format!(
        "trust domain {trust_domain}: {services} services, {} proxies connected, {certificates_issued} certificates issued\n",
        proxies.len()
    );
    for problem in problems {
        text.push_str(&format!("PROBLEM: {problem}\n"));
    }
    for proxy in proxies {
        text.push_str(&format!("proxy {} ({})\n", proxy.node, proxy.identity));
        for kind in &proxy.types {
            let acked =
                kind.resources.iter().filter(|one| one.sent.is_some() && one.acked == one.sent).count();
            let waiting = if kind.waiting { ", waiting for acknowledgement" } else { "" };
            let (name, sent) = (&kind.kind, kind.resources.iter().filter(|one| one.sent.is_some()).count());
            text.push_str(&format!("  {name}: {sent} sent, {acked} acknowledged{waiting}\n"));
            for resource in &kind.resources {
                if let Some(nack) = &resource.nacked {
                    text.push_str(&format!("  {name}: {} refused: {}\n", resource.name, nack.detail));
                }
            }
        }
    }
    for workload in registrations {
        text.push_str(&format!(
            "workload {} ({}): {}\n",
            workload.instance, workload.identity, workload.health
        ));
        for serves in &workload.serves {
            text.push_str(&format!("  {serves}\n"));
        }
    }
    for refusal in refusals {
        text.push_str(&format!("refused: {refusal}\n"));
    }
    for field in ignored_fields {
        text.push_str(&format!("ignored: {field}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_names_what_a_proxy_refused_and_why() {
        let resource = serde_json::json!({
            "name": "cart.shop.svc.cluster.local:80", "sent": "2", "acked": "1",
            "nacked": { "version": "2", "detail": "retry_policy: no such thing", "since": "now" },
        });
        let proxy = serde_json::json!({
            "node": "web-1", "identity": "spiffe://cluster.local/ns/shop/sa/web", "namespace": "shop",
            "mode": "on-demand", "since": "now",
            "types": [{ "kind": "rds", "wildcard": false, "waiting": false, "resources": [resource] }],
        });
        let status = serde_json::json!({
            "trust_domain": "cluster.local", "services": 1, "proxies": [proxy], "refusals": [],
            "registrations": [], "certificates_issued": 1,
        });
        let text = describe(&serde_json::from_value(status).unwrap());
        assert!(text.contains("proxy web-1 (spiffe://cluster.local/ns/shop/sa/web)\n"), "{text}");
        let refused = "  rds: cart.shop.svc.cluster.local:80 refused: retry_policy: no such thing\n";
        assert!(text.contains("  rds: 1 sent, 0 acknowledged\n") && text.contains(refused), "{text}");
    }
}
