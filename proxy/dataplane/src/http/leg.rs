//! One of several attempts of a request that may be in flight at the same time.
//!
//! It touches nothing that the attempts of a request share: it notes what it sees, and its owner passes that on. If it is dropped
//! before its end, its exchange is cancelled: the stream is reset or the connection closed.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use outrigger_core::error::{Failure, Reached, Side};
use outrigger_core::record::Protocol;
use tokio::time::Instant;

use super::attempt::{Attempt, Carrier, Ended, Failed, Response, late, response};
use super::journal::Journal;
use super::time_limit::TimeLimit;
use crate::codec::body::{Body, ByteCounts};
use crate::codec::head::{RequestHead, ResponseHead};
use crate::codec::server::Responder;
use crate::upstream::bounds::Peer;
use crate::upstream::dial::{EndpointFacts, Purpose};
use crate::upstream::host::{Host, HostAttempt};
use crate::upstream::pool::{Lease, Speaks};

/// The outcome of a leg.
pub(super) type Answered = Result<Response, Failed>;

/// One attempt.
pub(super) struct Leg<'a> {
    pub(super) asking: HostAttempt,
    /// How many attempts of the request began before it.
    pub(super) number: u32,
    /// How long it may take.
    limit: TimeLimit,
    answer: Pin<Box<dyn Future<Output = Answered> + 'a>>,
    seen: Rc<Seen>,
}

/// What a leg has seen, apart from its outcome.
#[derive(Default)]
struct Seen {
    interims: RefCell<Vec<ResponseHead>>,
    connected: Cell<Option<Connected>>,
    silent: Cell<bool>,
}

/// The connection of a leg, and since when there is one.
type Connected = (EndpointFacts, Protocol, Instant);

/// How a leg is made: within which limit, and with which count of the body's bytes.
pub(super) struct Way {
    pub(super) limit: TimeLimit,
    pub(super) bytes: Rc<ByteCounts>,
}

impl<'a> Leg<'a> {
    /// Sends the request of `attempt` on `lease`, which it has since the given moment.
    pub(super) fn on(
        (lease, connected): (Lease, Instant),
        (asking, number): (HostAttempt, u32),
        attempt: Attempt<'a>,
        bytes: Rc<ByteCounts>,
    ) -> Self {
        let Attempt { head, body, limit, .. } = attempt;
        let (host, seen) = (Rc::clone(asking.host()), Rc::<Seen>::default());
        let (way, sees) = (Way { limit, bytes }, Rc::clone(&seen));
        let answer = Box::pin(async move {
            // While the client owes a part of its request, the missing response is not the upstream's fault.
            let side = || if body.is_sent() { Side::Upstream } else { Side::Downstream };
            way.send((lease, connected), &host, &sees, (head, body.next()), side).await
        });
        Self { asking, number, limit, answer, seen }
    }

    /// Obtains a connection to the host of `asking` for `peer`, and sends the request on it.
    pub(super) fn to(
        (asking, number): (HostAttempt, u32),
        (head, body): (RequestHead, Body),
        (speaks, peer): (Speaks, Rc<Peer>),
        way: Way,
    ) -> Self {
        let (host, seen, limit) = (Rc::clone(asking.host()), Rc::<Seen>::default(), way.limit);
        let sees = Rc::clone(&seen);
        let answer = Box::pin(async move {
            let lease = {
                let bytes = Rc::clone(&way.bytes);
                let leasing = pin!(Host::lease_of(Rc::clone(&host), Purpose::Requests, speaks, peer));
                way.limit.run(leasing, move || bytes.received.get()).await
            };
            let lease = lease.unwrap_or_else(|which| Err(late(which, Reached::NotWritten)));
            let lease = (lease.map_err(|failure| Failed::new(failure, false))?, Instant::now());
            way.send(lease, &host, &sees, (&head, body), || Side::Upstream).await
        });
        Self { asking, number, limit, answer, seen }
    }

    /// Returns the outcome. Cancel-safe.
    pub(super) async fn answer(&mut self) -> Answered {
        poll_fn(|cx| self.poll_answer(cx)).await
    }

    /// Polls for the outcome.
    pub(super) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Answered> {
        self.answer.as_mut().poll(cx)
    }

    /// Sends the interim responses that have come since the last call to the client, within the limit of the attempt.
    pub(super) async fn relay_interims(&self, responder: &mut Responder, bytes: &ByteCounts) {
        for head in self.seen.interims.take() {
            // A disconnected client is detected when the final response is sent, and the end of the time when the attempt is polled.
            let _ = self.limit.run(pin!(responder.interim(head)), || bytes.received.get()).await;
        }
    }

    /// Returns whether there are interim responses to take.
    pub(super) fn has_interims(&self) -> bool {
        !self.seen.interims.borrow().is_empty()
    }

    /// Returns whether its host was found silent since the last call. Only the first time counts.
    pub(super) fn take_silent(&self) -> bool {
        self.seen.silent.replace(false)
    }

    /// Adds what is known of its connection to its record, which is the current one.
    pub(super) fn note_connection(&self, journal: &mut Journal) {
        if let Some((endpoint, protocol, at)) = self.seen.connected.take() {
            journal.attempt_connected(&endpoint, protocol, at);
        }
    }

    /// Ends the attempts beside each other with this one, whose record is the current one. Its interim responses are sent to the
    /// client first.
    pub(super) async fn ended(
        self,
        outcome: Answered,
        journal: &mut Journal,
        responder: &mut Responder,
    ) -> Ended {
        self.note_connection(journal);
        let bytes = journal.bytes();
        self.relay_interims(responder, &bytes).await;
        Ended::new(self.asking, outcome)
    }
}

impl Way {
    async fn send(
        self,
        (lease, connected): (Lease, Instant),
        host: &Host,
        seen: &Seen,
        (head, body): (&RequestHead, Body),
        side: impl Fn() -> Side,
    ) -> Answered {
        let (carrier, peer) = (Carrier::of(&lease, connected), lease.facts.peer.clone());
        seen.connected.set(Some((lease.facts.clone(), lease.protocol(), connected)));
        let interim = async |head| {
            host.heard();
            seen.interims.borrow_mut().push(head);
        };
        let answer = pin!(response(lease.send(head, body), peer, interim));
        let mut answer = self.limit.run(answer, || self.bytes.received.get());
        let mut awaits_silence = true;
        loop {
            tokio::select! {
                biased;
                answered = &mut answer => {
                    let answered = answered.unwrap_or_else(|which| {
                        Err(Failure { side: side(), ..late(which, Reached::Maybe) })
                    });
                    return answered.map_err(|failure| carrier.failed(failure));
                }
                () = host.found_silent(), if awaits_silence => {
                    awaits_silence = false;
                    seen.silent.set(true);
                }
            }
        }
    }
}
