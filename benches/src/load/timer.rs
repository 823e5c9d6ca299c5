//! Sleeping with the precision of the kernel's timers. Tokio's timers are rounded up to a millisecond, which is longer than
//! the requests that are measured. One timerfd serves all sleeping streams of a thread.
//!
//! Errors of the timerfd end the worker: without it the rate would be wrong.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

/// The sleepers of one thread and their timer.
pub(super) struct Timer {
    timer: AsyncFd<OwnedFd>,
    /// Ordered by time.
    sleepers: RefCell<VecDeque<(Instant, oneshot::Sender<()>)>>,
}

impl Timer {
    /// Must be called in a runtime.
    pub(super) fn new() -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // SAFETY: an OwnedFd is one open file descriptor until it is dropped, and the AsyncFd owns it.
        let timer = unsafe { AsyncFd::register(timer) }?;
        Ok(Self { timer, sleepers: RefCell::default() })
    }

    /// Returns at `time` or shortly after it. [`Timer::run`] must be polled meanwhile.
    pub(super) async fn sleep_until(&self, time: Instant) -> io::Result<()> {
        let (wake, woken) = oneshot::channel();
        let first = {
            let mut sleepers = self.sleepers.borrow_mut();
            let place = sleepers.partition_point(|(other, _)| *other <= time);
            sleepers.insert(place, (time, wake));
            place == 0
        };
        if first {
            self.arm(time)?;
        }
        woken.await.map_err(|_| io::ErrorKind::Interrupted.into())
    }

    /// Wakes sleepers, and only returns if the timerfd fails, with its error.
    pub(super) async fn run(&self) -> io::Result<()> {
        loop {
            let mut ready = self.timer.readable().await?;
            let expired = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut [0_u8; 8])?));
            if let Ok(expired) = expired {
                expired?;
            }
            let now = Instant::now();
            let mut sleepers = self.sleepers.borrow_mut();
            while sleepers.front().is_some_and(|(time, _)| *time <= now) {
                // A sleeper that was dropped needs no wake.
                let _ = sleepers.pop_front().map(|(_, wake)| wake.send(()));
            }
            if let Some((time, _)) = sleepers.front() {
                self.arm(*time)?;
            }
        }
    }

    fn arm(&self, time: Instant) -> io::Result<()> {
        // Zero would disarm the timer.
        let left = time.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let once = Itimerspec { it_interval: none, it_value: left };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[tokio::test]
    async fn sleepers_wake_in_the_order_of_their_times_and_not_before() {
        let timer = Rc::new(Timer::new().unwrap());
        let begin = Instant::now();
        let order = RefCell::new(Vec::new());
        let sleeper = |milliseconds: u64| {
            let (timer, order) = (&timer, &order);
            async move {
                let time = begin + Duration::from_millis(milliseconds);
                timer.sleep_until(time).await.unwrap();
                assert!(Instant::now() >= time);
                order.borrow_mut().push(milliseconds);
            }
        };
        tokio::select! {
            error = timer.run() => panic!("{error:?}"),
            _ = async { tokio::join!(sleeper(9), sleeper(3), sleeper(6), sleeper(0)) } => {}
        }
        assert_eq!(*order.borrow(), [0, 3, 6, 9]);
    }
}
