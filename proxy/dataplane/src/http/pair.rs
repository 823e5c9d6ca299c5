//! A pair: one request that is sent to a host that is in doubt, and covered by an attempt at another host.
//!
//! The doubted host receives the request first. The other host receives it if the first does not answer soon, so that the
//! client waits little. Its response time is the baseline: a request that is slow everywhere says nothing about the doubted
//! host. Only requests without a body whose method is safe are used, since both hosts may execute them.
//!
//! If a pair is dropped before its end, nothing is recorded and the doubt remains.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use outrigger_core::error::Failure;
use outrigger_core::record::Protocol;
use outrigger_policy::blame::{self, Freshness};
use tokio::time::{Instant, sleep_until, timeout};

use super::attempt::{self, Ended, Failed, Response};
use super::request_context::RequestContext;
use crate::codec::body::Body;
use crate::codec::head::{RequestHead, ResponseHead};
use crate::upstream::bounds::Peer;
use crate::upstream::cluster::Cluster;
use crate::upstream::dial::{EndpointFacts, Purpose};
use crate::upstream::host::{Host, HostAttempt};
use crate::upstream::pool::Speaks;

/// The doubted host has failed if it takes this many times longer than the other host, and at least this long.
const TIMES: u32 = 10;
const LEAST: Duration = Duration::from_millis(250);

/// If a deadline is observed later than this, this process itself was stalled.
const STOOD_STILL: Duration = Duration::from_millis(100);

/// How long the response of a host that failed its pair is awaited: it distinguishes a slow host from a silent one.
const AWAITED: Duration = Duration::from_secs(30);

type Answered = Result<Response, Failure>;

/// The half of a pair that is sent to the doubted host.
pub(super) struct Probe {
    pub(super) asking: HostAttempt,
    answer: Pin<Box<dyn Future<Output = Answered>>>,
    interims: Rc<RefCell<Vec<ResponseHead>>>,
    connected: Rc<Cell<Option<Connected>>>,
}

/// The connection of a probe, and since when there is one.
type Connected = (EndpointFacts, Protocol, Instant);

impl Probe {
    /// Sends a request without a body to the host of `asking`.
    pub(super) fn begin(asking: HostAttempt, head: RequestHead, speaks: Speaks, peer: Rc<Peer>) -> Self {
        let (host, interims) = (Rc::clone(asking.host()), Rc::<RefCell<Vec<_>>>::default());
        let (came, connected) = (Rc::clone(&interims), Rc::<Cell<_>>::default());
        let connection = Rc::clone(&connected);
        let answer = Box::pin(async move {
            let lease = Host::lease_of(Rc::clone(&host), Purpose::Requests, speaks, peer).await?;
            let peer = lease.facts.peer.clone();
            connection.set(Some((lease.facts.clone(), lease.protocol(), Instant::now())));
            let interim = async |head| {
                host.heard();
                came.borrow_mut().push(head);
            };
            attempt::response(lease.send(&head, Body::empty()), peer, interim).await
        });
        Self { asking, answer, interims, connected }
    }

    /// Returns the doubted host's response. Cancel-safe.
    pub(super) async fn answer(&mut self) -> Answered {
        self.answer.as_mut().await
    }

    /// Ends the pair with the doubted host's response, whose attempt is the current one. Its interim responses are sent to the
    /// client first.
    pub(super) async fn ended(self, answered: Answered, cx: &mut RequestContext<'_>) -> Ended {
        let RequestContext { journal, responder, .. } = cx;
        if let Some((endpoint, protocol, at)) = self.connected.take() {
            journal.attempt_connected(&endpoint, protocol, at);
        }
        for head in self.interims.take() {
            // A disconnected client is detected when the final response is sent.
            let _ = responder.interim(head).await;
        }
        let outcome = answered.map_err(|failure| Failed::new(failure, false));
        Ended { asking: self.asking, outcome, paid: None }
    }

    /// Determines whether the doubted host is silent or slow, after the other host has answered within `yardstick`. Runs in a
    /// separate task, which ends within [`AWAITED`].
    pub(super) fn judge(self, cluster: Rc<Cluster>, yardstick: Duration) {
        tokio::task::spawn_local(self.judged(cluster, yardstick));
    }

    async fn judged(mut self, cluster: Rc<Cluster>, yardstick: Duration) {
        let allowed = (yardstick * TIMES).max(LEAST);
        if allowed > AWAITED {
            return; // A request that is slow everywhere proves nothing in time.
        }
        let deadline = Instant::now() + allowed.saturating_sub(self.asking.age());
        let late = sleep_until(deadline);
        tokio::select! {
            biased;
            answer = &mut self.answer => return self.over(&answer),
            () = late => {}
        }
        if deadline.elapsed() > STOOD_STILL {
            return;
        }
        let host = Rc::clone(self.asking.host());
        cluster.found_silent(&host);
        if let Some(_place) = host.await_answer()
            && let Ok(answer) = timeout(AWAITED, &mut self.answer).await
        {
            self.over(&answer);
        }
    }

    fn over(&self, answer: &Answered) {
        match answer {
            Ok(response) => {
                self.asking.heard();
                if !response.facts.status.is_server_error() {
                    self.asking.answered();
                }
            }
            Err(failure) => self.asking.ended(failure, blame::failed(failure, Freshness::Fresh).alive),
        }
    }
}
