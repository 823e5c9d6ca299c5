//! Who is let in: each accepted connection takes a place of its peer's share before it is served.
//!
//! A client that finds no place waits for one, and with it the listener's queue: who is accepted is served, and who is not
//! waits in the kernel. Meanwhile connections without a request under way are closed for it. A peer that has its share for
//! longer than that is turned away at once, so that others behind it get their turn.

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

/// How long the listener's queue waits for the place of one connection whose peer has its share, while others have not.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long after that further connections of such peers are turned away at once.
const STRICT: Duration = Duration::from_secs(10);

/// How long a connection may have no request under way before it may be closed for another.
const IDLE: Duration = Duration::from_secs(1);

/// One worker's entrance.
#[derive(Debug)]
pub(crate) struct Door {
    budget: Arc<ConnectionBudget>,
    strict_until: Cell<Instant>,
}

/// The place of one connection that a client made.
#[derive(Debug)]
pub(crate) struct Place {
    budget: Arc<ConnectionBudget>,
    share: RefCell<Option<Share>>,
    /// Requests and relays under way.
    running: Cell<u32>,
    /// It is not closed for others.
    kept: Cell<bool>,
    _open: Share,
}

/// Something is under way on a connection.
#[derive(Debug)]
pub(crate) struct Running(Rc<Place>);

impl Door {
    pub(crate) fn new(budget: Arc<ConnectionBudget>) -> Self {
        Self { budget, strict_until: Cell::new(Instant::now()) }
    }

    /// A place for a connection of `peer`; `None` when it is to be turned away.
    pub(crate) async fn admit(&self, peer: &PeerKey) -> Option<Rc<Place>> {
        let holding = self.budget.accepted.holding(peer);
        let share = match holding.try_take() {
            Some(share) => share,
            None => self.wait(&holding).await?,
        };
        Some(Rc::new(Place {
            budget: Arc::clone(&self.budget),
            share: RefCell::new(Some(share)),
            running: Cell::new(0),
            kept: Cell::new(false),
            _open: self.budget.accept(),
        }))
    }

    /// Waits for a place. While nothing is free, it waits for as long as that lasts: nobody else could have one.
    async fn wait(&self, holding: &Arc<Holding>) -> Option<Share> {
        let patience = Instant::now() + PATIENCE;
        if self.gives_up(holding, patience) {
            return None;
        }
        let mut place = holding.wait();
        loop {
            let leftover = self.budget.accepted.leftover();
            if let Some(share) = (&mut place).now_or_never() {
                return share;
            }
            if self.gives_up(holding, patience) {
                return None;
            }
            tokio::select! {
                biased;
                share = &mut place => return share,
                () = leftover => {}
                () = sleep_until(patience), if Instant::now() < patience => {}
            }
        }
    }

    /// Whether a connection is turned away now, whose peer was waited for until `patience`.
    fn gives_up(&self, holding: &Holding, patience: Instant) -> bool {
        let now = Instant::now();
        let over = holding.has_its_share() && (now < self.strict_until.get() || now >= patience);
        if over {
            self.strict_until.set(now + STRICT);
        }
        over
    }
}

impl Place {
    /// The client has shown who it is: the place is of that peer's share from now on. False when that peer has its share.
    pub(crate) fn identify(&self, peer: &PeerKey) -> bool {
        let Some(share) = self.share.take() else { return false };
        let moved = share.move_to(&self.budget.accepted.holding(peer));
        let is_there = moved.is_some();
        self.share.replace(moved);
        is_there
    }

    /// Something is under way until the guard is dropped.
    pub(crate) fn begin(self: &Rc<Self>) -> Running {
        self.running.set(self.running.get() + 1);
        Running(Rc::clone(self))
    }

    /// The connection is not closed for others any more.
    pub(crate) fn keep(&self) {
        self.kept.set(true);
    }

