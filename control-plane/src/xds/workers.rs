//! The threads that translate. Never the runtime's, which answers heartbeats and certificate requests meanwhile.
//!
//! There are fewer of them than cores, so that a core stays free for the runtime. Work waits in order of arrival; each
//! stream has one piece of work at a time, so that what waits is bounded by the streams.

use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;

use tokio::sync::Semaphore;
use tokio::task::{JoinError, spawn_blocking};

/// A share of tokio's blocking threads.
#[derive(Debug)]
pub(super) struct Workers {
    permits: Arc<Semaphore>,
}

impl Workers {
    /// One thread fewer than there are cores, and at least one.
    pub(super) fn new() -> Self {
        let cores = available_parallelism().map_or(1, NonZero::get);
        Self { permits: Arc::new(Semaphore::new(cores.saturating_sub(1).max(1))) }
    }

    /// Whether every thread works.
    #[cfg(test)]
    pub(super) fn are_busy(&self) -> bool {
        self.permits.available_permits() == 0
    }

    /// Does the work when a thread is free, and returns what it returns. Cancelled while it waits, the work is never
    /// done; cancelled later, it is done and its result dropped. Fails when the work panics.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        // The semaphore is never closed.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        spawn_blocking(move || {
            let _permit = permit;
            work()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn work_waits_for_a_free_thread_and_is_never_done_if_its_caller_leaves_before() {
        let workers = Workers { permits: Arc::new(Semaphore::new(1)) };
        let (finish, finished) = mpsc::channel::<()>();
        let done = Arc::new(AtomicUsize::new(0));
        let add = |number| {
            let done = Arc::clone(&done);
            move || done.fetch_add(number, Ordering::Relaxed)
        };
        let long = workers.run(move || finished.recv());
        let mut long = std::pin::pin!(long);
        assert!(long.as_mut().now_or_never().is_none());
        assert!(workers.run(add(1)).now_or_never().is_none());
        let mut waiting = std::pin::pin!(workers.run(add(10)));
        assert!(waiting.as_mut().now_or_never().is_none());
        finish.send(()).unwrap();
        long.await.unwrap().unwrap();
        waiting.await.unwrap();
        assert_eq!(done.load(Ordering::Relaxed), 10);
    }
}
