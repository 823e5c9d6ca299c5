//! Requests that are sent to a second endpoint while the first one has not answered: which are, which are not, and what becomes of
//! the attempts.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod support;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use outrigger_config::cluster::{Cluster, UpstreamProtocol};
use outrigger_core::reason::Reason;
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::wait::eventually;
use support::hedged::{
    Applications, DELAY, Does, answer, hedged, hedging, held, limits, proxy, proxy_as_envoy, statuses, totals,
};
use support::{cluster, endpoint, retries, retries_on};
use tokio::sync::watch;

#[tokio::test]
async fn a_get_that_waits_too_long_is_sent_to_another_endpoint_and_the_loser_is_cancelled() {
    let applications = Applications::start(2, &[Does::Holds]).await;
    let mut proxy = proxy(hedged(&applications), retries(2));
    let mut client = held(&proxy, "GET", "").await;
    assert_eq!(answer(&mut client).await, (200, "1 GET ".into()));
    assert_eq!(applications.requests(), [1, 1]);
    applications.have_cancelled(1).await;
    let record = proxy.record().await;
    assert_eq!(statuses(&record), [(0, 0), (1, 200)]);
    assert!(record.attempts.iter().all(|attempt| attempt.protocol.is_some()), "{record:?}");
    assert_ne!(record.attempts[0].endpoint, record.attempts[1].endpoint);
    assert_eq!((record.status, record.reason), (200, None));
    let totals = totals(&proxy);
    assert_eq!((totals.attempts, totals.retries, totals.hedges, totals.hedges_won), (2, 1, 1, 1));
    assert_eq!((proxy.shared.ejected(), proxy.totals().ejections.len()), (Vec::new(), 0));
}

#[tokio::test]
async fn the_interim_responses_of_the_only_attempt_are_relayed_at_once() {
    let applications = Applications::start(2, &[Does::Holds]).await;
    let late = Cluster { hedging: hedging(95.0, Some(60_000.0)), ..applications.cluster() };
    let proxy = proxy(late, retries(2));
    let mut client = held(&proxy, "GET", "").await;
    assert_eq!(client.response().await.status, 103);
    applications.release.send_replace(true);
    assert_eq!(answer(&mut client).await, (200, "0 GET ".into()));
    assert_eq!(totals(&proxy).hedges, 0);
}

#[tokio::test]
async fn the_first_attempt_may_answer_first() {
    let applications = Applications::start(2, &[Does::Holds, Does::Holds]).await;
    let mut proxy = proxy(hedged(&applications), retries(2));
    let mut client = held(&proxy, "GET", "").await;
    applications.have(2).await;
    applications.release.send_replace(true); // Both, of which either may answer first.
    let (status, body) = answer(&mut client).await;
    assert_eq!(status, 200);
    let won = u64::from(body.starts_with('1'));
    assert_eq!((totals(&proxy).hedges, totals(&proxy).hedges_won), (1, won));
    let record = proxy.record().await;
    let last = (u32::try_from(won).unwrap(), 200);
    assert_eq!(statuses(&record).last(), Some(&last), "the record of the winner");
}

#[tokio::test]
async fn the_stream_of_a_loser_is_reset_with_cancel() {
    let (arrived, reset) = (Arc::<AtomicUsize>::default(), watch::channel(None));
    let (mut applications, result) = (Vec::new(), Arc::new(reset.0));
    for _ in 0..2 {
        let (arrived, result) = (Arc::clone(&arrived), Arc::clone(&result));
        let application = Application::http2(move |_, mut respond| {
            let (first, result) = (arrived.fetch_add(1, Ordering::SeqCst) == 0, Arc::clone(&result));
            async move {
                if first {
                    result.send_replace(poll_fn(|cx| respond.poll_reset(cx)).await.ok());
                } else {
                    let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                    body.send_data(Bytes::from_static(b"second"), true).unwrap();
                }
            }
        });
        applications.push(application.await);
    }
    let app = Cluster {
        hedging: hedging(95.0, Some(DELAY)),
        protocol: UpstreamProtocol::Http2,
        ..cluster("app", applications.iter().map(|application| endpoint(application.address)))
    };
    let proxy = proxy(app, retries(2));
    let response = Client::connect(proxy.address(0)).await.get("app", "/").await;
    assert_eq!((response.status, &*response.body), (200, "second"));
    let mut reset = reset.1;
    let reset = *reset.wait_for(Option::is_some).await.unwrap();
    assert_eq!(reset, Some(h2::Reason::CANCEL));
}

