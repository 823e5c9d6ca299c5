//! What the sidecars' counts of connections without mTLS mean: who has to get a sidecar, and where strict is safe. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;

use crate::model::diagnostic::{Code, Problem};
use crate::model::registration::MtlsMode;
use crate::source::check::Located;

/// The metric of the sidecars.
const METRIC: &str = "outrigger_downstream_connections_without_mtls_total{";
/// When a sidecar started.
const START: &str = "process_start_time_seconds ";

/// What has which address: `monitoring/prometheus`, `node worker-1`.
pub(super) type Addresses = BTreeMap<IpAddr, String>;

/// A pod with a sidecar.
#[derive(Debug, Clone)]
pub(super) struct SidecarPod {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Its Deployment, StatefulSet or Job.
    pub(super) workload: String,
    /// What its sidecar has counted, or why that cannot be read.
    pub(super) counted: Result<Counts, String>,
}

/// What a sidecar has counted since it started.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Counts {
    since: Timestamp,
    connections: Vec<Counted>,
}

/// Connections without mTLS of one client to one port. The client and the port are None for those above the sidecar's cap.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Counted {
    client: Option<IpAddr>,
    port: Option<u16>,
    permitted: bool,
    count: u64,
}

impl Counts {
    /// Reads a scrape in Prometheus' text format.
    pub(super) fn parse(text: &str) -> Self {
        let start = text.lines().find_map(|line| line.strip_prefix(START)?.trim().parse::<f64>().ok());
        let since = start.and_then(|seconds| Timestamp::from_second(seconds as i64).ok());
        let connections = text.lines().filter_map(|line| {
            let (labels, value) = line.strip_prefix(METRIC)?.split_once("} ")?;
            // Addresses, numbers and outcomes have no quotes or commas.
            let label = |name: &str| {
                labels
                    .split(',')
                    .find_map(|one| one.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
            };
            Some(Counted {
                client: label("client_address").and_then(|text| text.parse().ok()),
                port: label("port").and_then(|text| text.parse().ok()),
                permitted: label("outcome")? == "permitted",
                count: value.trim().parse::<f64>().ok()? as u64,
            })
        });
        Self { since: since.unwrap_or_default(), connections: connections.collect() }
    }
}

/// Returns a warning for each client without mTLS, and an info for each permissive namespace without one.
pub(super) fn problems(
    modes: &BTreeMap<String, MtlsMode>,
    addresses: &Addresses,
    sidecars: &[SidecarPod],
) -> Vec<Located> {
    let mut calls: BTreeMap<Call<'_>, u64> = BTreeMap::new();
    let mut namespaces: BTreeMap<&str, Summary> = BTreeMap::new();
    let mut problems = Vec::new();
    for sidecar in sidecars {
        let summary = namespaces.entry(&sidecar.namespace).or_default();
        summary.pods += 1;
        let counts = match &sidecar.counted {
            Ok(counts) => counts,
            Err(error) => {
                summary.is_incomplete = true;
                let message = format!("the metrics of its sidecar cannot be read: {error}");
                let help = "reading them needs the permission to get pods/proxy".to_owned();
                let pod = format!("Pod {}/{}", sidecar.namespace, sidecar.name);
                problems.push(located(pod, Code::UnreadableSidecar, message, Some(help)));
                continue;
            }
        };
        summary.since = summary.since.max(counts.since);
        for Counted { client, port, permitted, count } in &counts.connections {
            summary.is_called |= *permitted;
            let client = match client {
                None => "clients above the sidecar's cap".to_owned(),
                Some(ip) => addresses.get(ip).cloned().unwrap_or_else(|| ip.to_string()),
            };
            let call = Call {
                sidecar_of: (&sidecar.namespace, &sidecar.workload),
                client,
                port: *port,
                permitted: *permitted,
            };
            *calls.entry(call).or_default() += count;
        }
    }
    problems.extend(calls.into_iter().map(|(call, count)| call.problem(count)));
    for (namespace, summary) in namespaces {
        let permissive =
            modes.get(namespace).copied().unwrap_or(MtlsMode::Permissive) == MtlsMode::Permissive;
        if permissive && !summary.is_called && !summary.is_incomplete {
            let Summary { pods, since, .. } = summary;
            let message = format!(
                "no connection without mTLS to its {pods} pods with a sidecar since {since}: strict is safe if that is long enough"
            );
            let help = format!("kubectl label namespace {namespace} outrigger.dev/mtls=strict --overwrite");
            problems.push(located(format!("Namespace {namespace}"), Code::StrictIsSafe, message, Some(help)));
        }
    }
    problems
}

/// The pods with a sidecar of one namespace.
#[derive(Debug, Default)]
struct Summary {
    pods: usize,
    /// When the last sidecar started.
    since: Timestamp,
    is_called: bool,
    is_incomplete: bool,
}

/// The calls of one client to one port of a workload.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Call<'a> {
    sidecar_of: (&'a str, &'a str),
    client: String,
    port: Option<u16>,
    permitted: bool,
}

