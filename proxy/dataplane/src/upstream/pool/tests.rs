use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;

use outrigger_config::secrets::SecretStore;
use outrigger_core::peer::PeerKey;
use outrigger_policy::circuit_breaker::CircuitBreakers;
use tokio::net::TcpListener;
use tokio::task::{LocalSet, coop};
use tokio::time::timeout;

use super::*;
use crate::capacity::budget::ConnectionBudget;
use crate::codec::limits::Limits;
use crate::identity::Identity;
use crate::metrics::Registry;
use crate::socket::address::EndpointAddress;

/// Longer than any connection in these tests takes to be established.
const SOON: Duration = Duration::from_secs(10);

/// Returns a pool of plaintext connections to `address`, of which the process may have `connections`, and a peer that uses it.
fn pool(address: SocketAddr, connections: u32) -> (Rc<Pool>, Rc<Peer>) {
    let breakers = CircuitBreakers::decode(None).unwrap();
    let budget = ConnectionBudget::new(0, connections);
    let bounds = Bounds::new(&breakers, Arc::default(), budget);
    let peer = bounds.peer(&PeerKey::new(None, address.ip()));
    let connections = ConnectionSettings {
        idle_timeout: None,
        max_duration: None,
        max_requests: None,
        max_concurrent_streams: 100,
        initial_stream_window: 1 << 16,
        initial_connection_window: 1 << 16,
    };
    let settings = PoolSettings { connect_timeout: SOON, connections };
    let identity = Rc::new(Identity::new(SecretStore::new()));
    let dialer = Rc::new(Dialer::new(identity, Rc::new(Limits::default())));
    let target = Target { address: EndpointAddress(address), is_original: false, tls: None };
    let series = Registry::new().worker().cluster(&"app".into());
    (Pool::new(target, settings, dialer, bounds, Rc::default(), Rc::default(), series), peer)
}

/// Polls `future` once, as the last of many in a task that has used up its budget.
async fn poll_without_budget<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| {
        while coop::has_budget_remaining() {
            let _ = pin!(coop::consume_budget()).poll(cx);
        }
        Poll::Ready(future.as_mut().poll(cx))
    })
    .await
}

#[tokio::test]
async fn each_request_that_dials_gets_a_connection_though_an_older_one_has_not_dialled_yet() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (pool, peer) = pool(listener.local_addr().unwrap(), 1024);
    LocalSet::new()
        .run_until(async {
            let mut older = pin!(pool.http1(&peer));
            assert!(poll_without_budget(older.as_mut()).await.is_pending());
            tokio::task::yield_now().await;
            let younger = timeout(SOON, pool.http1(&peer)).await;
            let older = timeout(SOON, older).await;
            assert!(younger.unwrap().is_ok() && older.unwrap().is_ok());
        })
        .await;
}
