use bytes::Bytes;

use super::*;

const LIMIT: usize = 1000;

struct Frames(RefCell<VecDeque<Frame>>);

impl Source for Frames {
    fn poll_frame(&self, _: u64, _: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        Poll::Ready(self.0.borrow_mut().pop_front().map(Ok))
    }
}

fn replay(sizes: &[usize]) -> ReplayBody {
    replay_within(&Rc::default(), sizes)
}

fn replay_within(of_worker: &Rc<Cell<usize>>, sizes: &[usize]) -> ReplayBody {
    let keeping = BufferLimits { limit: LIMIT, of_worker: Rc::clone(of_worker), metrics: Arc::default() };
    let frames = sizes.iter().map(|size| Frame::Data(Bytes::from(vec![b'x'; *size]))).collect();
    ReplayBody::new(Body::streamed(Rc::new(Frames(RefCell::new(frames))), 0, None), || keeping)
}

async fn read(body: &mut Body, frames: usize) -> usize {
    let mut bytes = 0;
    for _ in 0..frames {
        match body.frame().await {
            Some(Ok(Frame::Data(data))) => bytes += data.len(),
            _ => break,
        }
    }
    bytes
}

#[tokio::test]
async fn a_second_try_reads_everything_again() {
    let replay = replay(&[10, 20, 30]);
    assert_eq!(read(&mut replay.next(), 2).await, 30);
    assert!(replay.is_whole());
    let mut second = replay.next();
    assert_eq!(read(&mut second, 10).await, 60);
    assert!(second.frame().await.is_none());
    assert_eq!(read(&mut replay.next(), 10).await, 60);
}

#[tokio::test]
async fn a_long_body_is_not_kept() {
    let of_worker = Rc::default();
    let replay = replay_within(&of_worker, &[LIMIT - FRAME, 1, 5]);
    let mut first = replay.next();
    assert_eq!(read(&mut first, 1).await, LIMIT - FRAME);
    assert!(replay.is_whole() && of_worker.get() == LIMIT);
    assert_eq!(read(&mut first, 1).await, 1);
    assert!(!replay.is_whole() && of_worker.get() == 0, "at once, and what was kept of it is given back");
    assert_eq!(read(&mut first, 10).await, 5);
    let Kind::Streamed(kept) = &replay.0 else { unreachable!() };
    assert_eq!(kept.keeping.metrics.process.bodies_beyond_limit.value(), 1);
}

#[tokio::test]
async fn a_worker_keeps_so_much_of_all_its_bodies_and_no_more() {
    let of_worker = Rc::new(Cell::new(OF_WORKER - 2 * (FRAME + 100)));
    let [one, two] = [(); 2].map(|()| replay_within(&of_worker, &[100, 100]));
    assert_eq!(read(&mut one.next(), 1).await + read(&mut two.next(), 1).await, 200);
    assert!(one.is_whole() && two.is_whole() && of_worker.get() == OF_WORKER);
    assert_eq!(read(&mut one.next(), 2).await, 200);
    assert!(!one.is_whole() && two.is_whole());
    let Kind::Streamed(kept) = &one.0 else { unreachable!() };
    assert_eq!(kept.keeping.metrics.process.bodies_beyond_worker.value(), 1);
    assert_eq!(read(&mut two.next(), 2).await, 200);
    assert!(two.is_whole(), "there is capacity again");
    drop((one, two));
    assert_eq!(of_worker.get(), OF_WORKER - 2 * (FRAME + 100));
}

#[tokio::test]
async fn what_is_kept_is_given_back_as_the_last_attempt_reads_it() {
    let of_worker = Rc::default();
    let replay = replay_within(&of_worker, &[10, 20, 30]);
    assert_eq!(read(&mut replay.next(), 3).await, 60);
    let mut second = replay.next();
    assert_eq!(read(&mut second, 1).await, 10);
    replay.stop_buffering();
    assert_eq!(of_worker.get(), 2 * FRAME + 50);
    assert_eq!(read(&mut second, 2).await, 50);
    assert_eq!(of_worker.get(), 0);
}

#[tokio::test]
async fn the_last_try_keeps_nothing_and_reads_on() {
    let replay = replay(&[10, 20, 30, 40]);
    assert_eq!(read(&mut replay.next(), 3).await, 60);
    let mut second = replay.next();
    assert_eq!(read(&mut second, 1).await, 10);
    replay.stop_buffering();
    let Kind::Streamed(kept) = &replay.0 else { unreachable!() };
    assert_eq!(kept.frames.borrow().len(), 2, "what the second attempt has yet to read");
    assert_eq!(read(&mut second, 10).await, 90);
}

#[tokio::test]
async fn the_try_before_reads_nothing_any_more() {
    let replay = replay(&[10]);
    let mut first = replay.next();
    let _second = replay.next();
    assert!(matches!(first.frame().await, Some(Err(_))));
}

#[tokio::test]
async fn no_body_is_whole_forever() {
    let keeping = BufferLimits { limit: 0, of_worker: Rc::default(), metrics: Arc::default() };
    let replay = ReplayBody::new(Body::empty(), || keeping);
    assert!(replay.next().is_ended() && replay.next().is_ended() && replay.is_whole());
}

#[tokio::test]
async fn a_copy_is_the_whole_body_once_all_of_it_was_received_and_leaves_the_current_attempt_alone() {
    let replay = replay(&[10, 20, 30]);
    let mut first = replay.next();
    assert_eq!(read(&mut first, 3).await, 60);
    assert!(replay.copy().is_none(), "more may follow");
    assert!(first.frame().await.is_none());
    let [mut one, mut two] = [replay.copy().unwrap(), replay.copy().unwrap()];
    assert_eq!(read(&mut one, 10).await, 60);
    assert_eq!(read(&mut two, 10).await, 60);
    assert!(first.frame().await.is_none(), "it is not stale");
    assert_eq!(read(&mut replay.next(), 10).await, 60);
}

#[tokio::test]
async fn a_body_that_was_not_kept_has_no_copy() {
    let replay = replay(&[LIMIT]);
    assert_eq!(read(&mut replay.next(), 10).await, LIMIT);
    assert!(replay.copy().is_none());
    let keeping = BufferLimits { limit: LIMIT, of_worker: Rc::default(), metrics: Arc::default() };
    assert!(ReplayBody::new(Body::empty(), || keeping).copy().unwrap().is_ended());
}
