//! The application of each endpoint: answers after a configured time, fails at a configured rate, and counts its
//! executions.
//!
//! It is a separate process, so that it can be stopped and killed. `PUT /behaviour?delay_us=5000&fail=80&status=500`
//! configures it; `GET /executed` returns the number of executed requests; any other request is work.

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
    permits: Semaphore,
    executed: AtomicU64,
    turn: AtomicU32,
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
        permits: Semaphore::new(args.concurrency),
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
    let _permit = application.permits.acquire().await;
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
        tokio::time::sleep(behaviour.delay).await;
        text(StatusCode::OK, "x".repeat(BODY))
    };
    if let Ok(name) = application.name.parse() {
        response.headers_mut().insert("x-endpoint", name);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_behaviour_travels_in_its_path() {
        let behaviour = Behaviour { delay: Duration::from_millis(40), fail_percent: 80, status: 503 };
        let path = behaviour.path();
        let read = Behaviour::parse(path.split_once('?').unwrap().1).unwrap();
        assert_eq!(format!("{read:?}"), format!("{behaviour:?}"));
        assert!(Behaviour::parse("delay_us=x").is_none() && Behaviour::parse("other=1").is_none());
    }
}
