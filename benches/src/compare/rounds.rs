//! The runs of one scenario: all peers are started, then measured in turn, as often as asked; each round begins with another peer.
//!
//! A run with other load on the proxies' core is repeated. If no attempt is undisturbed, the least disturbed one is used and counted as
//! disturbed. A peer that fails is left out of the rest of the scenario, and the reason is reported.

use std::path::Path;

use super::account::DISTURBED;
use super::certificates::Certificates;
use super::cores::Cores;
use super::drive::Run;
use super::measure;
use super::peers::{Peer, Running, With};
use super::results::{Figure, Place, Results};
use super::scenarios::{Scenario, Variant};
use super::{Found, Plan};

/// Attempts at an undisturbed run.
const ATTEMPTS: usize = 3;

/// What all scenarios are measured with.
pub(super) struct Bench<'run> {
    pub(super) plan: Plan,
    pub(super) peers: &'run [Found],
    pub(super) cores: Cores,
    pub(super) certificates: &'run Certificates,
    pub(super) directory: &'run Path,
    pub(super) results: Results,
    /// What failed, with scenario, peer and reason.
    pub(super) failures: Vec<String>,
    /// Left out of the rest of a scenario.
    pub(super) failed: Vec<(&'static str, Peer)>,
}

/// A peer that takes part in a scenario.
struct Part {
    peer: Peer,
    running: Running,
}

impl Bench<'_> {
    /// Measures one scenario. Returns an error if nothing can be measured, as without an application.
    pub(super) async fn measure(&mut self, scenario: &Scenario) -> Result<(), String> {
        eprintln!("{}: {}", scenario.id, scenario.title);
        for variant in scenario.variants {
            let mut parts = self.start(scenario, variant, 0).await?;
            for round in 0..self.plan.repeat {
                if round > 0 && variant.starts_fresh() {
                    drop(std::mem::take(&mut parts));
                    parts = self.start(scenario, variant, round).await?;
                }
                let first = round % parts.len().max(1);
                parts.rotate_left(first);
                let mut line = Vec::new();
                let mut rest = Vec::new();
                for part in parts {
                    let outcome = self.undisturbed(scenario, variant, &part).await;
                    if let Some(primary) = self.noted(scenario, part.peer, outcome) {
                        line.push((part.peer, format!("{} {primary:.2}", part.peer.name())));
                        rest.push(part);
                    }
                }
                parts = rest;
                line.sort();
                let line: Vec<_> = line.into_iter().map(|(_, text)| text).collect();
                let (number, of) = (round + 1, self.plan.repeat);
                eprintln!("{} {} {number}/{of}: {}", scenario.id, variant.name, line.join(", "));
            }
        }
        Ok(())
    }

    /// Starts the application and every peer that can do the work.
    async fn start(
        &mut self,
        scenario: &Scenario,
        variant: &Variant,
        round: usize,
    ) -> Result<Vec<Part>, String> {
        let setup = variant.setup()?;
        let mut parts = Vec::new();
        for found in self.peers.iter().filter(|found| found.peer.supports(&setup)) {
            if self.failed.contains(&(scenario.id, found.peer)) {
                continue;
            }
            let variant = variant.name.replace([' ', '/', ','], "");
            let name = format!("{}-{variant}-{round}-{}", scenario.id, found.peer.name());
            let directory = self.directory.join(name);
            std::fs::create_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
            let with = With { cores: &self.cores, certificates: self.certificates, directory: &directory };
            let started = found.peer.start(&found.program, &setup, &with).await;
            if let Some(running) = self.noted(scenario, found.peer, started) {
                parts.push(Part { peer: found.peer, running });
            }
        }
        Ok(parts)
    }

    /// Measures until a run is undisturbed, and returns its first figure.
    async fn undisturbed(
        &mut self,
        scenario: &Scenario,
        variant: &Variant,
        part: &Part,
    ) -> Result<f64, String> {
        let at = Place { scenario: scenario.id, variant: variant.name, peer: part.peer.name() };
        let mut best: Option<(Vec<Figure>, f64)> = None;
        for _ in 0..ATTEMPTS {
            let run = Run {
                cores: &self.cores,
                processes: &part.running.processes,
                warm_up: self.plan.warm_up,
                duration: self.plan.run,
            };
            let (figures, other) = measure::once(variant, &part.running, &run).await?;
            // Of two attempts, one is discarded.
            if best.is_some() {
                self.results.discard(&at, &figures);
            }
            if best.as_ref().is_none_or(|(_, before)| other < *before) {
                best = Some((figures, other));
            }
            if other <= DISTURBED {
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
