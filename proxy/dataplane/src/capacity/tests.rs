use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;

fn capacity(limit: u32) -> Arc<Capacity> {
    Capacity::new(limit, Arc::default())
}

fn peer(capacity: &Arc<Capacity>, number: u8) -> Arc<Holding> {
    capacity.holding(&PeerKey::new(None, IpAddr::from([10, 0, 0, number])))
}

/// Acquires as much as the peer can have now.
fn greedy(holding: &Arc<Holding>) -> Vec<Share> {
    std::iter::from_fn(|| holding.try_take()).collect()
}

fn is_pending(future: Pin<&mut impl Future>) -> bool {
    future.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(1)
}

#[tokio::test]
async fn a_lone_peer_may_have_all_but_the_reserve() {
    for (limit, most) in [(1, 1), (2, 2), (16, 15), (1024, 960), (10_000, 9375)] {
        let capacity = capacity(limit);
        let all = greedy(&peer(&capacity, 1));
        assert_eq!((all.len(), capacity.used()), (most, most as u32), "of {limit}");
        drop(all);
        assert_eq!(capacity.used(), 0);
    }
}

#[tokio::test]
async fn every_newcomer_finds_something_free() {
    let capacity = capacity(1024);
    let held: Vec<_> = (1..=3).map(|number| greedy(&peer(&capacity, number))).collect();
    assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [960, 32, 1]);
    let newcomers: Vec<_> = (4..=34).map(|number| peer(&capacity, number).try_take()).collect();
    assert!(newcomers.iter().all(Option::is_some));
    assert_eq!(capacity.used(), 1024);
}

