//! Decides when a stream sends its next request: at once (closed loop), or at the time that the schedule says.
//!
//! A schedule is not delayed by late answers. A stream that becomes free after the next request was due sends it at once,
//! and the latency is measured from when it was due: the correction for coordinated omission.

use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};

use super::schedule::Schedule;
use super::timer::Timer;

/// The right to send one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    /// When the request was to start.
    pub(super) intended: Instant,
    /// When it starts.
    pub(super) started: Instant,
    /// How late the generator was, not counting the time in which no stream was free.
    pub(super) lag: Duration,
}

/// The pacer of one worker.
pub(super) struct Pacer {
    timer: Timer,
    begin: Instant,
    counted_from: Instant,
    end: Option<Instant>,
    /// Requests still to be counted, if their number is given.
    left: Cell<Option<u64>>,
    /// With its own warm-up. None: closed loop.
    schedule: Option<Schedule>,
    /// The number of the next request in the schedule; this worker has every `step`th.
    next: Cell<u64>,
    step: u64,
}

/// When a worker begins, counts and ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) begin: Instant,
    pub(super) counted_from: Instant,
    pub(super) end: Option<Instant>,
    /// The number of requests to count.
    pub(super) count: Option<u64>,
}

impl Pacer {
    /// A pacer for worker `worker` of `workers`. Returns an error if the timer cannot be created.
    pub(super) fn new(
        window: Window,
        schedule: Option<&Schedule>,
        worker: usize,
        workers: usize,
    ) -> io::Result<Self> {
        Ok(Self {
            timer: Timer::new()?,
            begin: window.begin,
            counted_from: window.counted_from,
            end: window.end,
            left: Cell::new(window.count),
            schedule: schedule.map(|schedule| schedule.after_warm_up(window.counted_from - window.begin)),
            next: Cell::new(worker as u64),
            step: workers as u64,
        })
    }

    /// Waits until the next request may start. Returns None when there are no more.
    pub(super) async fn next(&self) -> Option<Ticket> {
        let asked = Instant::now();
        if self.end.is_some_and(|end| asked >= end) {
            return None;
        }
        let intended = match &self.schedule {
            None => asked,
            Some(schedule) => self.begin + schedule.time_of(self.next.get())?,
        };
        if intended >= self.counted_from
            && let Some(left) = self.left.get()
        {
            self.left.set(Some(left.checked_sub(1)?));
        }
        self.next.set(self.next.get() + self.step);
        if intended <= asked {
            return Some(Ticket { intended, started: asked, lag: Duration::ZERO });
        }
        self.timer.sleep_until(intended).await.ok()?;
        let started = Instant::now();
        Some(Ticket { intended, started, lag: started - intended })
    }

    /// Returns the intended times of requests that were due before `now` and that nobody took.
    pub(super) fn unsent(&self, now: Instant) -> impl Iterator<Item = Instant> {
        let until = self.end.map_or(now, |end| end.min(now));
        let of = |schedule: &Schedule, number| Some(self.begin + schedule.time_of(number)?);
        let numbers = (self.next.get()..).step_by(self.step as usize);
        let counted = self.left.get().is_none().then_some(self.schedule.as_ref()).flatten();
        counted
            .into_iter()
            .flat_map(move |schedule| numbers.clone().map_while(move |number| of(schedule, number)))
            .take_while(move |time| *time < until)
    }

    /// Waits for the end of the test. Never returns if the test has no end.
    pub(super) async fn end(&self) {
        match self.end {
            Some(end) => tokio::time::sleep_until(end.into()).await,
            None => std::future::pending().await,
        }
    }

    /// Keeps the timer running. Returns an error of the timer.
    pub(super) async fn run(&self) -> io::Result<()> {
        self.timer.run().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pacer(rate: f64, window: Window) -> Pacer {
        let schedule = Schedule::constant(rate, Duration::from_secs(10)).unwrap();
        Pacer::new(window, Some(&schedule), 0, 1).unwrap()
    }

    fn window(begin: Instant) -> Window {
        let end = Some(begin + Duration::from_secs(10));
        Window { begin, counted_from: begin, end, count: None }
    }

    #[tokio::test]
    async fn a_request_that_was_due_starts_at_once_and_keeps_its_intended_time() {
        let begin = Instant::now() - Duration::from_secs(1);
        let pacer = pacer(100.0, window(begin));
        let ticket = pacer.next().await.unwrap();
        assert_eq!((ticket.intended, ticket.lag), (begin, Duration::ZERO));
        assert!(ticket.started >= begin + Duration::from_secs(1));
        let second = pacer.next().await.unwrap();
        assert_eq!(second.intended, begin + Duration::from_millis(10));
    }

    #[tokio::test]
    async fn a_request_that_is_not_due_waits_and_lateness_is_the_generators() {
        let begin = Instant::now() + Duration::from_millis(20);
        let pacer = pacer(100.0, window(begin));
        let ticket = tokio::select! {
            error = pacer.run() => panic!("{error:?}"),
            ticket = pacer.next() => ticket.unwrap(),
        };
        assert_eq!(ticket.intended, begin);
        assert!(ticket.started >= begin && ticket.lag == ticket.started - begin);
    }

    #[tokio::test]
    async fn what_nobody_took_is_unsent() {
        let begin = Instant::now() - Duration::from_secs(60);
        let pacer = pacer(5.0, window(begin));
        assert_eq!(pacer.next().await, None, "the end is over");
        assert_eq!(pacer.unsent(begin + Duration::from_secs(2)).count(), 10);
        assert_eq!(pacer.unsent(Instant::now()).count(), 50);
    }

    #[tokio::test]
    async fn a_number_of_requests_does_not_include_the_warm_up() {
        let begin = Instant::now() - Duration::from_secs(1);
        let pacer = pacer(
            10.0,
            Window { counted_from: begin + Duration::from_millis(300), end: None, count: Some(4), begin },
        );
        let mut taken = 0;
        while pacer.next().await.is_some() {
            taken += 1;
        }
        assert_eq!(taken, 3 + 4);
        assert_eq!(pacer.unsent(Instant::now()).count(), 0);
    }
}
