//! The runs of one scenario: all peers are started, then measured in turn, as often as asked; each round begins with another peer.
//!
//! A run with other load on the proxies' core is repeated, while there is time for that. If no attempt is undisturbed, the least
//! disturbed one is used and counted as disturbed. A peer that fails is left out of the rest of the scenario, and the reason is reported.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Found;
use super::account::DISTURBED;
use super::certificates::Certificates;
use super::cores::Cores;
use super::counting;
use super::drive::Run;
use super::measure;
use super::peers::{Peer, Running, With};
use super::plan::{Clock, Plan};
use super::results::{Figure, Place, Results};
use super::scenarios::{Scenario, Variant};
use crate::span_sink::SpanSink;

/// Attempts at an undisturbed run.
const ATTEMPTS: usize = 3;

/// What all scenarios are measured with.
pub(super) struct Bench<'run> {
    pub(super) plan: Plan,
    pub(super) clock: Clock,
    /// The time that is left for repetitions of disturbed runs.
    pub(super) spare: Duration,
    pub(super) peers: &'run [Found],
    pub(super) cores: Cores,
    pub(super) certificates: &'run Certificates,
    pub(super) directory: &'run Path,
    pub(super) results: Results,
    /// What failed, with scenario, peer and reason.
    pub(super) failures: Vec<String>,
    /// Left out of the rest of a scenario.
    pub(super) failed: Vec<(&'static str, Peer)>,
    /// What could not be counted, with peer and reason.
    pub(super) uncounted: Vec<String>,
}

/// A peer that takes part in a variant.
struct Part {
    variant: &'static Variant,
    peer: Peer,
    running: Running,
    application: SocketAddr,
    collector: Option<SpanSink>,
}

/// The first figure of a part in one round.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Primary {
    variant: &'static str,
    peer: Peer,
    value: f64,
}

