//! The application of each endpoint: answers after a configured time, fails at a configured rate, and counts its
//! executions.
//!
//! It is a separate process, so that it can be stopped and killed. `PUT /behaviour?delay_us=5000&fail=80&status=500`
//! configures it; `GET /executed` returns the number of executed requests; any other request is work: `?units=5` five times as
//! much, and `?wait_ms=9000` waits for an event instead, without a thread. One with `--asks` then asks another application, and waits
//! for the response with its thread.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use super::exchange::{self, Connections, text};

/// Size of a response's body.
const BODY: usize = 200;

/// An endpoint of the fault bench.
#[derive(Debug, Args)]
pub(crate) struct EndpointArgs {
    /// The listening address.
    #[arg(long)]
    listen: SocketAddr,
    /// Number of concurrent requests; others wait.
    #[arg(long, default_value_t = 10_000)]
    concurrency: usize,
    /// Another application, which each request asks.
    #[arg(long)]
    asks: Option<SocketAddr>,
}

#[derive(Debug)]
struct Application {
    name: String,
    behaviour: Mutex<Behaviour>,
    threads: Threads,
    asks: Option<Connections>,
    executed: AtomicU64,
    turn: AtomicU32,
}

/// Threads, each of which processes one request at a time. Others wait, in the order of their arrival.
#[derive(Debug)]
struct Threads {
    idle: Semaphore,
    /// When threads that are idle became so. A timer fires up to a millisecond late: the next request begins when the last one should have
    /// ended, so that a thread with a queue processes exactly as many as its delay says.
    since: Mutex<Vec<Instant>>,
}

/// A thread that processes a request. Dropped, it stops, and is idle.
struct Busy<'a> {
    threads: &'a Threads,
    ended: Option<Instant>,
}

impl Threads {
    fn new(count: usize) -> Self {
        Self { idle: Semaphore::new(count), since: Mutex::default() }
    }

    /// Processes a request that arrives now, which takes a thread so long, and then as long as `wait` takes, if there is one.
    async fn process<T>(&self, delay: Duration, wait: Option<impl Future<Output = T>>) -> Option<T> {
        let arrived = Instant::now();
        let _permit = self.idle.acquire().await;
        let since = self.since.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut busy = Busy { threads: self, ended: None };
        let end = since.map_or(arrived, |since| since.max(arrived)) + delay;
        sleep_until(end).await;
        match wait {
            Some(wait) => Some(wait.await),
            None => {
                busy.ended = Some(end);
                None
            }
        }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let idle = self.ended.unwrap_or_else(Instant::now);
        self.threads.since.lock().unwrap_or_else(PoisonError::into_inner).push(idle);
    }
}

/// How the application answers a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Behaviour {
    /// Delay of a successful response.
    pub(super) delay: Duration,
    /// Percentage of requests that fail, without a delay.
    pub(super) fail_percent: u32,
    /// The status of a failed request.
    pub(super) status: u16,
}

impl Behaviour {
    /// Answers after a millisecond and never fails.
    pub(super) const HEALTHY: Self = Self { delay: Duration::from_millis(1), fail_percent: 0, status: 500 };

    /// Returns the request that configures this behaviour.
    pub(super) fn path(self) -> String {
        let Self { delay, fail_percent, status } = self;
        format!("/behaviour?delay_us={}&fail={fail_percent}&status={status}", delay.as_micros())
    }

    fn parse(query: &str) -> Option<Self> {
        let mut behaviour = Self::HEALTHY;
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=')?;
            match name {
                "delay_us" => behaviour.delay = Duration::from_micros(value.parse().ok()?),
                "fail" => behaviour.fail_percent = value.parse().ok()?,
                "status" => behaviour.status = value.parse().ok()?,
                _ => return None,
            }
        }
        Some(behaviour)
    }
}

/// Serves until the process ends. Returns an error if it cannot listen.
pub(crate) async fn serve(args: EndpointArgs) -> Result<(), String> {
    let application = Arc::new(Application {
        name: args.listen.ip().to_string(),
        behaviour: Mutex::new(Behaviour::HEALTHY),
        threads: Threads::new(args.concurrency),
        asks: args.asks.map(Connections::new),
        executed: AtomicU64::new(0),
        turn: AtomicU32::new(0),
    });
    let answer = move |request| {
        let application = Arc::clone(&application);
        async move { answer(&application, request).await }
    };
    exchange::serve(args.listen, answer).await
}

