//! Bodies of one connection that hold bytes which nobody reads, and what is done when they hold the whole window of the
//! connection, so that no other body gets on: those with the most are given up (RFC 9113 section 5.2.2).

use std::cell::RefCell;
use std::cmp::Reverse;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::incoming::Incoming;
use super::seen::Seen;

/// How long a body stands still, with the window used up, before it is given up.
const PATIENCE: Duration = Duration::from_secs(1);

/// A body that comes in on a stream.
pub(super) trait Receives {
    /// Its stream.
    fn incoming(&self) -> &RefCell<Incoming>;
}

/// A body that stands still, and how many bytes it holds.
type Still = (usize, Rc<dyn Receives>);

/// The bodies of one connection.
#[derive(Default)]
pub(super) struct Unread(RefCell<Vec<Weak<dyn Receives>>>);

impl Unread {
    /// Watches a body too.
    pub(super) fn watch(&self, body: Weak<dyn Receives>) {
        let mut bodies = self.0.borrow_mut();
        if bodies.len() == bodies.capacity() {
            bodies.retain(|body| body.strong_count() > 0);
        }
        bodies.push(body);
    }

    /// Gives up bodies whenever the peer may send nothing more because of what nobody reads. `streams` says how many
    /// streams are open: where all of them stand still, nobody needs the window. Never resolves.
    pub(super) async fn free_window(&self, seen: &Seen, streams: impl Fn() -> usize) {
        loop {
            seen.receiving.used_up().await;
            self.standing_still();
            tokio::time::sleep(PATIENCE).await;
            if seen.receiving.is_used_up_for(PATIENCE) {
                self.give_up(streams());
            }
        }
    }

    /// Gives up enough bodies for a quarter of what is held, if there are streams that hold nothing and may want to.
    fn give_up(&self, streams: usize) {
        let (mut still, holding) = self.standing_still();
        if holding >= streams {
            return;
        }
        still.sort_by_key(|(held, _)| Reverse(*held));
        let held: usize = still.iter().map(|(held, _)| held).sum();
        let mut freed = 0;
        for (bytes, body) in still {
            body.incoming().borrow_mut().give_up();
            freed += bytes;
            if freed >= held / 4 {
                break;
            }
        }
    }

    /// The bodies that have not been read from since the last call, and what each holds; and how many hold anything.
    fn standing_still(&self) -> (Vec<Still>, usize) {
        let bodies: Vec<_> = self.0.borrow().iter().filter_map(Weak::upgrade).collect();
        let (mut still, mut holding) = (Vec::new(), 0);
        for body in bodies {
            let (held, stands_still) = body.incoming().borrow_mut().held();
            holding += usize::from(held > 0);
            if held > 0 && stands_still {
                still.push((held, body));
            }
        }
        (still, holding)
    }
}
