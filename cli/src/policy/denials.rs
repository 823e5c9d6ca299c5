//! `outrigger policy denials`: what authorization policies refused, and what policies on trial would refuse, by policy, caller and route.
//!
//! Sidecars count it since they started (`outrigger_authorization_denials_total`). The counts of all that are read are added up.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, Command, FromArgMatches, ValueEnum};
use outrigger::admin;
use outrigger_control_plane::kubernetes::client::ClusterAccess;
use outrigger_control_plane::kubernetes::scrape;
use serde::Serialize;

use crate::flags::{is_typed, no_address_beside_a_cluster};
use crate::output::OutputArgs;
use crate::output::table::{Table, Tone, printable};
use crate::runtime::block_on;

const METRIC: &str = "outrigger_authorization_denials_total";

#[derive(Debug, Args)]
pub(super) struct DenialsArgs {
    /// Only those of policies on trial (action: Audit), or only those of enforced policies.
    #[arg(long, value_enum, value_name = "MODE", help_heading = "Filters")]
    mode: Option<Mode>,
    #[command(flatten)]
    sidecars: SidecarArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Which sidecars are read: those at addresses, or those of a cluster.
#[derive(Debug)]
enum SidecarArgs {
    At(Vec<SocketAddr>),
    InCluster(ClusterAccess, Option<String>),
}

#[derive(Debug, Args)]
struct SidecarFlags {
    /// In a cluster: only the sidecars of this namespace.
    #[arg(short, long, env = "OUTRIGGER_NAMESPACE", help_heading = "Filters")]
    namespace: Option<String>,
    /// Admin addresses of sidecars. May be repeated.
    #[arg(long, value_name = "IP:PORT", env = "OUTRIGGER_PROXY_ADMIN", value_delimiter = ',')]
    #[arg(default_value = "127.0.0.1:15000", help_heading = "Proxy")]
    admin: Vec<SocketAddr>,
    /// All sidecars in the Kubernetes cluster of the kubeconfig.
    #[arg(long, help_heading = "Kubernetes")]
    kubernetes: bool,
    /// The kubeconfig, instead of $KUBECONFIG or ~/.kube/config; implies --kubernetes.
    #[arg(long, value_name = "FILE", help_heading = "Kubernetes")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig, instead of its current one; implies --kubernetes.
    #[arg(long, value_name = "NAME", help_heading = "Kubernetes")]
    context: Option<String>,
}

impl FromArgMatches for SidecarArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let SidecarFlags { namespace, admin, kubernetes, kubeconfig, context } =
            SidecarFlags::from_arg_matches(matches)?;
        let in_cluster = kubernetes || kubeconfig.is_some() || context.is_some();
        if in_cluster {
            no_address_beside_a_cluster(matches, &["admin"])?;
            return Ok(Self::InCluster(ClusterAccess { kubeconfig, context }, namespace));
        }
        if is_typed(matches, "namespace") {
            let text = "--namespace is a filter of the sidecars in a cluster: add --kubernetes\n";
            return Err(clap::Error::raw(ErrorKind::MissingRequiredArgument, text));
        }
        Ok(Self::At(admin))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for SidecarArgs {
    fn augment_args(command: Command) -> Command {
        SidecarFlags::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        SidecarFlags::augment_args_for_update(command)
    }
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

/// The name of a sidecar, and its metrics or why they cannot be read.
type Page = (String, Result<String, String>);

/// The report.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Denials {
    denials: Vec<Denial>,
    /// How many sidecars were read.
    read: usize,
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
    let DenialsArgs { mode, sidecars, output } = args;
    let pages = block_on(pages(sidecars))?;
    let report = report(&pages, mode);
    if report.read == 0 {
        return Err(report.unread.join("; "));
    }
    output.print(&report, |_| text(&report))
}

/// Reads the metrics of the sidecars, each with its name. Returns an error if there is none.
async fn pages(sidecars: SidecarArgs) -> Result<Vec<Page>, String> {
    match sidecars {
        SidecarArgs::InCluster(access, namespace) => {
            let read = scrape::sidecars(&access, namespace.as_deref()).await?;
            let page = |one: scrape::Scrape| (format!("Pod {}/{}", one.namespace, one.name), one.page);
            of_cluster(read.into_iter().map(page).collect(), namespace.as_deref())
        }
        SidecarArgs::At(addresses) => {
            let mut pages = Vec::new();
            for address in addresses {
                pages.push((address.to_string(), admin::text(address, "/metrics").await));
            }
            Ok(pages)
        }
    }
}

/// Returns the pages of a cluster's sidecars. Returns an error if there is none.
fn of_cluster(pages: Vec<Page>, namespace: Option<&str>) -> Result<Vec<Page>, String> {
    match (pages.is_empty(), namespace) {
        (false, _) => Ok(pages),
        (true, Some(namespace)) => Err(format!("no sidecar runs in namespace {namespace}")),
        (true, None) => Err("no sidecar runs in the cluster".to_owned()),
    }
}

/// Adds up the counts of these pages, each with the name of its sidecar.
fn report(pages: &[Page], only: Option<Mode>) -> Denials {
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
    Denials { denials, read: pages.len() - unread.len(), unread }
}

fn text(Denials { denials, read, unread }: &Denials) -> String {
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
    text.push_str(&match read {
        1 => "1 sidecar was read.\n".to_owned(),
        read => format!("{read} sidecars were read.\n"),
    });
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
2 sidecars were read.
not read: c: connection refused
"
        );
        assert!(!shown(Some(Mode::Audit)).contains("shop/p/0"));
        assert!(!shown(Some(Mode::Enforced)).contains("audit"));
        let nothing = text(&report(&[("a".to_owned(), page(&[]))], None));
        assert_eq!(
            nothing,
            "Nothing was refused, or would have been, since the sidecars started.\n1 sidecar was read.\n"
        );
    }

    #[test]
    fn a_cluster_without_a_sidecar_is_an_error() {
        let none = |namespace| of_cluster(Vec::new(), namespace).unwrap_err();
        assert_eq!(none(Some("shpo")), "no sidecar runs in namespace shpo");
        assert_eq!(none(None), "no sidecar runs in the cluster");
        let one = vec![("a".to_owned(), page(&[]))];
        assert_eq!(of_cluster(one.clone(), Some("shop")), Ok(one));
    }

    #[test]
    fn a_namespace_needs_a_cluster_and_an_address_excludes_one() {
        let parse = |line: &[&str]| {
            let matches = SidecarArgs::augment_args(Command::new("test"))
                .try_get_matches_from([&["test"], line].concat())?;
            SidecarArgs::from_arg_matches(&matches)
        };
        let SidecarArgs::At(default) = parse(&[]).unwrap() else { panic!("a cluster") };
        assert_eq!(default, ["127.0.0.1:15000".parse::<SocketAddr>().unwrap()]);
        for cluster in [&["--kubernetes"][..], &["--context", "c"], &["--kubeconfig", "f"]] {
            let in_shop = parse(&[cluster, &["-n", "shop"]].concat()).unwrap();
            assert!(matches!(in_shop, SidecarArgs::InCluster(_, Some(namespace)) if namespace == "shop"));
            let both = parse(&[cluster, &["--admin", "127.0.0.1:1"]].concat()).unwrap_err();
            assert_eq!(both.kind(), ErrorKind::ArgumentConflict);
        }
        let alone = parse(&["-n", "shop"]).unwrap_err();
        assert_eq!(alone.kind(), ErrorKind::MissingRequiredArgument);
        assert!(alone.to_string().contains("add --kubernetes"), "{alone}");
    }
}
