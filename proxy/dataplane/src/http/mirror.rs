//! Request mirroring: copies of requests go to other clusters too, and their responses are discarded.
//!
//! A copy is its own task, which ends with its answer or after [`LONGEST`]. It never slows the request down: its body
//! passes through a bounded queue that shares the request's bytes, and a copy that falls behind is dropped: not sent at all, or
//! broken off in a way that its receiver cannot take for the whole.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use outrigger_config::cluster::Cluster as ClusterConfig;
use outrigger_config::route::Forward;
use outrigger_config::snapshot::Snapshot;
use outrigger_core::error::Failure;
use outrigger_core::peer::PeerKey;
use outrigger_core::reason::Reason;
use outrigger_policy::mirror::Mirror;

use super::filters::Admitted;
use super::request_context::RequestContext;
use super::rewritten::authority;
use crate::codec::answer::{Answer, Payload};
use crate::codec::body::{Body, Frame, Source};
use crate::codec::head::RequestHead;
use crate::context::Context;
use crate::upstream::cluster::{PickBy, Probing};
use crate::upstream::dial::Purpose;
use crate::upstream::host::Host;

/// How long a copy may take.
const LONGEST: Duration = Duration::from_secs(30);

/// How much of a body waits for a slow copy before it is dropped, in bytes.
const QUEUE_BYTES: usize = 1024 * 1024;

/// How much waits for all copies of one worker, in bytes.
const WORKER_BYTES: usize = 16 * 1024 * 1024;

/// Pieces below this size are copied, so that they do not keep the whole buffer that they were read into.
const SHARED_BYTES: usize = 4 * 1024;

thread_local! {
    /// What waits for copies of this worker, in bytes.
    static WAITING: Cell<usize> = const { Cell::new(0) };
}

/// Starts sending the copies that the route configures.
pub(super) fn copies(snapshot: &Snapshot, forward: &Forward, admitted: &mut Admitted<'_, '_>) {
    let RequestContext { on, head, body, .. } = admitted.context();
    if forward.mirrors.is_empty() || head.asks_for_tunnel() {
        return;
    }
    let mut queues = Vec::new();
    for mirror in forward.mirrors.iter().filter(|mirror| mirror.copies(fastrand::u32(..))) {
        let process = &on.context.recorder.metrics().process;
        let (Some(cluster), Some(head)) = (snapshot.cluster(&mirror.cluster), head_of(mirror, head)) else {
            process.mirrors_dropped.increment();
            continue;
        };
        let queue = Rc::new(Queue::default());
        tokio::task::spawn_local(send(
            Rc::clone(&on.context),
            Arc::clone(cluster),
            head,
            Rc::clone(&queue),
            (on.client.key.clone(), on.client.destination),
        ));
        queues.push(queue);
    }
    if queues.is_empty() {
        return;
    }
    if body.is_ended() {
        queues.iter().for_each(|queue| queue.has_no_body());
        return;
    }
    let length = body.length();
    queues.iter().for_each(|queue| queue.state.borrow_mut().length = length);
    let rest = RefCell::new(std::mem::replace(body, Body::empty()));
    *body = Body::streamed(Rc::new(Tee { body: rest, queues }), 0, length);
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
    // The 100 that this requests would be discarded.
    head.headers.remove(http::header::EXPECT);
    Some(head)
}

