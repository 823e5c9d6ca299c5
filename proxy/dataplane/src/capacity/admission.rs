//! Admission of accepted connections: each acquires a slot from its peer's share before it is served.
//!
//! If no slot is free, the connection waits for one, and with it the listener's queue: accepted connections are served, the
//! rest wait in the kernel. Meanwhile, idle connections are closed to free a slot. Connections of a peer that has had its full
//! share for longer than that are refused at once, so that connections of other peers behind them are admitted.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use outrigger_core::peer::PeerKey;
use tokio::time::{Instant, sleep_until};

use super::budget::ConnectionBudget;
use super::{Debt, Holding, Share};
use crate::codec::watchdog::Watchdog;

/// How long the listener's queue waits for the slot of one connection whose peer has its share while other peers do not.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long after that further connections of such peers are refused at once.
const STRICT: Duration = Duration::from_secs(10);

/// How long a connection may have no active request before it may be closed for another.
const IDLE: Duration = Duration::from_secs(1);

/// Admits the connections that one worker accepts.
#[derive(Debug)]
pub(crate) struct Admission {
    budget: Arc<ConnectionBudget>,
    strict_until: Cell<Instant>,
}

/// The slot of one accepted connection.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    budget: Arc<ConnectionBudget>,
    share: RefCell<Option<Share>>,
    /// Active requests and relays.
    running: Cell<u32>,
    /// Whether the connection is exempt from being closed for others.
    kept: Cell<bool>,
    _open: Share,
}

/// Marks a connection as active until it is dropped.
#[derive(Debug)]
pub(crate) struct ActiveGuard(Rc<ConnectionSlot>);

impl Admission {
    pub(crate) fn new(budget: Arc<ConnectionBudget>) -> Self {
        Self { budget, strict_until: Cell::new(Instant::now()) }
    }

    /// Returns a slot for a connection of `peer`, or None if it is refused.
    pub(crate) async fn admit(&self, peer: &PeerKey) -> Option<Rc<ConnectionSlot>> {
        let holding = self.budget.accepted.holding(peer);
        let share = match holding.try_take() {
            Some(share) => share,
            None => self.wait(&holding).await?,
        };
        Some(Rc::new(ConnectionSlot {
            budget: Arc::clone(&self.budget),
            share: RefCell::new(Some(share)),
            running: Cell::new(0),
            kept: Cell::new(false),
            _open: self.budget.accept(),
        }))
    }

    /// Waits for a slot. There is no time limit while no slot is free, because no other peer could get one.
    async fn wait(&self, holding: &Arc<Holding>) -> Option<Share> {
        let patience = Instant::now() + PATIENCE;
        if self.gives_up(holding, patience) {
            return None;
        }
        let mut slot = holding.wait();
        loop {
            let leftover = self.budget.accepted.leftover();
            if let Some(share) = (&mut slot).now_or_never() {
                return share;
            }
            if self.gives_up(holding, patience) {
                return None;
            }
            tokio::select! {
                biased;
                share = &mut slot => return share,
                () = leftover => {}
                () = sleep_until(patience), if Instant::now() < patience => {}
            }
        }
    }

    /// Returns whether the connection is refused now. `patience` is when the wait for a peer that has its share ends.
    fn gives_up(&self, holding: &Holding, patience: Instant) -> bool {
        let now = Instant::now();
        let over = holding.has_its_share() && (now < self.strict_until.get() || now >= patience);
        if over {
            self.strict_until.set(now + STRICT);
        }
        over
    }
}

impl ConnectionSlot {
    /// Moves the slot to the share of the verified peer. Returns false if that peer already has its share.
    pub(crate) fn identify(&self, peer: &PeerKey) -> bool {
        let Some(share) = self.share.take() else { return false };
        let moved = share.move_to(&self.budget.accepted.holding(peer));
        let is_there = moved.is_some();
        self.share.replace(moved);
        is_there
    }

    /// Marks the connection as active until the guard is dropped.
    pub(crate) fn begin(self: &Rc<Self>) -> ActiveGuard {
        self.running.set(self.running.get() + 1);
        ActiveGuard(Rc::clone(self))
    }

    /// Exempts the connection from being closed for others.
    pub(crate) fn keep(&self) {
        self.kept.set(true);
    }

    /// Serves the connection. Closes it if it is idle and a peer that holds fewer slots needs one.
    pub(crate) async fn serve(&self, mut serving: Pin<&mut impl Future<Output = ()>>) {
        let mut idle = Idle { since: None, timer: Watchdog::new(), debt: None };
        poll_fn(|cx| {
            if serving.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if self.running.get() > 0 || self.kept.get() {
                (idle.since, idle.debt) = (None, None);
                return Poll::Pending;
            }
            idle.poll_cut(cx, self)
        })
        .await;
    }
}

/// The state of a connection without an active request.
struct Idle {
    since: Option<Instant>,
    timer: Watchdog,
    debt: Option<Debt>,
}

