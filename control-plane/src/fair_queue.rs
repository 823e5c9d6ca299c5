//! A bounded number of turns for work that a caller may delay, and a queue of the callers that wait for one.
//!
//! The groups of waiting callers take turns, one caller of each at a time. A turn can be lost only after its grace, and only to a caller
//! that waits: then the group with the most turns loses its oldest one. So many honest callers at once wait for each other, and callers
//! that hold all turns without progress delay others by the grace at most.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::fair_slots::{FairSlot, FairSlots};

/// A fixed number of turns, shared between groups.
pub(crate) struct FairQueue<G: Ord + Clone> {
    shared: Arc<Shared<G>>,
}

struct Shared<G: Ord + Clone> {
    slots: FairSlots<G>,
    grace: Duration,
    waiting: Mutex<Waiting<G>>,
}

/// The callers that wait. A group is here only while it has one.
struct Waiting<G: Ord + Clone> {
    groups: BTreeMap<G, Group<G>>,
    /// Groups by their place in the round.
    round: BTreeMap<u64, G>,
    next: u64,
}

struct Group<G: Ord + Clone> {
    place: u64,
    /// The oldest first.
    callers: BTreeMap<u64, oneshot::Sender<Turn<G>>>,
}

/// The right to work. Dropping it passes it on.
pub(crate) struct Turn<G: Ord + Clone> {
    /// None once it was passed on.
    slot: Option<FairSlot<G>>,
    shared: Arc<Shared<G>>,
}

impl<G: Ord + Clone> FairQueue<G> {
    /// Creates `limit` turns, at least one, that are not lost before `grace`.
    pub(crate) fn new(limit: usize, grace: Duration) -> Self {
        let waiting = Waiting { groups: BTreeMap::new(), round: BTreeMap::new(), next: 0 };
        let shared = Shared { slots: FairSlots::new(limit), grace, waiting: Mutex::new(waiting) };
        Self { shared: Arc::new(shared) }
    }

    /// Waits for a turn of a group. Dropping the future leaves the queue.
    pub(crate) fn turn(&self, group: G) -> impl Future<Output = Turn<G>> + use<G> {
        let shared = Arc::clone(&self.shared);
        async move {
            let (sender, turn) = oneshot::channel();
            // It leaves the queue before the receiver is dropped, so that no turn is sent to a dropped receiver.
            let _place = Place::take(&shared, group, sender);
            shared.pass();
            match turn.await {
                Ok(turn) => turn,
                // The sender leaves the queue with a turn, or with this future.
                Err(_) => pending().await,
            }
        }
    }

    /// Ends the turn that is next to be lost, whatever its age. Returns false if there is none.
    pub(crate) fn evict(&self) -> bool {
        self.shared.slots.evict()
    }
}

impl<G: Ord + Clone> Shared<G> {
    /// Gives turns to callers that wait, while there are turns.
    fn pass(self: &Arc<Self>) {
        loop {
            let mut waiting = lock(&self.waiting);
            let Some(group) = waiting.first() else { return };
            let Some(slot) = self.slots.acquire_after(group, self.grace) else { return };
            let caller = waiting.take();
            // A turn that is dropped takes the lock.
            drop(waiting);
            let turn = Turn { slot: Some(slot), shared: Arc::clone(self) };
            if let Some(Err(mut unwanted)) = caller.map(|caller| caller.send(turn)) {
                drop(unwanted.slot.take());
            }
        }
    }
}

impl<G: Ord + Clone> Waiting<G> {
    /// Returns the group whose turn it is.
    fn first(&self) -> Option<G> {
        self.round.first_key_value().map(|(_, group)| group.clone())
    }

    /// Removes the oldest caller of that group, which then has the last place in the round.
    fn take(&mut self) -> Option<oneshot::Sender<Turn<G>>> {
        let (_, name) = self.round.pop_first()?;
        let group = self.groups.get_mut(&name)?;
        let caller = group.callers.pop_first();
        if group.callers.is_empty() {
            self.groups.remove(&name);
        } else {
            self.next += 1;
            group.place = self.next;
            self.round.insert(self.next, name);
        }
        caller.map(|(_, caller)| caller)
    }

    fn add(&mut self, name: G, caller: oneshot::Sender<Turn<G>>) -> u64 {
        self.next += 1;
        let number = self.next;
        let group = self.groups.entry(name.clone()).or_insert_with(|| {
            self.round.insert(number, name);
            Group { place: number, callers: BTreeMap::new() }
        });
        group.callers.insert(number, caller);
        number
    }

