//! Cuts a response that its client does not read if a peer that holds less needs its capacity.
//!
//! Independently of this, the codec limits how long a client may read nothing ([`Limits::write_timeout`]).
//!
//! [`Limits::write_timeout`]: crate::codec::limits::Limits::write_timeout

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::capacity::Debt;
use crate::codec::allowance::StillSince;
use crate::codec::watchdog::Watchdog;

/// How long a client may read nothing before its response may be cut for another peer's request.
const GRACE: Duration = Duration::from_secs(5);

/// Runs a delivery. `still_since` holds the time since which its client has read nothing; `owe` lists the delivery as one that
/// may be cut. Returns None if it was cut.
pub(super) fn unless_cut<F: Future + Unpin>(
    mut delivery: F,
    still_since: StillSince,
    owe: impl Fn(&Waker) -> Debt,
) -> impl Future<Output = Option<F::Output>> {
    let (mut timer, mut debt, mut listed) = (None::<Watchdog>, None::<Debt>, None);
    poll_fn(move |cx| {
        if let Poll::Ready(done) = Pin::new(&mut delivery).poll(cx) {
            return Poll::Ready(Some(done));
        }
        let since = still_since.since().get();
        if since != listed {
            (listed, debt) = (since, None);
        }
        let Some(since) = since else { return Poll::Pending };
        if debt.is_none() {
            let now = Instant::now();
            let timer = timer.get_or_insert_with(Watchdog::new);
            timer.set((since + GRACE).saturating_duration_since(now));
            std::task::ready!(timer.poll_passed(cx));
            debt = Some(owe(cx.waker()));
        }
        let cut = debt.as_ref().is_some_and(|debt| debt.is_cut(cx.waker()));
        if cut { Poll::Ready(None) } else { Poll::Pending }
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::net::IpAddr;
    use std::pin::pin;
    use std::rc::Rc;
    use std::sync::Arc;

    use outrigger_core::peer::PeerKey;
    use tokio::time::sleep;

    use super::*;
    use crate::capacity::{Capacity, Debts};

    /// Runs a delivery of an hour, of which the client reads something every `every`, while another peer waits for its capacity
    /// for a minute.
    async fn delivered(every: Duration) -> (Option<()>, Duration) {
        let debts = Arc::<Debts>::default();
        let capacity = Capacity::new(4, Arc::clone(&debts));
        let peer = |number| capacity.holding(&PeerKey::new(None, IpAddr::from([10, 0, 0, number])));
        let (hog, guest) = (peer(1), peer(2));
        let _held: Vec<_> = std::iter::from_fn(|| hog.try_take()).collect();
        let still = Rc::new(Cell::new(None));
        let delivery = async {
            for _ in 0..3600 / every.as_secs() {
                still.set(Some(Instant::now()));
                sleep(every).await;
            }
        };
        let began = Instant::now();
        let owe = |waker: &Waker| debts.list(&[&hog], waker);
        let waits = guest.take_by(began + Duration::from_secs(60));
        let delivery = pin!(delivery);
        let (delivered, _) = tokio::join!(unless_cut(delivery, still.clone(), owe), waits);
        (delivered, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_is_not_read_is_cut_for_a_peer_that_has_less() {
        let (delivered, _) = delivered(Duration::from_secs(3600)).await;
        assert!(delivered.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_is_read_slowly_is_not_cut() {
        let (delivered, took) = delivered(Duration::from_secs(4)).await;
        assert_eq!((delivered, took.as_secs()), (Some(()), 3600));
    }
}
