//! The registration against a control plane that the test plays.

use super::*;
use crate::clock::Clock;
use crate::testing::{Ca, FakeControlPlane, RegistrationCall, fake_control_plane, port};
use outrigger_proto::registration::{Accepted, Drained, RegisterResponse};

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

fn start(ports: &[WorkloadPort]) -> (FakeControlPlane, RegistrationHandle, StatusBoard) {
    let (fake, handle, status, channels) = start_renewable(ports);
    // Exists as long as the runtime, because nothing is renewed.
    tokio::spawn(async move { channels.closed().await });
    (fake, handle, status)
}

fn start_renewable(
    ports: &[WorkloadPort],
) -> (FakeControlPlane, RegistrationHandle, StatusBoard, watch::Sender<Option<Channel>>) {
    let ca = Arc::new(Ca::new());
    let fake = fake_control_plane(&ca, Clock::paused());
    let status = StatusBoard::default();
    let (task, handle) = Registration::new("cart-1", ports, &BTreeMap::new(), status.clone());
    let credential = crate::testing::credential(&ca, CART);
    let credentials = watch::channel(Some(credential)).1;
    let channels = watch::Sender::new(Some(fake.control_plane.channel(credentials)));
    tokio::spawn(task.maintain(channels.subscribe()));
    (fake, handle, status, channels)
}

fn answer(call: &RegistrationCall, outcome: Outcome) {
    call.responses.send(Ok(RegisterResponse { outcome: Some(outcome) })).unwrap();
}

fn accepted(seconds: i64) -> Outcome {
    let lease = outrigger_proto::xds::protobuf::Duration { seconds, nanos: 0 };
    Outcome::Accepted(Accepted { lease: Some(lease) })
}

