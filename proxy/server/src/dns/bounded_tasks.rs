//! Tasks of which a maximum runs at a time. At the maximum, the oldest ends for a new one, so that those which take long, whether on
//! purpose or not, do not keep out others.

use std::collections::VecDeque;

use tokio::task::AbortHandle;

/// Tasks, the oldest first.
#[derive(Debug)]
pub(super) struct BoundedTasks {
    tasks: VecDeque<AbortHandle>,
    max: usize,
}

impl BoundedTasks {
    /// Creates an empty set for at most `max` tasks.
    pub(super) fn new(max: usize) -> Self {
        Self { tasks: VecDeque::with_capacity(max), max }
    }

    /// Starts a task. Returns true if the oldest was ended for it.
    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        if self.tasks.len() >= self.max {
            self.tasks.retain(|task| !task.is_finished());
        }
        let oldest = if self.tasks.len() >= self.max { self.tasks.pop_front() } else { None };
        oldest.iter().for_each(AbortHandle::abort);
        self.tasks.push_back(tokio::spawn(task).abort_handle());
        oldest.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn at_the_maximum_the_oldest_that_still_runs_ends_for_a_new_one() {
        let mut tasks = BoundedTasks::new(2);
        let running: [Arc<()>; 3] = Default::default();
        let waiting = |n: usize| {
            let held = Arc::clone(&running[n]);
            async move {
                pending::<()>().await;
                drop(held);
            }
        };
        let counts = async || {
            tokio::task::yield_now().await;
            running.each_ref().map(|held| Arc::strong_count(held) - 1)
        };
        assert!(!tasks.spawn(waiting(0)));
        assert!(!tasks.spawn(async {}));
        assert_eq!(counts().await, [1, 0, 0]);
        assert!(!tasks.spawn(waiting(1)), "the other has finished");
        assert_eq!(counts().await, [1, 1, 0]);
        assert!(tasks.spawn(waiting(2)));
        assert_eq!(counts().await, [0, 1, 1]);
    }
}