#[tokio::test]
async fn what_a_peer_above_its_share_gives_back_goes_to_the_others() {
    let capacity = capacity(64);
    let (one, other) = (peer(&capacity, 1), peer(&capacity, 2));
    let (mut first, mut second) = (greedy(&one), greedy(&other));
    while second.len() + 1 < first.len() {
        first.pop();
        second.extend(greedy(&other));
        assert!(greedy(&one).is_empty(), "{} and {}", first.len(), second.len());
    }
    assert!(capacity.used() >= 60, "{} of 64 are in use", capacity.used());
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_served_when_something_is_given_back() {
    let capacity = capacity(1);
    let (one, other) = (peer(&capacity, 1), peer(&capacity, 2));
    let held = one.try_take();
    assert!(other.try_take().is_none());
    let waiting = tokio::spawn(async move { other.take_by(soon()).await });
    tokio::task::yield_now().await;
    assert!(one.try_take().is_none());
    drop(held);
    assert!(one.try_take().is_none(), "nobody overtakes who waits");
    assert!(waiting.await.unwrap().is_some());
    assert!(one.try_take().is_some());
}

#[tokio::test(start_paused = true)]
async fn the_wait_is_bounded_and_leaves_nothing_behind() {
    let capacity = capacity(1);
    let held = peer(&capacity, 1).try_take();
    let began = Instant::now();
    assert!(peer(&capacity, 2).take_by(soon()).await.is_none());
    assert_eq!(began.elapsed().as_secs(), 1);
    drop(held);
    assert_eq!((capacity.used(), capacity.waiting.load(SeqCst)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_peer_with_many_waiters_does_not_keep_one_with_few_waiting() {
    let capacity = capacity(4);
    let (hog, guest) = (peer(&capacity, 1), peer(&capacity, 2));
    let mut held = greedy(&hog);
    let mut hogs: Vec<_> = (0..50).map(|_| Box::pin(hog.take_by(soon()))).collect();
    for waiter in &mut hogs {
        assert!(is_pending(waiter.as_mut()));
    }
    let mut waiting = Box::pin(guest.take_by(soon()));
    assert!(is_pending(waiting.as_mut()));
    held.pop();
    assert!(!is_pending(waiting.as_mut()), "the first that is free is the guest's");
}

#[tokio::test(start_paused = true)]
async fn an_exchange_whose_client_owes_bytes_is_cut_for_a_peer_that_has_less() {
    let debts = Arc::<Debts>::default();
    let capacity = Capacity::new(4, Arc::clone(&debts));
    let (hog, guest) = (peer(&capacity, 1), peer(&capacity, 2));
    let mut held = greedy(&hog);
    let debt = debts.list(&[&hog], Waker::noop());
    assert!(hog.take_what_is_owed_by(soon()).await.is_none(), "not for the peer itself");
    assert!(!debt.is_cut(Waker::noop()));
    let waiting = tokio::spawn(async move { guest.take_what_is_owed_by(soon()).await });
    while !debt.is_cut(Waker::noop()) {
        tokio::task::yield_now().await;
    }
    held.pop();
    assert!(waiting.await.unwrap().is_some());
}

/// Returns a capacity of 8 that one peer holds completely, that peer's shares, and another peer.
fn taken() -> (Arc<Debts>, Arc<Holding>, Vec<Share>, Arc<Holding>) {
    let debts = Arc::<Debts>::default();
    let capacity = Capacity::new(8, Arc::clone(&debts));
    let (hog, guest) = (peer(&capacity, 1), peer(&capacity, 2));
    let held = greedy(&hog);
    (debts, hog, held, guest)
}

fn cut(owed: &[Debt]) -> Vec<bool> {
    owed.iter().map(|debt| debt.is_cut(Waker::noop())).collect()
}

#[tokio::test]
async fn what_is_listed_while_somebody_waits_is_cut_then_and_there_one_for_each_peer_at_a_time() {
    let (debts, hog, mut held, guest) = taken();
    let mut waiting = [guest.wait(), guest.wait(), guest.wait()];
    let mut owed: Vec<_> = (0..4).map(|_| debts.list(&[&hog], Waker::noop())).collect();
    assert_eq!(cut(&owed), [true, false, false, false]);
    owed.remove(0);
    assert_eq!(cut(&owed), [false, false, false], "its place may be enough");
    held.pop();
    let mut served: Vec<_> = waiting.iter_mut().map(FutureExt::now_or_never).collect();
    assert!(served[0].is_some() && served[1].is_none());
    assert_eq!(cut(&owed), [true, false, false], "for the next of them");
    owed.remove(0);
    held.pop();
    served.extend(waiting[1..].iter_mut().map(FutureExt::now_or_never));
    assert_eq!((hog.used(), guest.used(), cut(&owed)), (6, 2, vec![true, false]));
}

#[tokio::test]
async fn an_exchange_that_resumes_before_it_is_cut_leaves_the_cut_to_the_next() {
    let (debts, hog, _held, guest) = taken();
    let mut owed = vec![debts.list(&[&hog], Waker::noop()), debts.list(&[&hog], Waker::noop())];
    let _waiting = guest.wait();
    drop(owed.remove(0));
    assert_eq!(cut(&owed), [true]);
}

#[tokio::test]
async fn nothing_is_cut_for_a_waiter_that_has_given_up() {
    let (debts, hog, _held, guest) = taken();
    drop([guest.wait(), guest.wait()]);
    let owed = [debts.list(&[&hog], Waker::noop())];
    assert_eq!((cut(&owed), guest.capacity.waiting.load(SeqCst)), (vec![false], 0));
}

#[tokio::test]
async fn one_that_gives_up_when_it_was_served_leaves_its_share_to_the_next() {
    let capacity = capacity(1);
    let (one, other) = (peer(&capacity, 1), peer(&capacity, 2));
    let held = one.try_take();
    let (first, mut second) = (one.wait(), other.wait());
    drop(held);
    assert!(is_pending(Pin::new(&mut second)));
    drop(first);
    assert!(!is_pending(Pin::new(&mut second)));
}

#[tokio::test]
async fn a_peer_that_holds_less_because_a_share_became_anothers_is_served() {
    let capacity = capacity(64);
    let (hog, other) = (peer(&capacity, 1), peer(&capacity, 2));
    let (mut held, moved) = (greedy(&hog), other.try_take().unwrap());
    while capacity.used() < 64 {
        held.extend(peer(&capacity, 3 + capacity.used() as u8).try_take());
    }
    let mut waiting = other.wait();
    held.pop();
    assert!(is_pending(Pin::new(&mut waiting)), "the rest is for peers that have none");
    let moved = moved.move_to(&peer(&capacity, 200));
    assert!(moved.is_some() && !is_pending(Pin::new(&mut waiting)));
}

#[tokio::test]
async fn peers_that_are_gone_leave_no_entry() {
    let capacity = capacity(8);
    let stays = peer(&capacity, 0).try_take();
    for number in 0..100_000_u32 {
        let address = IpAddr::from(number.to_be_bytes());
        drop(capacity.holding(&PeerKey::new(None, address)).try_take());
    }
    assert!(locked(&capacity.peers).holdings.len() <= FEW_PEERS);
    assert_eq!(peer(&capacity, 0).used(), 1);
    drop(stays);
}

/// The next action of a peer.
#[derive(Debug, Clone)]
enum Step {
    Take(u8),
    GiveBack(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![3 => (0..5_u8).prop_map(Step::Take), 1 => (0..5_u8).prop_map(Step::GiveBack)]
}

proptest! {
    #[test]
    fn no_peer_exceeds_the_limit_or_its_share_and_counts_match_the_permits(
        limit in 1..200_u32,
        steps in prop::collection::vec(step(), 0..600),
    ) {
        let capacity = capacity(limit);
        let peers: Vec<_> = (0..5).map(|number| peer(&capacity, number)).collect();
        let mut held: Vec<Vec<Share>> = (0..5).map(|_| Vec::new()).collect();
        for step in steps {
            match step {
                Step::Take(number) => {
                    let number = usize::from(number);
                    let (used, own) = (capacity.used(), held[number].len() as u32);
                    let share = peers[number].try_take();
                    let free = limit - used;
                    let more = free > limit / 32 && own < 15 * free;
                    prop_assert_eq!(share.is_some(), if own == 0 { free > 0 } else { more });
                    // Capacity is not wasted: a peer that is refused finds only the reserve free.
                    prop_assert!(share.is_some() || free <= limit / 16);
                    held[number].extend(share);
                }
                Step::GiveBack(number) => drop(held[usize::from(number)].pop()),
            }
            let all: usize = held.iter().map(Vec::len).sum();
            prop_assert!(capacity.used() == all as u32 && capacity.used() <= limit);
            for (peer, held) in peers.iter().zip(&held) {
                prop_assert_eq!(peer.used(), held.len() as u32);
            }
        }
    }
}
