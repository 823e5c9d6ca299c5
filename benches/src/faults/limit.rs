//! A reverse proxy beside an application, with another algorithm than Outrigger's for its limit. `overload` starts it as a process of
//! its own, where Outrigger has its sidecar.
//!
//! It speaks HTTP/1 and does nothing else. A request beyond the limit waits for as long as the algorithm says, the newest first,
//! or gets 429, as from the filter of Netflix's concurrency-limits: Outrigger's callers neither repeat it nor eject the endpoint.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use outrigger_test_support::limits::{Algorithm, Limit};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::exchange::{self, Connections, text};

/// A proxy of the fault bench that limits what an application gets.
#[derive(Debug, Args)]
pub(crate) struct LimitArgs {
    /// The listening address.
    #[arg(long)]
    listen: SocketAddr,
    /// The application.
    #[arg(long)]
    to: SocketAddr,
    /// The algorithm of the limit.
    #[arg(long, value_parser = algorithm)]
    algorithm: Algorithm,
    /// Number of requests that the application processes at once.
    #[arg(long)]
    threads: u32,
}

/// Returns the algorithm of this name. Returns an error that lists them all if there is none.
pub(super) fn algorithm(name: &str) -> Result<Algorithm, String> {
    let known = Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name);
    known.ok_or_else(|| {
        format!("no algorithm {name:?}; there are: {}", Algorithm::ALL.map(Algorithm::name).join(", "))
    })
}

/// Serves until the process ends. Returns an error if it cannot listen.
pub(crate) async fn serve(args: LimitArgs) -> Result<(), String> {
    let gate = Arc::new(Gate::new(args.algorithm.start(args.threads)));
    let application = Arc::new(Connections::new(args.to));
    let answer = move |request| {
        let (gate, application) = (Arc::clone(&gate), Arc::clone(&application));
        async move { forward(&gate, &application, request).await }
    };
    exchange::serve(args.listen, answer).await
}

async fn forward(
    gate: &Gate,
    application: &Connections,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return text(StatusCode::BAD_REQUEST, "the body broke off".into());
    };
    let Some(mut permit) = gate.admit().await else {
        return text(StatusCode::TOO_MANY_REQUESTS, "beyond the limit".into());
    };
    match application.send(Request::from_parts(head, Full::from(body.to_bytes()))).await {
        Ok(response) => {
            permit.answered = true;
            response
        }
        Err(why) => text(StatusCode::BAD_GATEWAY, why),
    }
}

/// Admits requests to the application.
#[derive(Debug)]
struct Gate {
    state: Mutex<State>,
    began: Instant,
}

#[derive(Debug)]
struct State {
    limit: Box<dyn Limit>,
    in_flight: u32,
    /// The oldest first. One that gave up is removed later.
    waiting: Vec<oneshot::Sender<()>>,
    /// When none waited.
    empty: Instant,
}

/// One request in the application. Dropped, it has ended.
struct Permit<'a> {
    gate: &'a Gate,
    began: Instant,
    answered: bool,
}

/// A request that waits. Dropped, it has given up, and what it got meanwhile goes to another.
struct Waiting<'a> {
    gate: &'a Gate,
    turn: oneshot::Receiver<()>,
}

/// What becomes of a request that arrives.
enum Arrived<'a> {
    Admitted,
    Waits(Waiting<'a>, Duration),
    Refused,
}

impl Gate {
    fn new(limit: Box<dyn Limit>) -> Self {
        let now = Instant::now();
        let state = Mutex::new(State { limit, in_flight: 0, waiting: Vec::new(), empty: now });
        Self { state, began: now }
    }

    /// Returns a permit, if need be after a while. `None` if the request is refused.
    async fn admit(&self) -> Option<Permit<'_>> {
        match self.arrive() {
            Arrived::Admitted => {}
            Arrived::Waits(mut waiting, patience) => timeout(patience, &mut waiting.turn).await.ok()?.ok()?,
            Arrived::Refused => return None,
        }
        Some(Permit { gate: self, began: Instant::now(), answered: false })
    }

    fn arrive(&self) -> Arrived<'_> {
        let mut state = self.lock();
        state.forget();
        if state.in_flight < state.limit.limit() {
            state.in_flight += 1;
            return Arrived::Admitted;
        }
        let patience = state.limit.patience(state.empty.elapsed());
        if patience.is_zero() {
            return Arrived::Refused;
        }
        let (sender, turn) = oneshot::channel();
        state.waiting.push(sender);
        Arrived::Waits(Waiting { gate: self, turn }, patience)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Gives free permits to those that wait, the newest first.
    fn admit(&mut self) {
        while self.in_flight < self.limit.limit() {
            let Some(newest) = self.waiting.pop() else { break };
            self.in_flight += u32::from(newest.send(()).is_ok());
        }
        self.forget();
    }

    /// Removes those that gave up.
    fn forget(&mut self) {
        self.waiting.retain(|waiting| !waiting.is_closed());
        if self.waiting.is_empty() {
            self.empty = Instant::now();
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        let in_flight = state.in_flight;
        state.limit.ended(self.began.elapsed(), self.gate.began.elapsed(), in_flight, self.answered);
        state.in_flight -= 1;
        state.admit();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.turn.close();
        if self.turn.try_recv().is_ok() {
            let mut state = self.gate.lock();
            state.in_flight -= 1;
            state.admit();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn gate(algorithm: &str) -> Gate {
        Gate::new(self::algorithm(algorithm).unwrap().start(1))
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_request_is_next_and_one_that_gives_up_costs_nothing() {
        let gate = gate("codel");
        let first = gate.admit().await.unwrap();
        let [mut oldest, mut second, mut newest] = [(); 3].map(|()| Box::pin(gate.admit()));
        assert!([&mut oldest, &mut second, &mut newest].into_iter().all(|one| one.now_or_never().is_none()));
        drop(second);
        drop(first);
        // It got the permit, but is dropped before it knows.
        drop(newest);
        assert!(oldest.await.is_some());
        assert_eq!(gate.lock().in_flight, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_shortly_while_the_queue_stands() {
        let gate = gate("codel");
        let _running = gate.admit().await.unwrap();
        let waits = async || {
            let begin = Instant::now();
            assert!(gate.admit().await.is_none());
            begin.elapsed().as_millis()
        };
        assert_eq!(waits().await, 100);
        let after = async |delay| {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            waits().await
        };
        assert_eq!(tokio::join!(waits(), after(50), after(99), after(120)), (100, 100, 100, 5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_finds_itself_refuses_at_once_and_grows() {
        for name in ["gradient", "gradient2", "vegas", "aimd"] {
            let gate = gate(name);
            let first = gate.lock().limit.limit();
            for _ in 0..200 {
                let mut held = Vec::new();
                while let Some(Some(permit)) = gate.admit().now_or_never() {
                    held.push(permit);
                }
                assert_eq!(held.len(), gate.lock().limit.limit() as usize, "{name}");
                tokio::time::sleep(Duration::from_millis(40)).await;
                held.iter_mut().for_each(|permit| permit.answered = true);
            }
            assert!(gate.lock().limit.limit() > first, "{name}");
        }
    }
}
