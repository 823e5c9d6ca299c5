//! More load than the applications can process, and then less: does the service recover?

use std::path::Path;
use std::time::Duration;

use super::endpoint::Behaviour;
use super::load::{self, Outcome, Plan};
use super::report::Figures;
use super::topology::{ENDPOINTS, Proxy, Settings, TARGET, Topology, application};

/// Latency above which a response counts as lost.
const USEFUL: Duration = Duration::from_millis(100);
const LENGTH: Duration = Duration::from_secs(10);

/// Figures of ten seconds with ten times the capacity, and of ten seconds with three quarters of it after that. An answer
/// that takes longer than 100 ms counts as lost.
pub(super) async fn measure(outrigger: &Path, proxy: &Proxy) -> Result<[Figures; 2], String> {
    let settings = Settings {
        outrigger: outrigger.to_owned(),
        certificate_ttl: Duration::from_secs(3600),
        concurrency: 1,
    };
    let topology = Topology::start(proxy, settings).await?;
    for number in 1..=ENDPOINTS {
        // Three applications with one request at a time: 400 a second.
        let delay = Duration::from_micros(7500);
        topology.behave(number, Behaviour { delay, ..Behaviour::HEALTHY }).await?;
    }
    let phase = async |clients, per_second| {
        let plan = Plan { clients, per_second, patience: Duration::from_secs(1), length: LENGTH };
        let mut samples = load::run(TARGET, plan).await;
        for sample in &mut samples {
            if sample.outcome == Outcome::Answered && sample.latency > USEFUL {
                sample.outcome = Outcome::Late;
            }
        }
        Figures::of(&samples, Duration::ZERO, LENGTH, per_second, &application(1).ip().to_string())
    };
    let figures = [phase(2000, 4000).await, phase(60, 300).await];
    topology.stop().await?;
    Ok(figures)
}