    /// Serves the connection. When nothing is under way on it and a peer that has fewer needs its place, it is closed.
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

/// A connection without a request.
struct Idle {
    since: Option<Instant>,
    timer: Watchdog,
    debt: Option<Debt>,
}

impl Idle {
    fn poll_cut(&mut self, cx: &mut Context<'_>, place: &Place) -> Poll<()> {
        if self.since.is_none() {
            self.since = Some(Instant::now());
            self.timer.set(IDLE);
        }
        if self.debt.is_none() {
            std::task::ready!(self.timer.poll_passed(cx));
            let share = place.share.borrow();
            let Some(holding) = share.as_ref().and_then(Share::holding) else { return Poll::Pending };
            self.debt = Some(place.budget.idle.list(&[&holding], cx.waker()));
        }
        let cut = self.debt.as_ref().is_some_and(|debt| debt.is_cut(cx.waker()));
        if cut { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Running {
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

    fn door(places: u32) -> Rc<Door> {
        Rc::new(Door::new(ConnectionBudget::new(places, u32::MAX)))
    }

    /// All places that a peer gets without waiting.
    async fn fill(door: &Door, number: u8) -> Vec<Rc<Place>> {
        let mut places = Vec::new();
        while !door.budget.accepted.holding(&peer(number)).has_its_share() {
            places.extend(door.admit(&peer(number)).await);
        }
        places
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_has_its_share_waits_and_is_then_turned_away_at_once() {
        let door = door(64);
        let mut held = fill(&door, HOG).await;
        assert_eq!(held.len(), 60);
        let began = Instant::now();
        assert!(door.admit(&peer(HOG)).await.is_none());
        assert!((5..6).contains(&began.elapsed().as_secs()));
        let began = Instant::now();
        for _ in 0..100 {
            assert!(door.admit(&peer(HOG)).await.is_none());
        }
        let place = door.admit(&peer(GUEST)).await;
        assert!(place.is_some() && began.elapsed().is_zero(), "the guest behind them did not wait");
        drop(place);
        sleep(STRICT).await;
        held.pop();
        assert!(door.admit(&peer(HOG)).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn while_nothing_is_free_everybody_waits() {
        let door = door(4);
        let mut held = fill_all(&door).await;
        let waiting = {
            let door = Rc::clone(&door);
            async move { door.admit(&peer(HOG)).await }
        };
        let ended = async {
            sleep(Duration::from_secs(60)).await;
            held.pop();
        };
        let (place, ()) = tokio::join!(waiting, ended);
        assert!(place.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waited_for_long_is_turned_away_as_soon_as_something_is_free_that_is_not_its_peers() {
        let door = door(64);
        let _held = fill(&door, HOG).await;
        let mut others = Vec::new();
        for number in 10..14 {
            others.extend(door.admit(&peer(number)).await);
        }
        let began = Instant::now();
        let ended = async {
            sleep(Duration::from_secs(60)).await;
            others.pop();
        };
        let hog = peer(HOG);
        let (place, ()) = tokio::join!(door.admit(&hog), ended);
        assert!(place.is_none() && began.elapsed() == Duration::from_secs(60), "{:?}", began.elapsed());
    }

    async fn fill_all(door: &Door) -> Vec<Rc<Place>> {
        let mut places = Vec::new();
        for number in 1..=4 {
            places.extend(door.admit(&peer(number)).await);
        }
        places
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_closed_for_the_next_and_a_busy_one_is_not() {
        LocalSet::new()
            .run_until(async {
                let door = door(2);
                let (busy, idle) =
                    (door.admit(&peer(HOG)).await.unwrap(), door.admit(&peer(HOG)).await.unwrap());
                let running = busy.begin();
                let serve = |place: Rc<Place>| {
                    spawn_local(async move { place.serve(std::pin::pin!(std::future::pending())).await })
                };
                let (busy, idle) = (serve(busy), serve(idle));
                let began = Instant::now();
                let next = door.admit(&peer(HOG)).await;
                assert!(next.is_some() && began.elapsed() < Duration::from_secs(2));
                assert!(idle.is_finished() && !busy.is_finished());
                drop(running);
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_counts_for_whom_it_has_shown_to_be() {
        let door = door(64);
        let id = outrigger_core::identity::SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap();
        let key = PeerKey::new(Some(&id), IpAddr::from([10, 0, 0, HOG]));
        let held = fill(&door, HOG).await;
        for place in &held {
            assert!(place.identify(&key));
        }
        assert_eq!(door.budget.accepted.holding(&peer(HOG)).used(), 0);
        assert_eq!(door.budget.accepted.holding(&key).used(), 60);
        let another = door.admit(&peer(GUEST)).await.unwrap();
        assert!(!another.identify(&key), "it has its share");
        drop((another, held));
        assert_eq!(door.budget.accepted.used(), 0);
    }
}