impl Call<'_> {
    fn problem(self, count: u64) -> Located {
        let Self { sidecar_of: (namespace, workload), client, port, permitted } = self;
        let at = port.map_or_else(|| "several ports".to_owned(), |port| format!("port {port}"));
        let connections = if count == 1 { "1 connection".to_owned() } else { format!("{count} connections") };
        let subject = format!("Workload {namespace}/{workload}");
        let exception = port.map_or_else(String::new, |port| {
            format!(", or keep the port permissive: annotation outrigger.dev/mtls-ports: {port}=permissive")
        });
        let (message, help) = if permitted {
            (
                format!("{client} calls {at} without mTLS ({connections}); strict would cut it off"),
                format!("give the client a sidecar before the namespace becomes strict{exception}"),
            )
        } else {
            (
                format!("{client} called {at} without mTLS and was refused ({connections})"),
                format!("give the client a sidecar{exception}"),
            )
        };
        located(subject, Code::PlaintextClient, message, Some(help))
    }
}

fn located(resource: String, code: Code, message: String, help: Option<String>) -> Located {
    let problem = Problem { field: String::new(), code, message, help };
    Located { file: None, position: None, document: 0, resource: Some(resource), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAPE: &str = "\
# TYPE outrigger_downstream_connections_without_mtls_total counter
outrigger_downstream_connections_without_mtls_total{client_address=\"10.0.0.7\",port=\"9090\",outcome=\"permitted\"} 52
outrigger_downstream_connections_without_mtls_total{client_address=\"fd00::7\",port=\"8080\",outcome=\"refused\"} 1
outrigger_downstream_connections_without_mtls_total{client_address=\"other\",outcome=\"permitted\"} 3
process_start_time_seconds 1780000000.25
";

    fn pod(namespace: &str, name: &str, counted: Result<Counts, String>) -> SidecarPod {
        SidecarPod { namespace: namespace.into(), name: name.into(), workload: "cart".into(), counted }
    }

    fn texts(sidecars: &[SidecarPod], modes: &[(&str, MtlsMode)]) -> Vec<String> {
        let addresses = [
            ("10.0.0.7".parse().unwrap(), "monitoring/prometheus".to_owned()),
            ("10.9.9.9".parse().unwrap(), "node worker-1".to_owned()),
        ];
        let modes = modes.iter().map(|(name, mode)| ((*name).to_owned(), *mode)).collect();
        let text = |Located { resource, problem, .. }: Located| {
            format!("{} {}: {}", problem.code, resource.unwrap(), problem.message)
        };
        problems(&modes, &addresses.into(), sidecars).into_iter().map(text).collect()
    }

    #[test]
    fn clients_without_mtls_are_named_by_their_workload_once_for_all_pods() {
        let counts = Counts::parse(SCRAPE);
        let pods = [pod("shop", "cart-1", Ok(counts.clone())), pod("shop", "cart-2", Ok(counts))];
        assert_eq!(
            texts(&pods, &[]),
            [
                "plaintext-client Workload shop/cart: clients above the sidecar's cap calls several ports without mTLS \
                 (6 connections); strict would cut it off",
                "plaintext-client Workload shop/cart: fd00::7 called port 8080 without mTLS and was refused (2 connections)",
                "plaintext-client Workload shop/cart: monitoring/prometheus calls port 9090 without mTLS (104 connections); \
                 strict would cut it off",
            ]
        );
    }

    #[test]
    fn strict_is_safe_where_nobody_was_counted_by_any_sidecar() {
        let (called, quiet) =
            (Counts::parse(SCRAPE), Counts::parse("process_start_time_seconds 1780000000\n"));
        let pods = [
            pod("called", "a", Ok(called)),
            pod("called", "b", Ok(quiet.clone())),
            pod("quiet", "a", Ok(quiet.clone())),
            pod("quiet", "b", Ok(Counts::parse("process_start_time_seconds 1780003600\n"))),
            pod("strict", "a", Ok(quiet)),
            pod("unread", "a", Err("forbidden".into())),
        ];
        let texts = texts(&pods, &[("strict", MtlsMode::Strict)]);
        let safe: Vec<_> = texts.iter().filter(|text| text.starts_with("strict-is-safe")).collect();
        assert_eq!(
            safe,
            [
                "strict-is-safe Namespace quiet: no connection without mTLS to its 2 pods with a sidecar since \
                 2026-05-28T21:26:40Z: strict is safe if that is long enough"
            ]
        );
        assert!(
            texts.contains(
                &"unreadable-sidecar Pod unread/a: the metrics of its sidecar cannot be read: forbidden"
                    .to_owned()
            )
        );
    }
}
