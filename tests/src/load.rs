//! Traffic that goes on while something happens, and what became of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use outrigger_test_support::client::Client;
use outrigger_test_support::wait::{eventually, in_time};
use tokio::task::JoinSet;

/// Clients of each method.
const CLIENTS: usize = 2;

/// Clients that send one request after another, half of them GET and half POST, until they are told to end.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: JoinSet<Tally>,
}

/// What was asked, and every request that was not answered 200, in words.
#[derive(Debug, Default)]
pub struct Tally {
    /// How many requests were sent.
    pub sent: usize,
    /// Lost GETs. There may be none, whatever happens to one instance.
    pub lost_gets: Vec<String>,
    /// Lost POSTs. One that was under way when its endpoint died is cut off, and nobody may send it again.
    pub lost_posts: Vec<String>,
}

impl Load {
    /// How many POSTs can be under way at a time.
    pub const POSTS_AT_A_TIME: usize = CLIENTS;

    /// Begins to ask `host` through the sidecar at `outbound`.
    pub fn start(outbound: SocketAddr, host: &str) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut clients = JoinSet::new();
        for method in ["GET", "POST"].repeat(CLIENTS) {
            let (stop, answered, host) = (Arc::clone(&stop), Arc::clone(&answered), host.to_owned());
            clients.spawn(async move {
                let mut tally = Tally::default();
                let mut client = Client::connect(outbound).await;
                while !stop.load(Ordering::Relaxed) {
                    tally.sent += 1;
                    let lost = one(&mut client, method, &host).await.err();
                    answered.fetch_add(1, Ordering::Relaxed);
                    if let Some(lost) = lost {
                        if method == "GET" {
                            tally.lost_gets.push(lost)
                        } else {
                            tally.lost_posts.push(lost)
                        }
                        client = Client::connect(outbound).await;
                    }
                }
                tally
            });
        }
        Self { stop, answered, clients }
    }

    /// Waits until so many further requests were answered.
    pub async fn goes_on_for(&self, requests: usize) {
        let until = self.answered.load(Ordering::Relaxed) + requests;
        eventually("traffic", async || (self.answered.load(Ordering::Relaxed) >= until).then_some(())).await;
    }

    /// Ends it, and says what became of all.
    pub async fn finish(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Tally::default();
        while let Some(tally) = in_time("the last answers", self.clients.join_next()).await {
            let Tally { sent, lost_gets, lost_posts } = tally.unwrap();
            sum.sent += sent;
            sum.lost_gets.extend(lost_gets);
            sum.lost_posts.extend(lost_posts);
        }
        sum
    }
}

impl Tally {
    /// Panics unless every request was answered.
    pub fn assert_nothing_lost(&self) {
        assert!(self.sent > 0 && self.lost_gets.is_empty() && self.lost_posts.is_empty(), "{self:?}");
    }
}

async fn one(client: &mut Client, method: &str, host: &str) -> Result<(), String> {
    let length = if method == "GET" { "" } else { "Content-Length: 0\r\n" };
    client.send(format!("{method} /load HTTP/1.1\r\nHost: {host}\r\n{length}\r\n")).await;
    match client.try_response().await {
        Some(answer) if answer.status == 200 => Ok(()),
        Some(answer) => Err(format!("{method}: {} {}", answer.status, answer.reason())),
        None => Err(format!("{method}: the connection ended")),
    }
}