impl Idle {
    fn poll_cut(&mut self, cx: &mut Context<'_>, slot: &ConnectionSlot) -> Poll<()> {
        if self.since.is_none() {
            let now = Instant::now();
            self.since = Some(now);
            self.timer.set_at(now + IDLE);
        }
        if self.debt.is_none() {
            std::task::ready!(self.timer.poll_passed(cx));
            let share = slot.share.borrow();
            let Some(holding) = share.as_ref().and_then(Share::holding) else { return Poll::Pending };
            self.debt = Some(slot.budget.idle.list(&[&holding], cx.waker()));
        }
        let cut = self.debt.as_ref().is_some_and(|debt| debt.is_cut(cx.waker()));
        if cut { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use tokio::task::{LocalSet, spawn_local};
    use tokio::time::sleep;

    use super::*;

    const HOG: u8 = 1;
    const GUEST: u8 = 2;

    fn peer(number: u8) -> PeerKey {
        PeerKey::new(None, IpAddr::from([10, 0, 0, number]))
    }

    fn admission(slots: u32) -> Rc<Admission> {
        Rc::new(Admission::new(ConnectionBudget::new(slots, u32::MAX)))
    }

    /// Returns all slots that a peer gets without waiting.
    async fn fill(admission: &Admission, number: u8) -> Vec<Rc<ConnectionSlot>> {
        let mut slots = Vec::new();
        while !admission.budget.accepted.holding(&peer(number)).has_its_share() {
            slots.extend(admission.admit(&peer(number)).await);
        }
        slots
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_has_its_share_waits_and_is_then_turned_away_at_once() {
        let admission = admission(64);
        let mut held = fill(&admission, HOG).await;
        assert_eq!(held.len(), 60);
        let began = Instant::now();
        assert!(admission.admit(&peer(HOG)).await.is_none());
        assert!((5..6).contains(&began.elapsed().as_secs()));
        let began = Instant::now();
        for _ in 0..100 {
            assert!(admission.admit(&peer(HOG)).await.is_none());
        }
        let slot = admission.admit(&peer(GUEST)).await;
        assert!(slot.is_some() && began.elapsed().is_zero(), "the guest behind them did not wait");
        drop(slot);
        sleep(STRICT).await;
        held.pop();
        assert!(admission.admit(&peer(HOG)).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn while_nothing_is_free_everybody_waits() {
        let admission = admission(4);
        let mut held = fill_all(&admission).await;
        let waiting = {
            let admission = Rc::clone(&admission);
            async move { admission.admit(&peer(HOG)).await }
        };
        let ended = async {
            sleep(Duration::from_secs(60)).await;
            held.pop();
        };
        let (slot, ()) = tokio::join!(waiting, ended);
        assert!(slot.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waited_for_long_is_turned_away_as_soon_as_something_is_free_that_is_not_its_peers() {
        let admission = admission(64);
        let _held = fill(&admission, HOG).await;
        let mut others = Vec::new();
        for number in 10..14 {
            others.extend(admission.admit(&peer(number)).await);
        }
        let began = Instant::now();
        let ended = async {
            sleep(Duration::from_secs(60)).await;
            others.pop();
        };
        let hog = peer(HOG);
        let (slot, ()) = tokio::join!(admission.admit(&hog), ended);
        assert!(slot.is_none() && began.elapsed() == Duration::from_secs(60), "{:?}", began.elapsed());
    }

    async fn fill_all(admission: &Admission) -> Vec<Rc<ConnectionSlot>> {
        let mut slots = Vec::new();
        for number in 1..=4 {
            slots.extend(admission.admit(&peer(number)).await);
        }
        slots
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_closed_for_the_next_and_a_busy_one_is_not() {
        LocalSet::new()
            .run_until(async {
                let admission = admission(2);
                let (busy, idle) =
                    (admission.admit(&peer(HOG)).await.unwrap(), admission.admit(&peer(HOG)).await.unwrap());
                let running = busy.begin();
                let serve = |slot: Rc<ConnectionSlot>| {
                    spawn_local(async move { slot.serve(std::pin::pin!(std::future::pending())).await })
                };
                let (busy, idle) = (serve(busy), serve(idle));
                let began = Instant::now();
                let next = admission.admit(&peer(HOG)).await;
                assert!(next.is_some() && began.elapsed() < Duration::from_secs(2));
                assert!(idle.is_finished() && !busy.is_finished());
                drop(running);
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_counts_for_whom_it_has_shown_to_be() {
        let admission = admission(64);
        let id = outrigger_core::identity::SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap();
        let key = PeerKey::new(Some(&id), IpAddr::from([10, 0, 0, HOG]));
        let held = fill(&admission, HOG).await;
        for slot in &held {
            assert!(slot.identify(&key));
        }
        assert_eq!(admission.budget.accepted.holding(&peer(HOG)).used(), 0);
        assert_eq!(admission.budget.accepted.holding(&key).used(), 60);
        let another = admission.admit(&peer(GUEST)).await.unwrap();
        assert!(!another.identify(&key), "it has its share");
        drop((another, held));
        assert_eq!(admission.budget.accepted.used(), 0);
    }
}
