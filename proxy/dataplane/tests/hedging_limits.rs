//! The limits of requests that may be hedged: on the time of each attempt, on requests, and on how soon they are repeated.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod support;

use std::time::Duration;

use outrigger_config::cluster::{Cluster, EndpointsHandle};
use outrigger_core::reason::Reason;
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::ok;
use outrigger_test_support::wait::eventually;
use support::hedged::{
    Applications, Does, answer, hedged, hedging, held, limits, proxy, proxy_as_envoy, statuses, totals,
};
use support::{cluster, endpoint, endpoints, retries, retries_on};
use tokio::sync::watch;

#[tokio::test]
async fn the_timeout_of_an_attempt_ends_it_if_the_request_may_not_be_hedged() {
    let applications = Applications::start(2, &[Does::Holds]).await;
    let mut proxy = proxy_as_envoy(applications.cluster(), retries_on("idempotent-failure", 1));
    assert_eq!(answer(&mut held(&proxy, "POST", "order").await).await.0, 504);
    assert_eq!(proxy.record().await.reason, Some(Reason::UpstreamRequestTimeout));
    applications.have_cancelled(1).await;
    assert_eq!(applications.total(), 1);
}

#[tokio::test]
async fn each_attempt_has_a_timeout_of_its_own() {
    let applications = Applications::start(2, &[Does::Holds, Does::Holds]).await;
    let app = Cluster { hedging: hedging(95.0, Some(1000.0)), ..applications.cluster() };
    let mut retry = retries(1);
    retry.per_try_timeout = Some(Duration::from_millis(1500));
    let mut proxy = proxy(app, retry);
    let mut client = held(&proxy, "GET", "").await;
    // The first attempt ends half a second after the other began, which has another second.
    applications.have_cancelled(1).await;
    applications.release.send_replace(true);
    assert_eq!(answer(&mut client).await, (200, "1 GET ".into()));
    assert_eq!(statuses(&*proxy.record().await), [(0, 0), (1, 200)]);
}

#[tokio::test]
async fn a_retry_beside_another_attempt_counts_against_the_limit_on_requests() {
    let applications = Applications::start(3, &[Does::Holds, Does::Answers(503), Does::Holds]).await;
    let app = Cluster { breakers: limits(10, 2), ..hedged(&applications) };
    let proxy = proxy(app, retries(2));
    let mut client = held(&proxy, "GET", "").await;
    applications.have(3).await;
    assert_eq!(answer(&mut held(&proxy, "GET", "").await).await.0, 503, "two are in flight");
    assert_eq!((applications.total(), totals(&proxy).overflow), (3, 1));
    applications.release.send_replace(true);
    assert_eq!(answer(&mut client).await.0, 200);
    assert_eq!(answer(&mut held(&proxy, "GET", "").await).await.0, 200, "none is in flight");
}

#[tokio::test]
async fn a_retry_is_not_made_sooner_because_the_other_attempt_fails_too() {
    let script = [Does::HoldsAndCloses, Does::PushesBack];
    let applications = Applications::start(1, &script).await;
    let mut proxy = proxy_as_envoy(applications.cluster(), retries_on("5xx", 2));
    let mut client = held(&proxy, "GET", "").await;
    applications.have(2).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    applications.release.send_replace(true);
    assert_eq!(answer(&mut client).await, (200, "2 GET ".into()));
    let record = proxy.record().await;
    assert_eq!(statuses(&record), [(1, 503), (0, 0), (2, 200)]);
    let began = record.attempts.iter().map(|attempt| attempt.offset);
    let [second, _, third] = began.collect::<Vec<_>>()[..] else { panic!("{record:?}") };
    assert!(third - second >= Duration::from_secs(1), "as the endpoint asked: {record:?}");
    assert_eq!((totals(&proxy).hedges, totals(&proxy).hedges_won, totals(&proxy).retries), (1, 0, 2));
}

#[tokio::test]
async fn a_hedge_whose_failure_is_retried_has_not_won() {
    let applications = Applications::start(3, &[Does::HoldsAndCloses, Does::HoldsAndFails]).await;
    let mut proxy = proxy(hedged(&applications), retries(2));
    let mut client = held(&proxy, "GET", "").await;
    applications.have(2).await;
    applications.release.send_replace(true);
    assert_eq!(answer(&mut client).await, (200, "2 GET ".into()));
    assert_eq!(statuses(&*proxy.record().await), [(0, 0), (1, 503), (2, 200)]);
    let of = totals(&proxy);
    assert_eq!((of.hedges, of.hedges_won, of.retries), (1, 0, 2));
}

#[tokio::test]
async fn a_planned_hedge_remains_if_none_can_begin_when_the_endpoint_is_found_silent() {
    let (stop, stopped) = watch::channel(false);
    let stoppable = Application::raw(move |mut connection| {
        let mut stopped = stopped.clone();
        async move {
            while connection.request().await.is_some() {
                let going_on = stopped.wait_for(|stopped| !*stopped).await.is_ok();
                if !going_on || connection.send(ok("first")).await.is_err() {
                    return;
                }
            }
        }
    });
    let (first, other) = (stoppable.await, Application::http(|_| ok("second")).await);
    let all = || [endpoint(first.address), endpoint(other.address)];
    let app = Cluster { hedging: hedging(95.0, Some(4000.0)), ..cluster("app", all().into_iter().take(1)) };
    let handle = EndpointsHandle::clone(&app.endpoints);
    let proxy = proxy(app, retries(2));
    stop.send_replace(true);
    let mut put = Client::connect(proxy.address(0)).await;
    put.send("PUT / HTTP/1.1\r\nHost: app\r\nContent-Length: 10\r\n\r\n01234").await;
    eventually("an attempt", async || (first.connections() == 1).then_some(())).await;
    handle.store(endpoints(all()));
    for _ in 0..100 {
        assert_eq!(Client::connect(proxy.address(0)).await.get("app", "/").await.body, "second");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    put.send("56789").await;
    assert_eq!(put.response().await.body, "second");
}
