//! `outrigger policy denials`: what authorization policies refused, and what policies on trial would refuse, by policy, caller and route.
//!
//! Sidecars count it since they started (`outrigger_authorization_denials_total`). The counts of all that are read are added up.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use outrigger::admin;
use outrigger_control_plane::kubernetes::client::ClusterAccess;
use outrigger_control_plane::kubernetes::scrape;
use serde::Serialize;

use crate::output::OutputArgs;
use crate::output::table::{Table, Tone, printable};
use crate::runtime::block_on;

const METRIC: &str = "outrigger_authorization_denials_total";

#[derive(Debug, Args)]
pub(super) struct DenialsArgs {
    /// Only those of policies on trial (action: Audit), or only those of enforced policies.
    #[arg(long, value_enum, value_name = "MODE", help_heading = "Filters")]
    mode: Option<Mode>,
    /// In a cluster: only the sidecars of this namespace.
    #[arg(short, long, env = "OUTRIGGER_NAMESPACE", help_heading = "Filters")]
    namespace: Option<String>,
    /// Admin addresses of sidecars. May be repeated.
    #[arg(long = "admin", value_name = "IP:PORT", env = "OUTRIGGER_PROXY_ADMIN", value_delimiter = ',')]
    #[arg(default_value = "127.0.0.1:15000", help_heading = "Proxy")]
    sidecars: Vec<SocketAddr>,
    /// All sidecars in the Kubernetes cluster of the kubeconfig.
    #[arg(long, help_heading = "Kubernetes", conflicts_with = "sidecars")]
    kubernetes: bool,
    /// The kubeconfig, instead of $KUBECONFIG or ~/.kube/config; implies --kubernetes.
    #[arg(long, value_name = "FILE", help_heading = "Kubernetes", conflicts_with = "sidecars")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig, instead of its current one; implies --kubernetes.
    #[arg(long, value_name = "NAME", help_heading = "Kubernetes", conflicts_with = "sidecars")]
    context: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Whether a policy is enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// It would have been refused.
    Audit,
    /// It was refused.
    Enforced,
}

/// The report.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Denials {
    denials: Vec<Denial>,
    /// The sidecars that cannot be read, and why.
    unread: Vec<String>,
}

/// Requests and TCP connections of one caller to one route, which one policy refused or would have.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Denial {
    mode: Mode,
    /// `shop/payments/0`, the namespace, the name and the rule; `none` if no policy allows them.
    policy: String,
    /// The verified identity of the caller. Empty without one.
    source: String,
    destination: String,
    /// Empty for connections.
    route: String,
    count: u64,
}

/// Needs running sidecars.
pub(super) fn run(args: DenialsArgs) -> Result<(), String> {
    let DenialsArgs { mode, namespace, sidecars, kubernetes, kubeconfig, context, output } = args;
    let in_cluster = kubernetes || kubeconfig.is_some() || context.is_some();
    let pages = block_on(async {
        if in_cluster {
            let access = ClusterAccess { kubeconfig, context };
            let read = scrape::sidecars(&access, namespace.as_deref()).await?;
            let page = |one: scrape::Scrape| (format!("Pod {}/{}", one.namespace, one.name), one.page);
            return Ok::<_, String>(read.into_iter().map(page).collect());
        }
        let mut pages = Vec::new();
        for address in sidecars {
            pages.push((address.to_string(), admin::text(address, "/metrics").await));
        }
        Ok(pages)
    })?;
    let all = pages.len();
    let report = report(&pages, mode);
    if all > 0 && report.unread.len() == all {
        return Err(report.unread.join("; "));
    }
    output.print(&report, |_| text(&report))
}

/// Adds up the counts of these pages, each with the name of its sidecar.
fn report(pages: &[(String, Result<String, String>)], only: Option<Mode>) -> Denials {
    let mut counts: BTreeMap<(Mode, [&str; 4]), u64> = BTreeMap::new();
    let mut unread = Vec::new();
    for (sidecar, page) in pages {
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                unread.push(format!("{sidecar}: {error}"));
                continue;
            }
        };
        for (labels, count) in admin::series(page, METRIC) {
            let label =
                |wanted: &str| labels.iter().find(|(name, _)| *name == wanted).map_or("", |(_, of)| *of);
            let mode = if label("mode") == "audit" { Mode::Audit } else { Mode::Enforced };
            if only.is_none_or(|only| only == mode) {
                let of: [&str; 4] = ["policy", "source", "destination", "route"].map(label);
                *counts.entry((mode, of)).or_default() += count as u64;
            }
        }
    }
    let denial = |((mode, of), count): ((_, [&str; 4]), _)| {
        let [policy, source, destination, route] = of.map(str::to_owned);
        Denial { mode, policy, source, destination, route, count }
    };
    let mut denials: Vec<_> = counts.into_iter().map(denial).collect();
    denials.sort_by_key(|one| (one.mode, Reverse(one.count)));
    Denials { denials, unread }
}

fn text(Denials { denials, unread }: &Denials) -> String {
    let mut table = Table::new(&["MODE", "COUNT", "POLICY", "CALLER", "DESTINATION", "ROUTE"]);
    table.numbers(1);
    for Denial { mode, policy, source, destination, route, count } in denials {
        let (mode, tone) = match mode {
            Mode::Audit => ("audit", Tone::Warning),
            Mode::Enforced => ("enforced", Tone::Plain),
        };
        table.row(tone, [mode, &count.to_string(), policy, source, destination, route]);
    }
    let mut text = match denials.is_empty() {
        true => "Nothing was refused, or would have been, since the sidecars started.\n".to_owned(),
        false => table.to_text(),
    };
    for sidecar in unread {
        text.push_str(&format!("not read: {}\n", printable(sidecar)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(lines: &[&str]) -> Result<String, String> {
        Ok(lines.iter().map(|line| format!("{METRIC}{{direction=\"inbound\",{line}\n")).collect())
    }

    #[test]
    fn the_counts_of_all_sidecars_are_added_up_by_policy_caller_and_route() {
        let web = r#"source="spiffe://cluster.local/ns/shop/sa/web""#;
        let to = r#"destination="payments.shop.svc.cluster.local:80""#;
        let audited =
            |count: u32| format!(r#"mode="audit",policy="none",{web},{to},route="default"}} {count}"#);
        let enforced = format!(r#"mode="enforced",policy="shop/p/0",{to}}} 7"#);
        let pages = [
            ("a".to_owned(), page(&[&audited(2), &enforced])),
            ("b".to_owned(), page(&[&audited(3)])),
            ("c".to_owned(), Err("connection refused".to_owned())),
        ];
        let shown = |only| anstream::adapter::strip_str(&text(&report(&pages, only))).to_string();
        assert_eq!(
            shown(None),
            "\
MODE      COUNT  POLICY    CALLER                                 DESTINATION                         ROUTE
audit         5  none      spiffe://cluster.local/ns/shop/sa/web  payments.shop.svc.cluster.local:80  default
enforced      7  shop/p/0  -                                      payments.shop.svc.cluster.local:80  -
not read: c: connection refused
"
        );
        assert!(!shown(Some(Mode::Audit)).contains("shop/p/0"));
        assert!(!shown(Some(Mode::Enforced)).contains("audit"));
        let nothing = text(&report(&[("a".to_owned(), page(&[]))], None));
        assert_eq!(nothing, "Nothing was refused, or would have been, since the sidecars started.\n");
    }
}
