//! The application of each endpoint: answers after a configured time, fails at a configured rate, and counts its
//! executions.
//!
//! It is a separate process, so that it can be stopped and killed. `PUT /behaviour?delay_us=5000&fail=80&status=500`
//! configures it; `GET /executed` returns the number of executed requests; any other request is work: `?units=5` five times as
//! much, and `?wait_ms=9000` waits for an event instead, without a thread.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

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
}

#[derive(Debug)]
struct Application {
    name: String,
    behaviour: Mutex<Behaviour>,
    threads: Threads,
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

    /// Processes a request that arrives now, which takes a thread so long.
    async fn process(&self, delay: Duration) {
        let arrived = Instant::now();
        let _permit = self.idle.acquire().await;
        let since = self.since.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut busy = Busy { threads: self, ended: None };
        let end = since.map_or(arrived, |since| since.max(arrived)) + delay;
        sleep_until(end).await;
        busy.ended = Some(end);
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
    let listener =
        TcpListener::bind(args.listen).await.map_err(|error| format!("{}: {error}", args.listen))?;
    let application = Arc::new(Application {
        name: args.listen.ip().to_string(),
        behaviour: Mutex::new(Behaviour::HEALTHY),
        threads: Threads::new(args.concurrency),
        executed: AtomicU64::new(0),
        turn: AtomicU32::new(0),
    });
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let application = Arc::clone(&application);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(&application, request));
            // A client may disconnect.
            let _ = hyper::server::conn::http1::Builder::new()
                .half_close(false)
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    application: &Application,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let text = |status: StatusCode, text: String| {
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response
    };
    match (&head.method, head.uri.path()) {
        (&Method::PUT, "/behaviour") => {
            let Some(behaviour) = head.uri.query().and_then(Behaviour::parse) else {
                return Ok(text(StatusCode::BAD_REQUEST, "no behaviour".into()));
            };
            *application.behaviour.lock().unwrap_or_else(PoisonError::into_inner) = behaviour;
            return Ok(text(StatusCode::OK, String::new()));
        }
        (&Method::GET, "/executed") => {
            return Ok(text(StatusCode::OK, application.executed.load(Ordering::Relaxed).to_string()));
        }
        _ => {}
    }
    if body.collect().await.is_err() {
        return Ok(text(StatusCode::BAD_REQUEST, "the body broke off".into()));
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
        let query = head.uri.query().unwrap_or_default();
        match number(query, "wait_ms") {
            Some(wait) => tokio::time::sleep(Duration::from_millis(wait.into())).await,
            None => application.threads.process(behaviour.delay * number(query, "units").unwrap_or(1)).await,
        }
        text(StatusCode::OK, "x".repeat(BODY))
    };
    if let Ok(name) = application.name.parse() {
        response.headers_mut().insert("x-endpoint", name);
    }
    Ok(response)
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
        let all = (0..200).map(|_| threads.process(delay));
        // A client that does not wait for its response leaves the thread idle.
        assert!(tokio::time::timeout(delay / 2, threads.process(delay)).await.is_err());
        futures_util::future::join_all(all).await;
        let took = begin.elapsed();
        assert!((750..760).contains(&took.as_millis()), "{took:?}");
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