async fn send(
    context: Rc<Context>,
    config: Arc<ClusterConfig>,
    head: RequestHead,
    queue: Rc<Queue>,
    (peer, original): (PeerKey, std::net::SocketAddr),
) {
    let process = &context.recorder.metrics().process;
    let sent = tokio::time::timeout(LONGEST, async {
        let cluster = context.cluster(&config).await?;
        let permit = cluster.admit(&peer).await?;
        let host = cluster.pick(&[], PickBy::original(original), Probing::Never)?.host;
        let asking = host.begin();
        let (speaks, peer) = (cluster.speaks(head.version), Rc::clone(&permit.peer));
        let lease = Host::lease_of(host, Purpose::Requests, speaks, peer).await?;
        // Nothing is written of a copy that has fallen behind already.
        let mut exchange = lease.send(&head, queue.body()?);
        loop {
            let answer = exchange.answer().await?;
            asking.heard();
            match answer {
                Answer::Interim(_) => {}
                Answer::Final(_, Payload::Tunnel(_)) => return Ok(()),
                // Read to its end, so that the connection serves again.
                Answer::Final(_, Payload::Body(mut body)) => {
                    while let Some(frame) = body.frame().await {
                        frame?;
                    }
                    return Ok::<_, Failure>(());
                }
            }
        }
    })
    .await;
    // Answered before its body was whole, it was not the request that it copies.
    let dropped = queue.is_dropped();
    queue.give_up();
    match sent {
        _ if dropped => process.mirrors_dropped.increment(),
        Ok(Ok(())) => process.mirrored.increment(),
        Ok(Err(_)) | Err(_) => process.mirrors_failed.increment(),
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
    state: RefCell<QueueState>,
}

#[derive(Default)]
struct QueueState {
    frames: VecDeque<Frame>,
    /// Bytes in `frames`.
    bytes: usize,
    /// How long the whole body is, where that is known.
    length: Option<u64>,
    /// There is no body.
    empty: bool,
    /// All of the body came.
    ended: bool,
    /// Not all of it will get through: it fell behind, or the request itself broke off.
    dropped: bool,
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

    fn poll_progress(&self, _: u64, cx: &mut TaskContext<'_>) {
        self.body.borrow_mut().poll_progress(cx);
    }

    fn abandon(&self, _: u64) {
        self.queues.iter().for_each(|queue| queue.give_up());
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        // A request that is given up is read no further.
        self.queues.iter().for_each(|queue| queue.give_up());
    }
}

impl Queue {
    /// The body to send, or why there is none any more.
    fn body(self: &Rc<Self>) -> Result<Body, Failure> {
        let state = self.state.borrow();
        if state.dropped {
            return Err(fell_behind());
        }
        if state.empty {
            return Ok(Body::empty());
        }
        Ok(Body::streamed(Rc::clone(self) as Rc<dyn Source>, 0, state.length))
    }

    fn push(&self, frame: &Frame) {
        let frame = match frame {
            Frame::Data(data) if data.len() < SHARED_BYTES => Frame::Data(Bytes::copy_from_slice(data)),
            frame => frame.clone(),
        };
        self.change(|state| {
            if state.dropped {
                return;
            }
            state.hold(size(&frame));
            // Nothing follows trailers, and no reader polls for more.
            state.ended = matches!(frame, Frame::Trailers(_));
            state.frames.push_back(frame);
            if state.bytes > QUEUE_BYTES || WAITING.get() > WORKER_BYTES {
                state.discard();
            }
        });
    }

    fn end(&self) {
        self.change(|state| state.ended = true);
    }

    fn has_no_body(&self) {
        self.change(|state| {
            state.empty = true;
            state.ended = true;
        });
    }

    fn give_up(&self) {
        self.change(|state| {
            if !state.ended {
                state.discard();
            }
        });
    }

    fn is_dropped(&self) -> bool {
        let state = self.state.borrow();
        state.dropped || !state.ended
    }

    fn change(&self, change: impl FnOnce(&mut QueueState)) {
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

impl QueueState {
    fn hold(&mut self, bytes: usize) {
        self.bytes += bytes;
        WAITING.set(WAITING.get() + bytes);
    }

    fn release(&mut self, bytes: usize) {
        self.bytes -= bytes;
        WAITING.set(WAITING.get() - bytes);
    }

    /// Nothing more of it gets through.
    fn discard(&mut self) {
        self.dropped = true;
        self.frames.clear();
        self.release(self.bytes);
    }
}

impl Drop for QueueState {
    fn drop(&mut self) {
        self.release(self.bytes);
    }
}

impl Source for Queue {
    fn poll_frame(&self, _: u64, cx: &mut TaskContext<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        let mut state = self.state.borrow_mut();
        if state.dropped {
            return Poll::Ready(Some(Err(fell_behind())));
        }
        if let Some(frame) = state.frames.pop_front() {
            state.release(size(&frame));
            return Poll::Ready(Some(Ok(frame)));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

fn size(frame: &Frame) -> usize {
    match frame {
        Frame::Data(data) => data.len(),
        // Bounded by the codec; what its text costs is near enough.
        Frame::Trailers(fields) => fields.iter().map(|(name, value)| name.as_str().len() + value.len()).sum(),
    }
}

fn fell_behind() -> Failure {
    Failure::local(Reason::LocalError, "the copy fell behind, or what it copies broke off")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(bytes: usize) -> Frame {
        Frame::Data(Bytes::from(vec![b'x'; bytes]))
    }

    async fn read(queue: &Rc<Queue>) -> Result<usize, Failure> {
        let (mut body, mut bytes) = (queue.body()?, 0);
        while let Some(frame) = body.frame().await {
            bytes += size(&frame?);
        }
        Ok(bytes)
    }

    #[tokio::test]
    async fn a_body_waits_whole_for_its_copy() {
        let queue = Rc::new(Queue::default());
        (0..100).for_each(|_| queue.push(&data(1000)));
        queue.end();
        assert_eq!((WAITING.get(), read(&queue).await.unwrap(), WAITING.get()), (100_000, 100_000, 0));
        assert!(!queue.is_dropped());
    }

    #[tokio::test]
    async fn a_body_may_end_with_trailers() {
        let queue = Rc::new(Queue::default());
        queue.push(&data(10));
        queue.push(&Frame::Trailers(http::HeaderMap::from_iter([(
            "x".parse().unwrap(),
            "y".parse().unwrap(),
        )])));
        // The request's body is dropped as soon as its last frame was read.
        queue.give_up();
        assert_eq!((read(&queue).await.unwrap(), queue.is_dropped()), (12, false));
    }

    #[tokio::test]
    async fn a_copy_that_falls_behind_is_never_a_shorter_request() {
        let queue = Rc::new(Queue::default());
        (0..3).for_each(|_| queue.push(&data(QUEUE_BYTES / 2)));
        queue.end();
        assert!(queue.body().is_err() && queue.is_dropped(), "it is not begun");
        let queue = Rc::new(Queue::default());
        let mut body = queue.body().unwrap();
        (0..3).for_each(|_| queue.push(&data(QUEUE_BYTES / 2)));
        queue.end();
        assert!(matches!(body.frame().await, Some(Err(_))), "it is broken off");
        assert_eq!(WAITING.get(), 0);
    }

    #[tokio::test]
    async fn all_copies_of_a_worker_share_one_bound() {
        let queues: Vec<_> = (0..17).map(|_| Rc::new(Queue::default())).collect();
        queues.iter().for_each(|queue| queue.push(&data(QUEUE_BYTES)));
        let dropped = queues.iter().filter(|queue| queue.state.borrow().dropped).count();
        assert_eq!((dropped, WAITING.get()), (1, WORKER_BYTES));
        drop(queues);
        assert_eq!(WAITING.get(), 0);
    }

    #[tokio::test]
    async fn a_request_that_is_cut_short_cuts_its_mirror() {
        let queue = Rc::new(Queue::default());
        let tee =
            Tee { body: RefCell::new(Body::full(Bytes::from_static(b"abc"))), queues: vec![queue.clone()] };
        let mut body = Body::streamed(Rc::new(tee), 0, Some(3));
        assert!(matches!(body.frame().await, Some(Ok(_))));
        drop(body);
        assert!(queue.is_dropped() && queue.body().is_err());
    }
}