#[tokio::test]
async fn a_post_is_never_hedged_and_a_put_with_all_of_its_body() {
    let applications = Applications::start(2, &[Does::Holds, Does::Holds]).await;
    let proxy = proxy(hedged(&applications), retries(2));
    let mut post = held(&proxy, "POST", "order").await;
    applications.have(1).await;
    let mut put = Client::connect(proxy.address(0)).await;
    put.send("PUT / HTTP/1.1\r\nHost: app\r\nContent-Length: 10\r\n\r\n01234").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    put.send("56789").await;
    // Its hedge begins after the delay, in which one of the POST would have begun.
    assert_eq!(answer(&mut put).await, (200, "2 PUT 0123456789".into()));
    assert_eq!(applications.total(), 3);
    applications.release.send_replace(true);
    assert_eq!(answer(&mut post).await, (200, "0 POST order".into()));
    assert_eq!((applications.total(), totals(&proxy).hedges), (3, 1));
}

#[tokio::test]
async fn without_budget_capacity_or_another_endpoint_the_first_attempt_is_waited_for() {
    for (endpoints, breakers, exhausted) in
        [(2, limits(0, 100), 1), (2, limits(3, 1), 0), (1, limits(3, 100), 0)]
    {
        let applications = Applications::start(endpoints, &[Does::Holds]).await;
        let proxy = proxy(Cluster { breakers, ..hedged(&applications) }, retries(2));
        let mut client = held(&proxy, "GET", "").await;
        applications.have(1).await;
        tokio::time::sleep(Duration::from_millis(4 * DELAY as u64)).await;
        let refused = || (totals(&proxy).budget_exhausted == exhausted).then_some(());
        eventually("a refusal of the budget", async || refused()).await;
        applications.release.send_replace(true);
        assert_eq!(answer(&mut client).await, (200, "0 GET ".into()));
        let totals = totals(&proxy);
        assert_eq!((totals.attempts, totals.hedges, totals.budget_exhausted), (1, 0, exhausted));
    }
}

#[tokio::test]
async fn if_both_attempts_fail_the_error_is_that_of_a_request_without_hedging() {
    let closes = [Does::Holds, Does::Closes, Does::Closes, Does::Closes];
    let applications = Applications::start(2, &closes).await;
    let mut hedged = proxy(hedged(&applications), retries(1));
    let mut client = held(&hedged, "GET", "").await;
    applications.have(2).await;
    drop(applications); // The first attempt fails too.
    let with = answer(&mut client).await.0;
    let record = hedged.record().await;
    assert_eq!((with, record.reason), (503, Some(Reason::UpstreamConnectionTermination)));
    assert_eq!((record.attempts.len(), totals(&hedged).hedges_won), (2, 0));
    let applications = Applications::start(2, &[Does::Closes; 3]).await;
    let mut plain = proxy(applications.cluster(), retries(1));
    let without = answer(&mut held(&plain, "GET", "").await).await.0;
    assert_eq!((without, plain.record().await.reason), (with, record.reason));
}

