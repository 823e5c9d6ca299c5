//! Copies of requests that go to other clusters as well, and whose answers nobody waits for.
//!
//! A copy is its own task, which ends with its answer or after [`LONGEST`]. It never slows the request down: its body
//! passes through a bounded queue, and a copy that falls behind is given up.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use http::uri::Authority;
use outrigger_config::route::Forward;
use outrigger_config::snapshot::Snapshot;
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use outrigger_policy::mirror::Mirror;

use super::downstream::Downstream;
use super::filters::Admitted;
use super::rewritten::authority;
use crate::codec::answer::Answer;
use crate::codec::body::{Body, Frame, Source};
use crate::codec::head::RequestHead;
use crate::context::Context;
use crate::upstream::cluster::Cluster;
use crate::upstream::dial::Use;

/// How long a copy may take.
const LONGEST: Duration = Duration::from_secs(30);

/// How much of a body waits for a slow copy before it is given up, in bytes.
const QUEUE_BYTES: usize = 64 * 1024;

/// Sends the copies that the route asks for and lets the request go on.
pub(super) fn copies(
    on: &Downstream,
    snapshot: &Snapshot,
    forward: &Forward,
    admitted: Admitted,
) -> Admitted {
    if forward.mirrors.is_empty() || admitted.head().asks_for_tunnel() {
        return admitted;
    }
    let mut queues = Vec::new();
    for mirror in forward.mirrors.iter().filter(|mirror| mirror.copies(fastrand::u32(..))) {
        let process = &on.context.recorder.metrics().process;
        let Some(cluster) = snapshot.cluster(&mirror.cluster) else {
            process.mirrors_failed.increment();
            continue;
        };
        let cluster = on.context.clusters.cluster(cluster);
        let Some(head) = head_of(mirror, admitted.head()) else {
            process.mirrors_failed.increment();
            continue;
        };
        let queue = Rc::new(Queue::default());
        process.mirrored.increment();
        tokio::task::spawn_local(send(
            Rc::clone(&on.context),
            cluster,
            head,
            Rc::clone(&queue),
            on.client.destination,
        ));
        queues.push(queue);
    }
    if queues.is_empty() {
        return admitted;
    }
    admitted.map_body(|body| {
        if body.is_ended() {
            queues.iter().for_each(|queue| queue.end());
            return body;
        }
        let length = body.length();
        queues.iter().for_each(|queue| queue.state.borrow_mut().length = length);
        Body::streamed(Rc::new(Tee { body: RefCell::new(body), queues }), 0, length)
    })
}

fn head_of(mirror: &Mirror, head: &RequestHead) -> Option<RequestHead> {
    let mut head = head.clone();
    if let Some(host) = &mirror.host_rewrite {
        head.authority = Some(authority(host).ok()?);
    } else if mirror.shadow_suffix {
        // Envoy's mark of a copy: the host ends in -shadow.
        let asked = head.authority.as_ref()?;
        let port = asked.port().map_or(String::new(), |port| format!(":{port}"));
        head.authority = Some(Authority::try_from(format!("{}-shadow{port}", asked.host())).ok()?);
    }
    // Nobody would relay the 100 that this asks for.
    head.headers.remove(http::header::EXPECT);
    Some(head)
}

async fn send(
    context: Rc<Context>,
    cluster: Rc<Cluster>,
    head: RequestHead,
    queue: Rc<Queue>,
    original: std::net::SocketAddr,
) {
    let sent = tokio::time::timeout(LONGEST, async {
        let _room = cluster.admit()?;
        let host = cluster.pick(&[], Some(original))?;
        let _asking = host.begin();
        let lease = host.lease(Use::Requests, cluster.speaks(head.version)).await?;
        let length = queue.state.borrow().length;
        let body =
            if queue.is_empty_body() { Body::empty() } else { Body::streamed(queue.clone(), 0, length) };
        let mut exchange = lease.send(&head, body);
        loop {
            match exchange.answer().await? {
                Answer::Interim(_) => {}
                Answer::Switched(..) => return Ok(()),
                // Read to its end, so that the connection serves again.
                Answer::Final(_, mut body) => {
                    while let Some(frame) = body.frame().await {
                        frame?;
                    }
                    return Ok::<_, Failure>(());
                }
            }
        }
    })
    .await;
    queue.give_up();
    if !matches!(sent, Ok(Ok(()))) {
        context.recorder.metrics().process.mirrors_failed.increment();
    }
}

/// The request's body, of which every frame goes to the copies too.
struct Tee {
    body: RefCell<Body>,
    queues: Vec<Rc<Queue>>,
}

/// What waits for one copy.
#[derive(Default)]
struct Queue {
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Frame>,
    bytes: usize,
    length: Option<u64>,
    ended: bool,
    broken: bool,
    reader: Option<Waker>,
}

impl Source for Tee {
    fn poll_frame(&self, _: u64, cx: &mut TaskContext<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        let frame = std::task::ready!(self.body.borrow_mut().poll_frame(cx));
        for queue in &self.queues {
            match &frame {
                Some(Ok(frame)) => queue.push(frame),
                Some(Err(_)) => queue.give_up(),
                None => queue.end(),
            }
        }
        Poll::Ready(frame)
    }

    fn abandon(&self, _: u64) {
        self.queues.iter().for_each(|queue| queue.give_up());
    }
}

impl Queue {
    fn push(&self, frame: &Frame) {
        let size = match frame {
            Frame::Data(bytes) => bytes.len(),
            Frame::Trailers(_) => 0,
        };
        self.change(|state| {
            state.bytes += size;
            if state.bytes > QUEUE_BYTES {
                state.broken = true;
                state.frames.clear();
            } else if !state.broken {
                state.frames.push_back(frame.clone());
            }
        });
    }

    fn end(&self) {
        self.change(|state| state.ended = true);
    }

    fn give_up(&self) {
        self.change(|state| state.broken = state.broken || !state.ended);
    }

    fn is_empty_body(&self) -> bool {
        let state = self.state.borrow();
        state.ended && state.frames.is_empty()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let waker = {
            let mut state = self.state.borrow_mut();
            change(&mut state);
            state.reader.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Source for Queue {
    fn poll_frame(&self, _: u64, cx: &mut TaskContext<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        let mut state = self.state.borrow_mut();
        if state.broken {
            return Poll::Ready(Some(Err(Failure::local(Reason::LocalError, "the copy fell behind"))));
        }
        if let Some(frame) = state.frames.pop_front() {
            if let Frame::Data(bytes) = &frame {
                state.bytes -= bytes.len();
            }
            return Poll::Ready(Some(Ok(frame)));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}
