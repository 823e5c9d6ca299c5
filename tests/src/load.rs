//! Continuous traffic, and the outcome of each request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use outrigger_test_support::client::Client;
use outrigger_test_support::wait::{eventually, in_time};
use tokio::task::JoinSet;

/// The number of clients for each method.
const CLIENTS: usize = 2;

/// Clients that send one request after another, half of them GETs and half POSTs, until they are stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: JoinSet<LoadResult>,
}

/// How many requests were sent, and a description of each that was not answered with 200.
#[derive(Debug, Default)]
pub struct LoadResult {
    /// How many requests were sent.
    pub sent: usize,
    /// Lost GETs. None may be lost by a fault of one instance.
    pub lost_gets: Vec<String>,
    /// Lost POSTs. One in flight to an endpoint that dies is cut off, and must not be sent again.
    pub lost_posts: Vec<String>,
}

impl Load {
    /// How many POSTs can be in flight at a time.
    pub const POSTS_AT_A_TIME: usize = CLIENTS;

    /// Starts sending requests to `host` through the sidecar at `outbound`.
    pub fn start(outbound: SocketAddr, host: &str) -> Self {
        Self::with_fields(outbound, host, "")
    }

    /// The same, with more fields in each request, each with its line end.
    pub fn with_fields(outbound: SocketAddr, host: &str, fields: &str) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut clients = JoinSet::new();
        for method in ["GET", "POST"].repeat(CLIENTS) {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            let head = format!("Host: {host}\r\n{fields}");
            clients.spawn(async move {
                let mut result = LoadResult::default();
                let mut client = Client::connect(outbound).await;
                while !stop.load(Ordering::Relaxed) {
                    result.sent += 1;
                    let lost = one(&mut client, method, &head).await.err();
                    answered.fetch_add(1, Ordering::Relaxed);
                    if let Some(lost) = lost {
                        if method == "GET" {
                            result.lost_gets.push(lost)
                        } else {
                            result.lost_posts.push(lost)
                        }
                        client = Client::connect(outbound).await;
                    }
                }
                result
            });
        }
        Self { stop, answered, clients }
    }

    /// Waits until `requests` more requests have finished.
    pub async fn wait_for(&self, requests: usize) {
        let until = self.answered.load(Ordering::Relaxed) + requests;
        eventually("traffic", async || (self.answered.load(Ordering::Relaxed) >= until).then_some(())).await;
    }

    /// Stops all clients and returns the sum of their results.
    pub async fn finish(mut self) -> LoadResult {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = LoadResult::default();
        while let Some(result) = in_time("the last answers", self.clients.join_next()).await {
            let LoadResult { sent, lost_gets, lost_posts } = result.unwrap();
            sum.sent += sent;
            sum.lost_gets.extend(lost_gets);
            sum.lost_posts.extend(lost_posts);
        }
        sum
    }
}

impl LoadResult {
    /// Panics unless every request was answered.
    pub fn assert_nothing_lost(&self) {
        assert!(self.sent > 0 && self.lost_gets.is_empty() && self.lost_posts.is_empty(), "{self:?}");
    }
}

async fn one(client: &mut Client, method: &str, head: &str) -> Result<(), String> {
    let length = if method == "GET" { "" } else { "Content-Length: 0\r\n" };
    client.send(format!("{method} /load HTTP/1.1\r\n{head}{length}\r\n")).await;
    match client.try_response().await {
        Some(answer) if answer.status == 200 => Ok(()),
        Some(answer) => Err(format!("{method}: {} {}", answer.status, answer.reason())),
        None => Err(format!("{method}: the connection ended")),
    }
}
