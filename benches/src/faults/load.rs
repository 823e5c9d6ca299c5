//! The load: clients with a connection each, which send at fixed times and time out.
//!
//! A client that waits for a response skips its next times, so that a hanging endpoint shows as missing responses, as it
//! does to users. Clients do not retry: a request that the proxy does not retry is lost.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, Request, header};
use http_body_util::Full;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::exchange::{self, Connection, connect};

/// One load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Number of clients.
    pub(super) clients: u32,
    /// Requests a second of all clients together.
    pub(super) per_second: u32,
    /// Timeout after which a client abandons a request and its connection.
    pub(super) patience: Duration,
    /// Duration of the load.
    pub(super) length: Duration,
    /// The path of each request.
    pub(super) path: &'static str,
    /// Whether all clients send at the same times, and not in turn.
    pub(super) at_once: bool,
}

/// The result of one request.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    /// Time of sending, since the start of the load.
    pub(super) sent: Duration,
    /// Time until the response or the timeout.
    pub(super) latency: Duration,
    /// A POST, which must not be retried once it was written (RFC 9110 section 9.2.2).
    pub(super) post: bool,
    /// How it ended.
    pub(super) outcome: Outcome,
    /// The endpoint that answered.
    pub(super) endpoint: Option<String>,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// With 200.
    Answered,
    /// With another status, and the proxy's reason.
    Refused(u16, Option<String>),
    /// The connection failed or could not be opened.
    Broken(String),
    /// The client timed out.
    Late,
}

impl Sample {
    /// Returns the time of its end, since the start of the load.
    pub(super) fn ended(&self) -> Duration {
        self.sent + self.latency
    }
}

/// Sends `plan` to `target`, two GETs and a POST in turn; returns when every request has ended.
pub(super) async fn run(target: SocketAddr, plan: Plan) -> Vec<Sample> {
    let begin = Instant::now();
    let interval = Duration::from_secs(1) * plan.clients / plan.per_second;
    let mut clients = JoinSet::new();
    for number in 0..plan.clients {
        let client = Client { target, plan, begin, connection: None };
        let after = if plan.at_once { Duration::ZERO } else { interval * number / plan.clients };
        clients.spawn(client.run(number, begin + after, interval));
    }
    let mut samples: Vec<Sample> = clients.join_all().await.into_iter().flatten().collect();
    samples.sort_by_key(|sample| sample.sent);
    samples
}

struct Client {
    target: SocketAddr,
    plan: Plan,
    begin: Instant,
    connection: Option<Connection>,
}

impl Client {
    async fn run(mut self, number: u32, first: Instant, interval: Duration) -> Vec<Sample> {
        let mut ticks = tokio::time::interval_at(first, interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut samples = Vec::new();
        for turn in number.. {
            ticks.tick().await;
            if self.begin.elapsed() >= self.plan.length {
                break;
            }
            samples.push(self.request(turn % 3 == 2).await);
        }
        samples
    }

    async fn request(&mut self, post: bool) -> Sample {
        let sent = Instant::now();
        let answered = tokio::time::timeout(self.plan.patience, self.exchange(post)).await;
        let (outcome, endpoint) = match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(why)) => (Outcome::Broken(why), None),
            Err(_) => (Outcome::Late, None),
        };
        if matches!(outcome, Outcome::Broken(_) | Outcome::Late) {
            self.connection = None;
        }
        Sample { sent: sent.duration_since(self.begin), latency: sent.elapsed(), post, outcome, endpoint }
    }

    async fn exchange(&mut self, post: bool) -> Result<(Outcome, Option<String>), String> {
        if self.connection.as_ref().is_none_or(Connection::is_closed) {
            self.connection = Some(connect(self.target).await?);
        }
        let Some(connection) = &mut self.connection else { return Err("no connection".into()) };
        let (method, body) = if post { (Method::POST, vec![b'x'; 100]) } else { (Method::GET, Vec::new()) };
        let request = Request::builder()
            .method(method)
            .uri(self.plan.path)
            .header(header::HOST, "shop")
            .body(Full::from(body))
            .map_err(|error| error.to_string())?;
        let response = exchange::exchange(connection, request).await?;
        let text = |name| response.headers().get(name)?.to_str().ok().map(str::to_owned);
        let outcome = match response.status().as_u16() {
            200 => Outcome::Answered,
            status => Outcome::Refused(status, text("x-outrigger-reason")),
        };
        Ok((outcome, text("x-endpoint")))
    }
}