async fn answer(application: &Application, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    match (&head.method, head.uri.path()) {
        (&Method::PUT, "/behaviour") => {
            let Some(behaviour) = head.uri.query().and_then(Behaviour::parse) else {
                return text(StatusCode::BAD_REQUEST, "no behaviour".into());
            };
            *application.behaviour.lock().unwrap_or_else(PoisonError::into_inner) = behaviour;
            return text(StatusCode::OK, String::new());
        }
        (&Method::GET, "/executed") => {
            return text(StatusCode::OK, application.executed.load(Ordering::Relaxed).to_string());
        }
        _ => {}
    }
    if body.collect().await.is_err() {
        return text(StatusCode::BAD_REQUEST, "the body broke off".into());
    }
    application.executed.fetch_add(1, Ordering::Relaxed);
    let behaviour = *application.behaviour.lock().unwrap_or_else(PoisonError::into_inner);
    // Spread evenly: 80 of a hundred are four of any five in a row.
    let turn = application.turn.fetch_add(1, Ordering::Relaxed);
    let fails = turn.wrapping_mul(behaviour.fail_percent) % 100 + behaviour.fail_percent >= 100;
    let mut response = if fails {
        text(
            StatusCode::from_u16(behaviour.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            "as told".into(),
        )
    } else {
        work(application, behaviour, head.uri.query().unwrap_or_default()).await
    };
    if let Ok(name) = application.name.parse() {
        response.headers_mut().insert("x-endpoint", name);
    }
    response
}

async fn work(application: &Application, behaviour: Behaviour, query: &str) -> Response<Full<Bytes>> {
    let response = text(StatusCode::OK, "x".repeat(BODY));
    if let Some(wait) = number(query, "wait_ms") {
        tokio::time::sleep(Duration::from_millis(wait.into())).await;
        return response;
    }
    let asks = application.asks.as_ref().map(|asked| asked.send(Request::new(Full::default())));
    match application.threads.process(behaviour.delay * number(query, "units").unwrap_or(1), asks).await {
        None => response,
        Some(Ok(asked)) if asked.status() == StatusCode::OK => response,
        Some(Ok(asked)) => text(StatusCode::BAD_GATEWAY, format!("asked, and got {}", asked.status())),
        Some(Err(why)) => text(StatusCode::BAD_GATEWAY, why),
    }
}

/// Returns the number of this name in a query. `None` if there is none.
fn number(query: &str, name: &str) -> Option<u32> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_thread_with_a_queue_processes_as_many_as_its_delay_says() {
        let (threads, delay, begin) = (Threads::new(2), Duration::from_micros(7500), Instant::now());
        let process = || threads.process(delay, None::<std::future::Ready<()>>);
        let all = (0..200).map(|_| process());
        // A client that does not wait for its response leaves the thread idle.
        assert!(tokio::time::timeout(delay / 2, process()).await.is_err());
        futures_util::future::join_all(all).await;
        let took = begin.elapsed();
        assert!((750..760).contains(&took.as_millis()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_waits_for_another_application_processes_nothing_else() {
        let (threads, begin) = (Threads::new(1), Instant::now());
        let second = Duration::from_secs(1);
        let asks = || threads.process(second, Some(async { tokio::time::sleep(2 * second).await }));
        assert_eq!(futures_util::future::join_all([asks(), asks()]).await, [Some(()); 2]);
        assert_eq!(begin.elapsed().as_secs(), 6);
    }

    #[test]
    fn a_behaviour_travels_in_its_path() {
        let behaviour = Behaviour { delay: Duration::from_millis(40), fail_percent: 80, status: 503 };
        let path = behaviour.path();
        let read = Behaviour::parse(path.split_once('?').unwrap().1).unwrap();
        assert_eq!(format!("{read:?}"), format!("{behaviour:?}"));
        assert!(Behaviour::parse("delay_us=x").is_none() && Behaviour::parse("other=1").is_none());
    }
}