    fn remove(&mut self, name: &G, number: u64) {
        let Some(group) = self.groups.get_mut(name) else { return };
        group.callers.remove(&number);
        if group.callers.is_empty() {
            self.round.remove(&group.place);
            self.groups.remove(name);
        }
    }
}

impl<G: Ord + Clone> Turn<G> {
    /// Waits until the turn is lost: its grace is over and another caller waits.
    pub(crate) async fn lost(&mut self) {
        let Self { slot: Some(slot), shared } = self else { return };
        tokio::select! {
            () = slot.evicted() => return,
            () = tokio::time::sleep(shared.grace) => {}
        }
        // Callers that came before have waited for this.
        shared.pass();
        slot.evicted().await;
    }
}

impl<G: Ord + Clone> Drop for Turn<G> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            drop(slot);
            self.shared.pass();
        }
    }
}

/// The place of a caller that waits. Dropping it leaves the queue.
struct Place<'queue, G: Ord + Clone> {
    shared: &'queue Shared<G>,
    group: G,
    number: u64,
}

impl<'queue, G: Ord + Clone> Place<'queue, G> {
    fn take(shared: &'queue Shared<G>, group: G, caller: oneshot::Sender<Turn<G>>) -> Self {
        let number = lock(&shared.waiting).add(group.clone(), caller);
        Self { shared, group, number }
    }
}

impl<G: Ord + Clone> Drop for Place<'_, G> {
    fn drop(&mut self) {
        lock(&self.shared.waiting).remove(&self.group, self.number);
    }
}

/// Locks a mutex. A poisoned lock is used: no code panics between two steps of a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const GRACE: Duration = Duration::from_secs(1);
    const MOMENT: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn callers_wait_for_each_other_and_lose_no_turn_within_the_grace() {
        let queue = FairQueue::new(2, GRACE);
        let (mut first, second) = (queue.turn("a").await, queue.turn("b").await);
        let (mut third, mut fourth) = (Box::pin(queue.turn("a")), Box::pin(queue.turn("a")));
        assert!((&mut third).now_or_never().is_none() && (&mut fourth).now_or_never().is_none());
        tokio::time::advance(GRACE - MOMENT).await;
        assert!(first.lost().now_or_never().is_none());
        drop(second);
        assert!((&mut third).now_or_never().is_some() && (&mut fourth).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_grace_the_group_with_the_most_turns_loses_its_oldest_to_the_one_that_waits() {
        let queue = FairQueue::new(3, GRACE);
        let mut alone = queue.turn("alone").await;
        let (mut oldest, mut newer) = (queue.turn("many").await, queue.turn("many").await);
        let begin = tokio::time::Instant::now();
        let next = async { (queue.turn("next").await, begin.elapsed()) };
        let ((_next, waited), ()) = tokio::join!(next, async { oldest.lost().await });
        assert!((GRACE..=GRACE + 2 * MOMENT).contains(&waited), "{waited:?}");
        assert!(alone.lost().now_or_never().is_none() && newer.lost().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_without_waiting_callers_is_kept() {
        let queue = FairQueue::new(1, GRACE);
        let mut slow = queue.turn("a").await;
        assert!(tokio::time::timeout(10 * GRACE, slow.lost()).await.is_err());
        // A caller that comes later need not wait.
        let newer = queue.turn("b").now_or_never();
        assert!(newer.is_some() && slow.lost().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn groups_take_turns_however_many_of_their_callers_wait() {
        let queue = FairQueue::new(1, GRACE);
        let mut turn = queue.turn("many").await;
        let mut waiting: Vec<_> =
            ["many", "many", "many", "few"].map(|group| Box::pin(queue.turn(group))).into();
        assert!(waiting.iter_mut().all(|waits| waits.now_or_never().is_none()));
        for position in [0, 2, 0, 0] {
            drop(turn);
            turn = (&mut waiting[position]).now_or_never().unwrap();
            drop(waiting.remove(position));
            assert!(waiting.iter_mut().all(|waits| waits.now_or_never().is_none()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_has_gone_takes_no_turn() {
        let queue = FairQueue::new(1, GRACE);
        let turn = queue.turn("a").await;
        let (mut gone, mut last) = (Box::pin(queue.turn("b")), Box::pin(queue.turn("c")));
        assert!((&mut gone).now_or_never().is_none() && (&mut last).now_or_never().is_none());
        drop(gone);
        drop(turn);
        // It has a turn that it has not yet seen, which is passed on.
        let mut other = Box::pin(queue.turn("d"));
        assert!((&mut other).now_or_never().is_none());
        drop(last);
        assert!((&mut other).now_or_never().is_some());
        let waiting = lock(&queue.shared.waiting);
        assert!(waiting.groups.is_empty() && waiting.round.is_empty());
    }
}
