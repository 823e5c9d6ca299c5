//! Batches of spans and log records: the queue that workers send finished requests to, and how requests gather behind it.
//!
//! Workers never wait: a full queue refuses a record, and the worker counts it. Implements the batch processors' variables
//! (Environment variable specification, "Batch Span Processor", "Batch LogRecord Processor").

use std::sync::Arc;
use std::time::Duration;

use outrigger_core::record::RequestRecord;
use tokio::sync::mpsc::{self, error::TryRecvError};
use tokio::time::Instant;

use super::environment::{Environment, Variable};
use crate::error::Error;

/// How often the queue is polled while items gather, so that a busy proxy does not wake the exporter for each record: as rarely
/// as the first, and as often as the second if more than a quarter of the queue fills meanwhile.
const POLL_INTERVAL: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(1)];

/// The limits of a queue and its batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Batching {
    /// Maximum time that an item waits for its batch.
    delay: Duration,
    /// Maximum number of requests that wait for the exporter.
    queue: usize,
    /// Number of items after which a batch is exported at once.
    batch: usize,
}

impl Batching {
    /// Reads the variables that start with `prefix`: `OTEL_BSP` or `OTEL_BLRP`. The defaults are those of the specification,
    /// except that spans too wait for one second only.
    pub(super) fn read(environment: &Environment, prefix: &str) -> Result<Self, Error> {
        let name = |option: &str| format!("{prefix}_{option}");
        let (delay, queue, batch) =
            (name("SCHEDULE_DELAY"), name("MAX_QUEUE_SIZE"), name("MAX_EXPORT_BATCH_SIZE"));
        let size = environment.get(&batch);
        let batching = Self {
            delay: environment.get(&delay).map_or(Ok(Duration::from_secs(1)), Variable::milliseconds)?,
            queue: environment.get(&queue).map_or(Ok(2048), Variable::count)?,
            batch: size.map_or(Ok(512), Variable::count)?,
        };
        match size {
            _ if batching.batch <= batching.queue => Ok(batching),
            Some(size) => Err(size.refused(format_args!("is above {queue}, which is {}", batching.queue))),
            None => Ok(Self { batch: batching.queue, ..batching }),
        }
    }

    /// Returns the queue's sending end, and its batches.
    pub(crate) fn queue(self) -> (mpsc::Sender<Arc<RequestRecord>>, Batches) {
        let (sender, records) = mpsc::channel(self.queue);
        (sender, Batches { records, batching: self, pause: POLL_INTERVAL[0] })
    }
}

/// The receiving end of the queue.
#[derive(Debug)]
pub(crate) struct Batches {
    records: mpsc::Receiver<Arc<RequestRecord>>,
    batching: Batching,
    pause: Duration,
}

/// What a batch gathers.
pub(crate) trait Gathered: Default {
    /// Returns the number of items in it.
    fn items(&self) -> usize;
}

impl<T> Gathered for Vec<T> {
    fn items(&self) -> usize {
        self.len()
    }
}

impl Batches {
    /// Returns the next batch, or None when every sender is dropped and nothing is left. `convert` appends the items of a
    /// record. Cancel-safe only between batches.
    pub(crate) async fn next<T: Gathered>(
        &mut self,
        mut convert: impl FnMut(&RequestRecord, &mut T),
    ) -> Option<T> {
        let Batching { delay, batch: size, .. } = self.batching;
        let mut batch = T::default();
        while batch.items() == 0 {
            convert(&*self.records.recv().await?, &mut batch);
        }
        let deadline = Instant::now() + delay;
        loop {
            while batch.items() < size {
                match self.records.try_recv() {
                    Ok(record) => convert(&record, &mut batch),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Some(batch),
                }
            }
            if batch.items() >= size || Instant::now() >= deadline {
                return Some(batch);
            }
            tokio::time::sleep(self.pause.min(delay)).await;
            self.pause = next_pause(self.pause, self.records.len(), self.batching.queue / 4);
        }
    }
}

