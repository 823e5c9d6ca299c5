//! Traffic that is uneven but no overload: of it, nothing may be refused.
//!
//! In each minute: a steady load of fast requests and of slow ones, bursts, long polls, and three seconds in which the
//! applications are ten times slower, as after a start. On average, the applications are busy for a third of the time.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::endpoint::Behaviour;
use super::load::{self, Outcome, Plan, Sample};
use super::proxy::Proxy;
use super::topology::{ENDPOINTS, Settings, TARGET, Topology};

/// Requests that each application processes at once.
const THREADS: usize = 4;

/// How much slower the applications are for [`COLD`], and when in a minute.
const SLOWER: u32 = 10;
const COLD: Duration = Duration::from_secs(3);
const COLD_AT: Duration = Duration::from_secs(20);

const MINUTE: Duration = Duration::from_secs(60);

/// Sends the load for so many minutes through each proxy, and prints a line for each minute. Returns an error if Outrigger refused or
/// lost a request.
pub(super) async fn run(outrigger: &Path, minutes: u32, proxies: &[Proxy]) -> Result<(), String> {
    println!(
        "| proxy | minute | sent | p50 ms | p99 ms | max ms, without long polls | refused | late | broken |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    );
    let mut lost = BTreeMap::new();
    for proxy in proxies {
        let failed = measure(outrigger, minutes, proxy).await?;
        if proxy.is_outrigger() {
            lost.extend(failed);
        }
    }
    match lost.is_empty() {
        true => Ok(()),
        false => Err(format!("requests of a load that is no overload failed: {lost:?}")),
    }
}

/// Returns how requests failed, and how many.
async fn measure(outrigger: &Path, minutes: u32, proxy: &Proxy) -> Result<BTreeMap<String, usize>, String> {
    let settings = Settings {
        outrigger: outrigger.to_owned(),
        certificate_ttl: Duration::from_secs(3600),
        concurrency: THREADS,
        asked: None,
    };
    let topology = Topology::start(proxy, settings).await?;
    let mut failed = BTreeMap::<String, usize>::new();
    for minute in 1..=minutes {
        let (steady, reports, bursts, polls, behaved) = tokio::join!(
            load::run(TARGET, Plan { path: "/items?units=5", ..plan(60, 500) }),
            load::run(TARGET, Plan { path: "/report?units=100", ..plan(20, 5) }),
            load::run(TARGET, Plan { path: "/items?units=5", at_once: true, ..plan(200, 20) }),
            load::run(TARGET, Plan { path: "/poll?wait_ms=9000", ..plan(100, 10) }),
            cold(&topology),
        );
        behaved?;
        let mut latencies: Vec<_> =
            steady.iter().chain(&reports).chain(&bursts).map(|sample| sample.latency).collect();
        latencies.sort_unstable();
        let at = |share: usize| {
            latencies
                .get((latencies.len() * share / 1000).min(latencies.len() - 1))
                .map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
        };
        let all: Vec<_> = steady.iter().chain(&reports).chain(&bursts).chain(&polls).collect();
        let count = |which: fn(&Sample) -> bool| all.iter().filter(|sample| which(sample)).count();
        println!(
            "| {} | {minute} | {} | {:.1} | {:.1} | {:.0} | {} | {} | {} |",
            proxy.name(),
            all.len(),
            at(500),
            at(990),
            at(1000),
            count(|sample| matches!(sample.outcome, Outcome::Refused(..))),
            count(|sample| sample.outcome == Outcome::Late),
            count(|sample| matches!(sample.outcome, Outcome::Broken(_))),
        );
        for sample in all.iter().filter(|sample| sample.outcome != Outcome::Answered) {
            *failed.entry(format!("{:?}", sample.outcome)).or_default() += 1;
        }
    }
    topology.stop().await?;
    Ok(failed)
}

/// Clients that wait for a minute, and send for a minute less the time of the longest response.
fn plan(clients: u32, per_second: u32) -> Plan {
    let length = MINUTE - Duration::from_secs(10);
    Plan { clients, per_second, patience: MINUTE, length, path: "/items", at_once: false }
}

/// Makes the applications slower for a while.
async fn cold(topology: &Topology) -> Result<(), String> {
    let behave = async |slower: u32| {
        for number in 1..=ENDPOINTS {
            let delay = Behaviour::HEALTHY.delay * slower;
            topology.behave(number, Behaviour { delay, ..Behaviour::HEALTHY }).await?;
        }
        Ok::<_, String>(())
    };
    tokio::time::sleep(COLD_AT).await;
    behave(SLOWER).await?;
    tokio::time::sleep(COLD).await;
    behave(1).await
}