#[tokio::test]
async fn a_bad_response_of_one_attempt_does_not_end_the_other() {
    // One more attempt is left: it is made, while the first one is still in flight.
    let applications = Applications::start(3, &[Does::Holds, Does::Answers(503)]).await;
    let mut proxy = proxy(hedged(&applications), retries(2));
    assert_eq!(answer(&mut held(&proxy, "GET", "").await).await, (200, "2 GET ".into()));
    let record = proxy.record().await;
    assert_eq!(statuses(&record), [(1, 503), (0, 0), (2, 200)]);
    applications.have_cancelled(1).await;
    assert_eq!((totals(&proxy).hedges, totals(&proxy).hedges_won, totals(&proxy).retries), (1, 0, 2));
    // None is left: the first one is waited for.
    let applications = Applications::start(3, &[Does::Holds, Does::Answers(503)]).await;
    let proxy = self::proxy(hedged(&applications), retries(1));
    let mut client = held(&proxy, "GET", "").await;
    applications.have(2).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    applications.release.send_replace(true);
    assert_eq!(answer(&mut client).await, (200, "0 GET ".into()));
}

#[tokio::test]
async fn the_percentile_is_that_of_first_attempts_and_unknown_before_there_are_enough() {
    let script: Vec<_> = (0..45).map(|_| Does::Answers(200)).chain([Does::Holds]).collect();
    let applications = Applications::start(2, &script).await;
    let known = proxy(Cluster { hedging: hedging(90.0, None), ..applications.cluster() }, retries(2));
    let mut client = Client::connect(known.address(0)).await;
    let mut asked = 0;
    while applications.total() < 45 {
        assert_eq!(client.get("app", "/").await.status, 200);
        asked += 1;
    }
    assert!(asked >= 40, "{asked}");
    let (status, body) = answer(&mut held(&known, "GET", "").await).await;
    assert_eq!((status, body.ends_with("GET ")), (200, true));
    applications.have_cancelled(1).await;
    assert!(totals(&known).hedges_won >= 1);
    let applications = Applications::start(2, &[Does::Answers(200), Does::Holds]).await;
    let unknown = proxy(Cluster { hedging: hedging(90.0, None), ..applications.cluster() }, retries(2));
    assert_eq!(answer(&mut held(&unknown, "GET", "").await).await.0, 200);
    let mut client = held(&unknown, "GET", "").await;
    applications.have(2).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    applications.release.send_replace(true);
    assert_eq!(answer(&mut client).await, (200, "1 GET ".into()));
    assert_eq!(totals(&unknown).hedges, 0);
}

#[tokio::test]
async fn as_in_envoy_an_attempt_continues_after_its_timeout_beside_the_next_ones() {
    let applications = Applications::start(1, &[Does::Holds, Does::Holds, Does::Holds]).await;
    let mut proxy = proxy_as_envoy(applications.cluster(), retries(2));
    let mut client = held(&proxy, "GET", "").await;
    // To the same endpoint, since there is no other, and no further than `num_retries`.
    applications.have(3).await;
    tokio::time::sleep(Duration::from_millis(3 * DELAY as u64)).await;
    assert_eq!((applications.total(), applications.cancelled.load(Ordering::SeqCst)), (3, 0));
    applications.release.send_replace(true);
    assert_eq!(answer(&mut client).await.0, 200);
    let record = proxy.record().await;
    assert_eq!((record.attempts.len(), record.attempts.last().unwrap().status), (3, 200));
    assert_eq!(totals(&proxy).hedges, 2);
}

#[tokio::test]
async fn as_in_envoy_a_post_is_hedged_where_the_policy_repeats_posts() {
    let applications = Applications::start(2, &[Does::Holds, Does::Holds]).await;
    let proxy = proxy_as_envoy(applications.cluster(), retries_on("5xx", 1));
    let mut client = held(&proxy, "POST", "order").await;
    applications.have(2).await;
    tokio::time::sleep(Duration::from_millis(3 * DELAY as u64)).await;
    assert_eq!(applications.total(), 2);
    applications.release.send_replace(true);
    let (status, body) = answer(&mut client).await;
    assert_eq!((status, body.ends_with("POST order")), (200, true), "its timeout does not end it");
}
