//! The data plane's threads, each running one worker.

use std::thread::JoinHandle;
use std::time::Duration;

use outrigger_dataplane::worker::{self, WorkerConfig};
use tokio::sync::mpsc;

use crate::error::Error;

/// Time limit for a drained worker's thread to end.
const JOIN_TIMEOUT: Duration = Duration::from_secs(2);

/// The worker threads. A worker that ends without a shutdown request is a bug, and the process ends with it.
#[derive(Debug)]
pub(crate) struct Workers {
    threads: Vec<JoinHandle<()>>,
    ends: mpsc::UnboundedReceiver<String>,
}

impl Workers {
    /// Starts `count` threads. Each runs a copy of `prototype` with its own number.
    pub(crate) fn start(count: usize, prototype: WorkerConfig) -> Result<Self, Error> {
        let (ended, ends) = mpsc::unbounded_channel();
        let spawn = |id| {
            let mut config = prototype.clone();
            config.id = id;
            // Dropped when the thread ends, also by a panic.
            let end = End { id, problem: "it panicked".to_owned(), ended: ended.clone() };
            std::thread::Builder::new()
                .name(format!("worker-{id}"))
                .spawn(move || end.of(worker::run(config)))
                .map_err(|source| Error::Start { what: "a worker's thread", source })
        };
        let threads = (0..count).map(spawn).collect::<Result<_, _>>()?;
        Ok(Self { threads, ends })
    }

    /// Resolves when a worker ends. Cancel-safe.
    pub(crate) async fn ended(&mut self) -> Error {
        match self.ends.recv().await {
            Some(problem) => Error::Failed(problem),
            None => Error::Failed("every worker ended".to_owned()),
        }
    }

    /// Waits until the drained workers' threads have ended.
    pub(crate) async fn joined(self) {
        let Self { threads, mut ends } = self;
        let all = async {
            for _ in &threads {
                ends.recv().await;
            }
        };
        if tokio::time::timeout(JOIN_TIMEOUT, all).await.is_err() {
            tracing::warn!("a drained worker did not end in time");
        }
    }
}

struct End {
    id: usize,
    problem: String,
    ended: mpsc::UnboundedSender<String>,
}

impl End {
    fn of(mut self, outcome: std::io::Result<()>) {
        self.problem = match outcome {
            Ok(()) => "it drained".to_owned(),
            Err(error) => error.to_string(),
        };
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.ended.send(format!("worker {} ended: {}", self.id, self.problem));
    }
}
