//! Starts the threads of a load test, and collects what they measured.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::cpu;
use super::measurement::Measurement;
use super::recorder::{Second, Shared, Tally};
use super::spec::{Spec, Until};
use super::worker::{Figures, Phase, Worker};

/// From when all connections are open until the first request, so that all threads begin at the same time.
const LEAD: Duration = Duration::from_millis(5);
/// Open files besides connections.
const OTHER_FILES: usize = 64;

/// A load test that runs. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Running {
    spec: Arc<Spec>,
    shared: Arc<Shared>,
    phase: watch::Sender<Phase>,
    threads: Vec<JoinHandle<Result<Figures, String>>>,
    begin: Instant,
}

/// Opens all connections and starts the test. Blocks until the connections are open. Returns an error if the specification
/// contradicts itself or a connection cannot be opened.
pub(crate) fn start(spec: Spec) -> Result<Running, String> {
    spec.check()?;
    cpu::allow_files(spec.connections.saturating_add(OTHER_FILES))?;
    let (spec, shared) = (Arc::new(spec), Arc::new(Shared::default()));
    let (phase, watched) = watch::channel(Phase::Opening);
    let (ready, opened) = mpsc::channel();
    let thread = |number| {
        let worker = Worker {
            number,
            spec: Arc::clone(&spec),
            shared: Arc::clone(&shared),
            phase: watched.clone(),
            ready: ready.clone(),
        };
        let thread = std::thread::Builder::new().name(format!("load-{number}"));
        thread.spawn(move || worker.run()).map_err(|error| format!("cannot start a thread: {error}"))
    };
    let threads: Vec<_> = (0..spec.threads).map(thread).collect::<Result<_, _>>()?;
    let mut running = Running { spec, shared, phase, threads, begin: Instant::now() };
    drop(ready);
    for _ in 0..running.spec.threads {
        match opened.recv() {
            Ok(opened) => opened?,
            Err(mpsc::RecvError) => return Err("a thread of the load test ended".into()),
        }
    }
    running.begin = Instant::now() + LEAD;
    running.phase.send_replace(Phase::Running(running.begin));
    Ok(running)
}

impl Running {
    /// Requests that have ended so far, those of the warm-up included: what a caller divides by who measures over a time of
    /// its own.
    pub(crate) fn ended(&self) -> u64 {
        self.shared.ended.load(Ordering::Relaxed)
    }

    /// Connections that have been opened so far.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Time since the beginning of the measurement. Returns None in the warm-up.
    pub(crate) fn elapsed(&self) -> Option<Duration> {
        Instant::now().checked_duration_since(self.begin + self.spec.warm_up)
    }

    /// The seconds of the measurement from number `from` on that are over.
    pub(crate) fn seconds(&self, from: usize) -> Vec<Second> {
        let seconds = self.shared.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        let over = self.elapsed().map_or(0, |elapsed| elapsed.as_secs() as usize).min(seconds.len());
        seconds.get(from..over).unwrap_or_default().to_vec()
    }

    /// Returns true when all threads have ended.
    pub(crate) fn is_over(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Ends the test early. Requests without an answer are dropped.
    pub(crate) fn stop(&self) {
        self.phase.send_replace(Phase::Stopped);
    }

    /// Waits for the end and returns what was measured. Returns an error if a thread failed.
    pub(crate) fn finish(mut self) -> Result<Measurement, String> {
        let mut tally = Tally::new();
        let mut threads = Vec::new();
        let counted_from = self.begin + self.spec.warm_up;
        let mut last = counted_from;
        let mut stopped = false;
        for thread in self.threads.drain(..) {
            let figures = thread.join().map_err(|_| "a thread of the load test panicked")??;
            tally.add(figures.tally);
            last = last.max(figures.last);
            stopped |= figures.stopped;
            threads.push(figures.used);
        }
        let elapsed = match self.spec.until {
            Until::Elapsed(length) if !stopped => length,
            _ => last - counted_from,
        };
        let seconds =
            std::mem::take(&mut *self.shared.seconds.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Measurement { tally, elapsed, seconds, connections: self.connections(), threads })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests;
