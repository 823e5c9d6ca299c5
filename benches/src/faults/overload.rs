//! More load than the applications can process, and then less: what is answered in time, for which caller, and how soon the
//! service recovers.

use std::path::Path;
use std::time::Duration;

use super::endpoint::Behaviour;
use super::load::{self, Outcome, Plan, Sample};
use super::proxy::Proxy;
use super::topology::{ENDPOINTS, Settings, TARGET, Topology};

/// Latency above which a response counts as lost.
const USEFUL: Duration = Duration::from_millis(100);
/// The length of the overload.
const LENGTH: Duration = Duration::from_secs(10);
/// The length of what follows.
const AFTER: Duration = Duration::from_secs(8);
/// The service has recovered when each period of this length after the overload has 95 % of its responses in time.
const PERIOD: Duration = Duration::from_millis(250);

/// What the applications are like. All three together can process 400 requests a second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    name: &'static str,
    title: &'static str,
    /// Requests at once, for each application.
    concurrency: usize,
    /// The time for each of them.
    delay: Duration,
    /// The factor by which they are slower during the overload.
    slower: u32,
    /// Which part of the load the first caller sends: one in this many.
    share: u32,
    /// The threads of an application that each request asks, and the time for each of them.
    asks: Option<(usize, Duration)>,
}

const KINDS: [Kind; 4] = [
    Kind {
        name: "one-thread",
        title: "A queue and one thread",
        concurrency: 1,
        delay: Duration::from_micros(7500),
        slower: 1,
        share: 1,
        asks: None,
    },
    Kind {
        name: "six-threads",
        title: "A queue and six threads",
        concurrency: 6,
        delay: Duration::from_millis(45),
        slower: 1,
        share: 1,
        asks: None,
    },
    Kind {
        name: "slows-down",
        title: "Slow down to a quarter",
        concurrency: 1,
        delay: Duration::from_micros(7500),
        slower: 4,
        share: 10,
        asks: None,
    },
    Kind {
        name: "fans-out",
        title: "Fan out: threads that wait for another application, whose queue is that of all three",
        concurrency: 200,
        delay: Duration::from_millis(1),
        slower: 1,
        share: 1,
        asks: Some((3, Duration::from_micros(7500))),
    },
];

/// Returns the kinds of these names, or all. Returns an error if there is no such kind.
pub(super) fn kinds(names: &[String]) -> Result<Vec<Kind>, String> {
    let by_name = |name: &String| {
        let known = KINDS.into_iter().find(|kind| kind.name == name);
        let all = || KINDS.map(|kind| kind.name).join(", ");
        known.ok_or_else(|| format!("no applications {name:?}; there are: {}", all()))
    };
    if names.is_empty() { Ok(KINDS.to_vec()) } else { names.iter().map(by_name).collect() }
}

/// What one proxy makes of one kind.
#[derive(Debug, Default)]
struct Figures {
    /// Responses in time, a second, during the overload.
    in_time: f64,
    /// Those of each second.
    by_second: String,
    /// The share of the second caller's requests that were answered in time, in percent.
    second: f64,
    refused: usize,
    /// Requests of the overload whose client timed out.
    late: usize,
    /// The time after the overload until the service had recovered. `None`: it had not.
    recovered: Option<Duration>,
    refused_after: usize,
}

/// Measures these kinds with each proxy, and prints a table for each kind.
pub(super) async fn run(
    outrigger: &Path,
    offered: u32,
    kinds: &[Kind],
    proxies: &[Proxy],
) -> Result<(), String> {
    for kind in kinds {
        println!(
            "{}:\n\n\
             | proxy | in time, answers/s | of these in each second | second caller in time, % | refused | timed out | recovered after s | refused then |\n\
             |---|--:|---|--:|--:|--:|--:|--:|",
            kind.title
        );
        for proxy in proxies {
            eprintln!("overload, {}: {}", kind.name, proxy.name());
            let Figures { in_time, by_second, second, refused, late, recovered, refused_after } =
                measure(outrigger, proxy, *kind, offered / kind.share).await?;
            let recovered = recovered.map_or("never".into(), |time| format!("{:.2}", time.as_secs_f64()));
            println!(
                "| {} | {in_time:.0} | {by_second} | {second:.0} | {refused} | {late} | {recovered} | {refused_after} |",
                proxy.name(),
            );
        }
        println!();
    }
    Ok(())
}

