//! The translation threads, separate from the runtime's thread, which serves heartbeats and certificate requests
//! meanwhile.
//!
//! There is one fewer than there are cores, so that one core is free for the runtime. Work is queued in FIFO order. Each
//! stream submits one piece of work at a time, so that the queue is bounded by the number of streams.

use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;

use tokio::sync::Semaphore;
use tokio::task::{JoinError, spawn_blocking};

/// Limits the use of tokio's blocking threads.
#[derive(Debug)]
pub(super) struct Workers {
    permits: Arc<Semaphore>,
}

impl Workers {
    /// Creates one thread fewer than there are cores, and at least one.
    pub(super) fn new() -> Self {
        let cores = available_parallelism().map_or(1, NonZero::get);
        Self { permits: Arc::new(Semaphore::new(cores.saturating_sub(1).max(1))) }
    }

    /// Returns true if all threads are busy.
    #[cfg(test)]
    pub(super) fn are_busy(&self) -> bool {
        self.permits.available_permits() == 0
    }

    /// Runs `work` when a thread is free and returns its result. If the future is dropped while it waits, the work does
    /// not run; if later, the result is dropped. Returns an error if the work panics.
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
    async fn work_waits_for_a_free_thread_and_is_dropped_with_its_caller() {
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