impl Bench<'_> {
    /// Measures one scenario. Returns an error if nothing can be measured, as without an application.
    pub(super) async fn measure(&mut self, scenario: &Scenario) -> Result<(), String> {
        let variants: Vec<_> =
            scenario.variants.iter().filter(|variant| self.plan.includes(variant)).collect();
        if variants.is_empty() {
            return Ok(());
        }
        eprintln!("{} {}: {}", self.clock.print(), scenario.id, scenario.title);
        match scenario.together {
            true => self.rounds(scenario, &variants).await?,
            false => {
                for variant in variants {
                    self.rounds(scenario, &[variant]).await?;
                }
            }
        }
        Ok(())
    }

    /// Measures variants whose proxies run at the same time, as often as planned.
    async fn rounds(&mut self, scenario: &Scenario, variants: &[&'static Variant]) -> Result<(), String> {
        let mut parts = self.start(scenario, variants, 0).await?;
        let runs = variants.iter().map(|variant| self.plan.runs(variant)).min().unwrap_or_default();
        for round in 0..runs {
            if round > 0 && variants.iter().any(|variant| variant.starts_fresh()) {
                drop(std::mem::take(&mut parts));
                parts = self.start(scenario, variants, round).await?;
            }
            parts.sort_by_key(|part| turn(part.peer, part.variant, variants, round));
            let mut primaries = Vec::new();
            let mut rest = Vec::new();
            for part in parts {
                if self.failed.contains(&(scenario.id, part.peer)) {
                    continue;
                }
                let outcome = self.undisturbed(scenario, &part).await;
                if let Some(value) = self.noted(scenario, part.peer, outcome) {
                    primaries.push(Primary { variant: part.variant.name, peer: part.peer, value });
                    rest.push(part);
                }
            }
            parts = rest;
            for variant in variants {
                for (peer, figure) in ratios(variant, &primaries) {
                    let at = Place { scenario: scenario.id, variant: variant.name, peer: peer.name() };
                    self.results.add(&at, &[figure], false);
                }
                self.print_round(scenario, variant, &primaries, &format!("{}/{runs}", round + 1));
            }
        }
        let plan = self.plan;
        for part in parts.iter().filter(|part| plan.counts(part.variant)) {
            self.count(scenario, part).await?;
        }
        Ok(())
    }

    /// Counts what a request does in a part, after its measurements.
    async fn count(&mut self, scenario: &Scenario, part: &Part) -> Result<(), String> {
        let found = self.peers.iter().find(|found| found.peer == part.peer).ok_or("no such peer")?;
        let directory = tempfile::tempdir_in(self.directory).map_err(|error| error.to_string())?;
        let with = With { cores: &self.cores, certificates: self.certificates, directory: directory.path() };
        let mut counted = counting::of_kernel(part.variant, &part.running, part.application, &with).await;
        if self.plan.callgrind {
            counted.push(counting::of_callgrind(part.variant, found, part.application, &with).await);
        }
        let at = Place { scenario: scenario.id, variant: part.variant.name, peer: part.peer.name() };
        for (metric, value) in counted {
            match value {
                Ok(value) => self.results.add(&at, &[Figure::new(metric, value)], false),
                Err(why) => {
                    let why = format!("{}: {metric}: {why}", part.peer.name());
                    if !self.uncounted.contains(&why) {
                        self.uncounted.push(why);
                    }
                }
            }
        }
        Ok(())
    }

    /// Prints the first figures of a variant in one round.
    fn print_round(&self, scenario: &Scenario, variant: &Variant, primaries: &[Primary], round: &str) {
        let of_variant = primaries.iter().filter(|primary| primary.variant == variant.name);
        let mut line: Vec<_> = of_variant.map(|primary| (primary.peer, primary.value)).collect();
        line.sort_by_key(|(peer, _)| *peer);
        let line: Vec<_> = line.iter().map(|(peer, value)| format!("{} {value:.2}", peer.name())).collect();
        eprintln!("{} {} {} {round}: {}", self.clock.print(), scenario.id, variant.name, line.join(", "));
    }

    /// Starts the applications and every peer that can do the work.
    async fn start(
        &mut self,
        scenario: &Scenario,
        variants: &[&'static Variant],
        round: usize,
    ) -> Result<Vec<Part>, String> {
        let mut parts = Vec::new();
        for variant in variants {
            let application = variant.application()?;
            // Of which only the presence counts here.
            let asked = variant.asks(application, Some(application));
            for found in self.peers.iter().filter(|found| found.peer.supports(&asked)) {
                if self.failed.contains(&(scenario.id, found.peer)) {
                    continue;
                }
                let name = variant.name.replace([' ', '/', ',', '%'], "");
                let name = format!("{}-{name}-{round}-{}", scenario.id, found.peer.name());
                let directory = self.directory.join(name);
                std::fs::create_dir(&directory)
                    .map_err(|error| format!("{}: {error}", directory.display()))?;
                let with =
                    With { cores: &self.cores, certificates: self.certificates, directory: &directory };
                let collector = match variant.is_traced() {
                    true => Some(SpanSink::start().await?),
                    false => None,
                };
                let setup = variant.asks(application, collector.as_ref().map(|sink| sink.address));
                let started = found.peer.start(&found.program, &setup, &with).await;
                if let Some(running) = self.noted(scenario, found.peer, started) {
                    parts.push(Part { variant, peer: found.peer, running, application, collector });
                }
            }
        }
        Ok(parts)
    }

    /// Measures until a run is undisturbed, and returns its first figure.
    async fn undisturbed(&mut self, scenario: &Scenario, part: &Part) -> Result<f64, String> {
        let at = Place { scenario: scenario.id, variant: part.variant.name, peer: part.peer.name() };
        let mut best: Option<(Vec<Figure>, f64)> = None;
        for attempt in 0..ATTEMPTS {
            let begin = Instant::now();
            let run = Run {
                cores: &self.cores,
                processes: &part.running.processes,
                warm_up: self.plan.warm_up,
                duration: self.plan.run,
                application: part.application,
                collector: part.collector.as_ref(),
                meter: None,
            };
            let (figures, other) = measure::once(part.variant, &part.running, &run).await?;
            // Of two attempts, one is discarded.
            if best.is_some() {
                self.results.discard(&at, &figures);
            }
            if best.as_ref().is_none_or(|(_, before)| other < *before) {
                best = Some((figures, other));
            }
            if attempt > 0 {
                self.spare = self.spare.saturating_sub(begin.elapsed());
            }
            if other <= DISTURBED || self.spare < begin.elapsed() {
                break;
            }
        }
        let (figures, other) = best.ok_or("no attempt")?;
        self.results.add(&at, &figures, other > DISTURBED);
        figures.first().map(|figure| figure.value).ok_or_else(|| "no figure".into())
    }

    /// Returns the value of a success, and records a failure.
    fn noted<T>(&mut self, scenario: &Scenario, peer: Peer, outcome: Result<T, String>) -> Option<T> {
        outcome
            .inspect_err(|why| {
                eprintln!("{}: {}: {why}", scenario.id, peer.name());
                self.failed.push((scenario.id, peer));
                self.failures.push(format!("{}, {}: {why}", scenario.id, peer.name()));
            })
            .ok()
    }
}

/// When a part has its turn: each round begins with another peer, and a peer's variants follow each other, every other round in
/// reverse.
fn turn(peer: Peer, variant: &Variant, variants: &[&'static Variant], round: usize) -> (usize, usize) {
    let position = |of: Option<usize>, count: usize| of.unwrap_or_default() % count.max(1);
    let peers = Peer::ALL.len();
    let peer = position(Peer::ALL.iter().position(|known| *known == peer), peers);
    let at = position(variants.iter().position(|known| known.name == variant.name), variants.len());
    let at = if round.is_multiple_of(2) { at } else { variants.len() - 1 - at };
    ((peer + peers - round % peers) % peers, at)
}

/// The ratios of a variant to the one that it is compared with, of every peer that had both in this round.
fn ratios(variant: &Variant, primaries: &[Primary]) -> Vec<(Peer, Figure)> {
    let Some((base, metric)) = variant.against else { return Vec::new() };
    let of = |name: &'static str| primaries.iter().filter(move |primary| primary.variant == name);
    of(variant.name)
        .filter_map(|primary| {
            let base = of(base).find(|other| other.peer == primary.peer)?;
            Some((primary.peer, Figure::new(metric, primary.value / base.value)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::scenarios;

    fn tracing() -> Vec<&'static Variant> {
        let scenario = scenarios::ALL.iter().find(|scenario| scenario.id == "S9").unwrap();
        scenario.variants.iter().collect()
    }

    #[test]
    fn each_round_begins_with_another_peer_and_keeps_a_peers_variants_together() {
        let variants = &tracing()[..2];
        let order = |round| {
            let mut all: Vec<_> = [Peer::Outrigger, Peer::Haproxy, Peer::Envoy]
                .into_iter()
                .flat_map(|peer| variants.iter().map(move |variant| (peer, *variant)))
                .collect();
            all.sort_by_key(|(peer, variant)| turn(*peer, variant, variants, round));
            all.iter().map(|(peer, variant)| format!("{} {}", peer.name(), variant.name)).collect::<Vec<_>>()
        };
        assert_eq!(order(0)[..3], ["Outrigger off", "Outrigger access log", "HAProxy off"]);
        assert_eq!(order(1)[..3], ["HAProxy access log", "HAProxy off", "Envoy access log"]);
        assert_eq!(order(2)[0], "Envoy off");
    }

    #[test]
    fn a_variant_is_compared_within_its_round_and_peer() {
        let primary = |variant, peer, value| Primary { variant, peer, value };
        let primaries = [
            primary("off", Peer::Outrigger, 20.0),
            primary("access log", Peer::Outrigger, 22.0),
            primary("off", Peer::Envoy, 40.0),
            primary("access log", Peer::Haproxy, 30.0),
        ];
        let found = ratios(tracing()[1], &primaries);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, Peer::Outrigger);
        assert!((found[0].1.value - 1.1).abs() < 1e-9);
        assert!(ratios(tracing()[0], &primaries).is_empty());
    }
}