async fn next_request(call: &mut RegistrationCall) -> RegisterRequest {
    call.requests.message().await.unwrap().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_workload_registers_and_sends_heartbeats_at_a_third_of_its_lease() {
    let (mut fake, handle, status) = start(&[port()]);
    let mut call = fake.registrations.recv().await.unwrap();
    assert_eq!(call.caller.as_ref().unwrap().service_account(), "cart");
    let first = next_request(&mut call).await;
    assert_eq!(first.health(), wire::Health::NotReady);
    assert_eq!(first.workload.unwrap().ports[0].services, ["cart"]);
    answer(&call, accepted(3));
    handle.ready(true);
    assert_eq!(next_request(&mut call).await.health(), wire::Health::Ready);
    let start = Instant::now();
    let beat = next_request(&mut call).await;
    assert_eq!((beat.workload, start.elapsed().as_millis() / 100), (None, 10));
    assert!(status.read().registration.registered_since.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_broken_stream_is_opened_again_with_the_whole_workload() {
    let (mut fake, handle, _) = start(&[port()]);
    handle.ready(true);
    let call = fake.registrations.recv().await.unwrap();
    call.responses.send(Err(Status::unavailable("restart"))).unwrap();
    let broken = Instant::now();
    let mut call = fake.registrations.recv().await.unwrap();
    assert!(broken.elapsed() <= Duration::from_millis(500));
    let again = next_request(&mut call).await;
    assert!(again.workload.is_some());
    assert_eq!(again.health(), wire::Health::Ready);
}

#[tokio::test(start_paused = true)]
async fn after_a_renewal_the_new_stream_speaks_before_the_old_one_ends() {
    let (mut fake, handle, status, channels) = start_renewable(&[port()]);
    handle.ready(true);
    let mut old = fake.registrations.recv().await.unwrap();
    assert!(next_request(&mut old).await.workload.is_some());
    answer(&old, accepted(30));
    while status.read().registration.registered_since.is_none() {
        tokio::task::yield_now().await;
    }
    let renewed = Instant::now();
    let another = channels.borrow().clone();
    channels.send_replace(another);
    let mut new = fake.registrations.recv().await.unwrap();
    let again = next_request(&mut new).await;
    assert!(again.workload.is_some() && again.health() == wire::Health::Ready);
    let ended = old.requests.message();
    tokio::pin!(ended);
    assert!(tokio::time::timeout(Duration::from_millis(10), &mut ended).await.is_err(), "not yet");
    answer(&new, accepted(30));
    assert!(!matches!(ended.await, Ok(Some(_))), "it says no more");
    assert!(renewed.elapsed() < Duration::from_millis(100), "no backoff");
    let registration = status.read().registration;
    assert!(registration.registered_since.is_some() && registration.failures == 0);
}

#[tokio::test(start_paused = true)]
async fn a_refused_port_is_named_and_offered_again() {
    let (mut fake, _handle, status) = start(&[port()]);
    let mut call = fake.registrations.recv().await.unwrap();
    next_request(&mut call).await;
    let port = wire::RefusedPort { port: 0, reason: "no Service cart".into() };
    answer(&call, Outcome::Refused(wire::Refused { ports: vec![port] }));
    assert!(next_request(&mut call).await.workload.is_some(), "offered again");
    assert_eq!(status.read().registration.refused, [(0, "no Service cart".into())]);
    answer(&call, accepted(30));
    assert_eq!(next_request(&mut call).await.workload, None);
    assert!(status.read().registration.refused.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_until_the_control_plane_confirms() {
    let (mut fake, handle, status) = start(&[port()]);
    let mut call = fake.registrations.recv().await.unwrap();
    next_request(&mut call).await;
    answer(&call, accepted(30));
    let drained = tokio::spawn(async move { handle.drain().await });
    assert!(next_request(&mut call).await.drain);
    answer(&call, Outcome::Drained(Drained {}));
    assert_eq!(drained.await.unwrap(), Deregistration::Confirmed);
    assert_eq!(status.read().registration.registered_since, None);
}

#[tokio::test(start_paused = true)]
async fn a_drained_workload_stays_known_as_draining_until_the_proxy_ends() {
    let (mut fake, handle, _) = start(&[port()]);
    let mut call = fake.registrations.recv().await.unwrap();
    next_request(&mut call).await;
    answer(&call, accepted(3));
    let (left, ()) = tokio::join!(handle.drain(), async {
        assert!(next_request(&mut call).await.drain);
        answer(&call, Outcome::Drained(Drained {}));
    });
    assert_eq!(left, Deregistration::Confirmed);
    for _ in 0..3 {
        let start = Instant::now();
        assert!(next_request(&mut call).await.drain);
        assert_eq!(start.elapsed().as_millis() / 100, 10);
        answer(&call, Outcome::Drained(Drained {}));
    }
    drop(call);
    let mut call = fake.registrations.recv().await.unwrap();
    let again = next_request(&mut call).await;
    assert!(again.drain && again.workload.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_an_unreachable_control_plane() {
    let (mut fake, handle, status) = start(&[port()]);
    let call = fake.registrations.recv().await.unwrap();
    // With the other end dropped, every further call fails.
    drop((fake, call));
    while status.read().registration.failures < 2 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let start = Instant::now();
    assert_eq!((handle.drain().await, start.elapsed()), (Deregistration::Unconfirmed, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_a_certificate_ends_at_once() {
    let (_task, handle) = Registration::new("cart-1", &[port()], &BTreeMap::new(), StatusBoard::default());
    let start = Instant::now();
    assert_eq!((handle.drain().await, start.elapsed()), (Deregistration::Unconfirmed, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_drain_gives_up_on_a_silent_control_plane() {
    let (mut fake, handle, _) = start(&[port()]);
    let _call = fake.registrations.recv().await.unwrap();
    let start = Instant::now();
    assert_eq!(handle.drain().await, Deregistration::Unconfirmed);
    assert_eq!(start.elapsed().as_millis() / 10, DRAIN_TIMEOUT.as_millis() / 10);
}

#[tokio::test(start_paused = true)]
async fn a_drain_continues_across_a_reconnect() {
    let (mut fake, handle, _) = start(&[port()]);
    let call = fake.registrations.recv().await.unwrap();
    let drained = tokio::spawn(async move { handle.drain().await });
    drop(call);
    let mut call = fake.registrations.recv().await.unwrap();
    assert!(next_request(&mut call).await.drain);
    answer(&call, Outcome::Drained(Drained {}));
    assert_eq!(drained.await.unwrap(), Deregistration::Confirmed);
}

#[tokio::test(start_paused = true)]
async fn a_workload_without_ports_needs_no_drain() {
    let (_stage, handle, _) = start(&[]);
    assert_eq!(handle.drain().await, Deregistration::Confirmed);
}