/// Ten seconds of too much load, with a second caller that sends 50 requests a second, and eight seconds of 300 a second.
async fn measure(outrigger: &Path, proxy: &Proxy, kind: Kind, offered: u32) -> Result<Figures, String> {
    let settings = Settings {
        outrigger: outrigger.to_owned(),
        certificate_ttl: Duration::from_secs(3600),
        concurrency: kind.concurrency,
        asked: kind.asks.map(|(threads, _)| threads),
    };
    let mut topology = Topology::start(proxy, settings).await?;
    if let Some((_, delay)) = kind.asks {
        topology.behave_asked(Behaviour { delay, ..Behaviour::HEALTHY }).await?;
    }
    let second = topology.start_second().await?;
    let behave = async |delay| {
        for number in 1..=ENDPOINTS {
            topology.behave(number, Behaviour { delay, ..Behaviour::HEALTHY }).await?;
        }
        Ok::<_, String>(())
    };
    let plan = |per_second: u32, length| Plan {
        clients: (per_second / 2).clamp(20, 2000),
        per_second,
        patience: Duration::from_secs(1),
        length,
        path: "/items",
        at_once: false,
    };
    behave(kind.delay).await?;
    // Some usual load, so that no connection is new.
    load::run(TARGET, plan(200, Duration::from_secs(3))).await;
    behave(kind.delay * kind.slower).await?;
    let (during, of_second) =
        tokio::join!(load::run(TARGET, plan(offered, LENGTH)), load::run(second, plan(50, LENGTH)));
    behave(kind.delay).await?;
    let after = load::run(TARGET, plan(300, AFTER)).await;
    topology.stop().await?;
    let count = |samples: &[Sample], which: fn(&Sample) -> bool| samples.iter().filter(|s| which(s)).count();
    let in_second = |second: u64| {
        let began = |sample: &&Sample| sample.sent.as_secs() == second && in_time(sample);
        (during.iter().filter(began).count() + of_second.iter().filter(began).count()).to_string()
    };
    let by_second: Vec<_> = (0..LENGTH.as_secs()).map(in_second).collect();
    Ok(Figures {
        by_second: by_second.join(" "),
        in_time: (count(&during, in_time) + count(&of_second, in_time)) as f64 / LENGTH.as_secs_f64(),
        second: 100.0 * count(&of_second, in_time) as f64 / of_second.len().max(1) as f64,
        refused: count(&during, refused),
        late: count(&during, |sample| sample.outcome == Outcome::Late),
        recovered: recovered(&after),
        refused_after: count(&after, refused),
    })
}

fn in_time(sample: &Sample) -> bool {
    sample.outcome == Outcome::Answered && sample.latency <= USEFUL
}

fn refused(sample: &Sample) -> bool {
    matches!(sample.outcome, Outcome::Refused(..))
}

/// Returns the time after which each period has 95 % of its responses in time. `None` if the last one has not.
fn recovered(after: &[Sample]) -> Option<Duration> {
    let periods = (AFTER.as_millis() / PERIOD.as_millis()) as u32;
    let is_bad = |number: &u32| {
        let period = PERIOD * *number..PERIOD * (number + 1);
        let sent: Vec<_> = after.iter().filter(|sample| period.contains(&sample.sent)).collect();
        let useful = sent.iter().filter(|sample| in_time(sample)).count();
        // A client that waits for a late response sends nothing.
        useful * 100 < sent.len() * 95 || sent.is_empty()
    };
    let bad = (0..periods).rev().find(is_bad);
    match bad {
        None => Some(Duration::ZERO),
        Some(last) if last + 1 == periods => None,
        Some(last) => Some(PERIOD * (last + 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_has_recovered_after_the_last_bad_period() {
        let sample = |sent: u64, outcome| Sample {
            sent: Duration::from_millis(sent),
            latency: Duration::from_millis(5),
            post: false,
            outcome,
            endpoint: None,
        };
        let good = |number: u64| sample(number * 10, Outcome::Answered);
        let mut samples: Vec<_> = (0..800).map(good).collect();
        assert_eq!(recovered(&samples), Some(Duration::ZERO));
        (0..60).for_each(|number| samples[number].outcome = Outcome::Late);
        assert_eq!(recovered(&samples), Some(Duration::from_millis(750)));
        samples[799].outcome = Outcome::Refused(503, None);
        samples[798].outcome = Outcome::Refused(503, None);
        assert_eq!(recovered(&samples), None);
    }
}
