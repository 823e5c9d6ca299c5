//! Requests in front of an overloaded application, in paused time.

use std::cell::Cell;

use outrigger_policy::overload::OverloadMode;
use tokio::sync::Semaphore;
use tokio::task::{LocalSet, yield_now};
use tokio::time::sleep;

use super::*;

/// An application with one thread that works for 5 ms on each request.
struct Application {
    cluster: Rc<Cluster>,
    thread: Semaphore,
}

/// What became of the requests of a peer.
#[derive(Debug, Default)]
struct Counts {
    answered: Cell<u32>,
    slow: Cell<u32>,
    refused: Cell<u32>,
    /// Refused because of the limit on requests at once, which all clusters have.
    overflowed: Cell<u32>,
    failed: Cell<u32>,
}

fn application(mode: OverloadMode) -> Rc<Application> {
    let (cluster, _) = cluster([endpoint(1, 0)]);
    cluster.overload.set(mode);
    Rc::new(Application { cluster, thread: Semaphore::new(1) })
}

fn peer(number: u8) -> PeerKey {
    PeerKey::new(None, IpAddr::from([10, 0, 1, number]))
}

impl Application {
    /// Sends a request that its client waits for until `deadline`.
    async fn request(&self, peer: &PeerKey, deadline: Option<Instant>) -> Result<(), Failure> {
        let permit = self.cluster.admit(peer).await?;
        let mut running = self.cluster.run(&permit.peer, deadline).await?;
        let thread = self.thread.acquire().await;
        sleep(Duration::from_millis(5)).await;
        drop(thread);
        running.answered();
        Ok(())
    }

    /// Sends a request every `interval` for ten seconds.
    async fn load(self: Rc<Self>, peer: PeerKey, interval: Duration, counts: Rc<Counts>) {
        let end = Instant::now() + Duration::from_secs(10);
        let mut ticks = tokio::time::interval(interval);
        while ticks.tick().await < end {
            let (this, peer, counts) = (Rc::clone(&self), peer.clone(), Rc::clone(&counts));
            tokio::task::spawn_local(async move {
                let began = Instant::now();
                let count = match this.request(&peer, None).await {
                    Ok(()) if began.elapsed() <= Duration::from_millis(100) => &counts.answered,
                    Ok(()) => &counts.slow,
                    Err(failure) => match failure.reason {
                        Reason::Overloaded => &counts.refused,
                        Reason::UpstreamOverflow => &counts.overflowed,
                        _ => &counts.failed,
                    },
                };
                count.set(count.get() + 1);
            });
        }
    }
}

/// Ten times the capacity from one peer, and a tenth of it from another, for ten seconds.
async fn overloaded(mode: OverloadMode) -> (Rc<Application>, [Rc<Counts>; 2]) {
    let application = application(mode);
    let counts = [(); 2].map(|()| Rc::<Counts>::default());
    let hog = Rc::clone(&application).load(peer(1), Duration::from_micros(500), Rc::clone(&counts[0]));
    let guest = Rc::clone(&application).load(peer(2), Duration::from_millis(50), Rc::clone(&counts[1]));
    LocalSet::new().run_until(async { tokio::join!(hog, guest) }).await;
    assert!(counts.iter().all(|counts| counts.failed.get() == 0), "{counts:?}");
    (application, counts)
}

#[tokio::test(start_paused = true)]
async fn an_overloaded_application_works_for_those_who_wait_and_for_each_peer() {
    let (application, [hog, guest]) = overloaded(OverloadMode::Enforce).await;
    let useful = hog.answered.get() + guest.answered.get();
    assert!(useful >= 1700, "85 % of 2000: {hog:?} {guest:?}");
    assert!(guest.answered.get() >= 180, "{guest:?} of 200");
    assert!(hog.refused.get() > 10_000, "{hog:?}");
    assert_eq!((guest.refused.get(), guest.overflowed.get()), (0, 0));
    assert!(application.cluster.series.overload_refused.value() >= u64::from(hog.refused.get()));
}

#[tokio::test(start_paused = true)]
async fn the_limit_and_the_queue_of_an_overloaded_application_can_be_read() {
    let application = application(OverloadMode::Enforce);
    let shared = Arc::clone(&application.cluster.shared);
    assert_eq!(shared.applications(), [], "it has had no request");
    let load = Rc::clone(&application).load(peer(1), Duration::from_micros(500), Rc::default());
    let read = async {
        sleep(Duration::from_secs(5)).await;
        let [of] = &*shared.applications() else { panic!("there is one") };
        assert!(&*of.cluster == "cart" && of.limit.is_some(), "{of:?}");
        assert!(of.in_flight > 0 && of.waiting > 0, "{of:?}");
    };
    LocalSet::new().run_until(async { tokio::join!(load, read) }).await;
    application.cluster.overload.set(OverloadMode::Off);
    assert_eq!(shared.applications(), []);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_nobody_would_wait_for_is_refused_at_once() {
    let application = application(OverloadMode::Enforce);
    let counts = Rc::<Counts>::default();
    let load = Rc::clone(&application).load(peer(1), Duration::from_micros(500), counts);
    let hurried = async {
        sleep(Duration::from_secs(5)).await;
        let began = Instant::now();
        let refused = application.request(&peer(2), Some(began + Duration::from_millis(1))).await;
        assert_eq!((refused.unwrap_err().reason, began.elapsed()), (Reason::Overloaded, Duration::ZERO));
        assert!(application.request(&peer(2), Some(Instant::now() + Duration::from_secs(1))).await.is_ok());
    };
    LocalSet::new().run_until(async { tokio::join!(load, hurried) }).await;
}

#[tokio::test(start_paused = true)]
async fn who_only_observes_refuses_nothing_and_counts_what_would_have_waited() {
    let (application, [hog, guest]) = overloaded(OverloadMode::Observe).await;
    assert_eq!((hog.refused.get(), guest.refused.get()), (0, 0));
    assert!(application.cluster.series.overload_waits.value() > 1000);
    let (application, _) = overloaded(OverloadMode::Off).await;
    assert_eq!(application.cluster.series.overload_waits.value(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_given_up_or_fails_leaves_nothing_behind() {
    let application = application(OverloadMode::Enforce);
    let (held, key) = (application.thread.acquire().await, peer(1));
    {
        let mut given_up = std::pin::pin!(application.request(&key, None));
        tokio::select! {
            biased;
            _ = &mut given_up => unreachable!("the application does not answer"),
            () = yield_now() => {}
        }
        assert_eq!(application.cluster.state.in_use.running().used(), 1);
    }
    let permit = application.cluster.admit(&key).await.unwrap();
    let mut running = application.cluster.run(&permit.peer, None).await.unwrap();
    running.failed(&Failure::local(Reason::LocalError, "test"));
    drop((held, running));
    assert_eq!(application.cluster.state.in_use.running().used(), 0);
}