/// Returns the next pause if the queue had `filled` during one of `pause`, so that it fills to `aim` during the next.
fn next_pause(pause: Duration, filled: usize, aim: usize) -> Duration {
    let [longest, shortest] = POLL_INTERVAL;
    // Rises slowly, so that a short lull does not let the queue fill.
    pause.mul_f64((aim as f64 / filled.max(1) as f64).min(2.0)).clamp(shortest, longest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::access_log::entry::tests::record;

    fn read(variables: &[(&str, &str)]) -> Result<Batching, String> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Batching::read(&Environment::new(variables), "OTEL_BLRP").map_err(|error| error.to_string())
    }

    #[test]
    fn a_batch_fits_into_the_queue() {
        let defaults = Batching { delay: Duration::from_secs(1), queue: 2048, batch: 512 };
        assert_eq!(read(&[]).unwrap(), defaults);
        assert_eq!(
            read(&[("OTEL_BLRP_MAX_QUEUE_SIZE", "10")]).unwrap(),
            Batching { queue: 10, batch: 10, ..defaults }
        );
        let error = read(&[("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "3000")]).unwrap_err();
        let expected =
            "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE: `3000` is above OTEL_BLRP_MAX_QUEUE_SIZE, which is 2048";
        assert_eq!(error, expected);
        assert!(read(&[("OTEL_BLRP_SCHEDULE_DELAY", "soon")]).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_complete_at_its_size_or_after_the_delay() {
        let (sender, mut batches) = Batching { delay: Duration::from_secs(1), queue: 8, batch: 2 }.queue();
        let send = |count| (0..count).for_each(|_| sender.try_send(Arc::new(record())).unwrap());
        let start = Instant::now();
        send(3);
        let one_each = |_: &RequestRecord, batch: &mut Vec<()>| batch.push(());
        assert_eq!(batches.next(one_each).await.unwrap().len(), 2);
        assert_eq!(start.elapsed(), Duration::ZERO, "a full batch does not wait");
        assert_eq!(batches.next(one_each).await.unwrap().len(), 1);
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        drop(sender);
        assert!(batches.next(one_each).await.is_none());
    }

    #[test]
    fn the_queue_is_polled_as_often_as_it_fills() {
        let [longest, shortest] = POLL_INTERVAL;
        assert_eq!(next_pause(longest, 512, 512), longest);
        assert_eq!(next_pause(longest, 2048, 512), longest / 4);
        assert_eq!(next_pause(longest / 4, 100, 512), longest / 2, "it rises slowly");
        assert_eq!(next_pause(longest, 0, 512), longest);
        assert_eq!(next_pause(shortest, 4096, 512), shortest);
        assert_eq!(next_pause(longest, 1, 0), shortest, "a queue for few");
    }

    #[tokio::test(start_paused = true)]
    async fn fifty_thousand_records_a_second_fit_into_the_queue() {
        let (sender, mut batches) = read(&[]).unwrap().queue();
        let sending = tokio::spawn(async move {
            let mut refused = 0;
            for _ in 0..2_000 {
                refused += (0..50).filter(|_| sender.try_send(Arc::new(record())).is_err()).count();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            refused
        });
        let mut taken = 0;
        while let Some(batch) = batches.next(|_, batch: &mut Vec<()>| batch.push(())).await {
            taken += batch.len();
        }
        let refused = sending.await.unwrap();
        // The first pauses are those of an idle proxy.
        assert!(refused < 2_000, "{refused}");
        assert_eq!(taken + refused, 100_000);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once() {
        let (sender, _batches) = Batching { delay: Duration::from_secs(1), queue: 4, batch: 4 }.queue();
        let refused = (0..10).filter(|_| sender.try_send(Arc::new(record())).is_err()).count();
        assert_eq!(refused, 6);
    }
}
