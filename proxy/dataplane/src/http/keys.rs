//! Fetches the keys of tokens from their URIs, when the first request needs them and again before they expire.
//!
//! One task for each set in the whole process, on the worker with that request. A fetch that fails is logged, counted and repeated; requests are
//! verified with the last set meanwhile.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_policy::key_source::RemoteKeys;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::ask::ask_alone;
use super::uptime::uptime;
use crate::context::Context;

/// How often it is checked whether a configuration still has the keys.
const CHECK: Duration = Duration::from_secs(5);

/// Starts fetching `keys`, if no worker does yet.
pub(super) fn fetch(keys: &Arc<RemoteKeys>, context: &Rc<Context>) {
    if keys.adopt() {
        tokio::task::spawn_local(keep(Rc::clone(context), Adopted(Arc::clone(keys))));
    }
}

/// Keys that this task fetches. Another one may do it afterwards.
struct Adopted(Arc<RemoteKeys>);

impl Drop for Adopted {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

async fn keep(context: Rc<Context>, Adopted(ref keys): Adopted) {
    let mut failing = true;
    loop {
        let reply = ask_alone(keys.question(), &context).await.map_err(|failure| failure.to_string());
        let process = &context.recorder.metrics().process;
        match keys.fetched(reply, uptime()) {
            Ok(()) => {
                process.key_sets_fetched.increment();
                if std::mem::replace(&mut failing, false) {
                    info!(uri = %keys.uri(), cluster = %keys.cluster(), "the keys of tokens were fetched");
                }
            }
            Err(why) => {
                failing = true;
                process.key_set_fetches_failed.increment();
                warn!(uri = %keys.uri(), cluster = %keys.cluster(), %why, "the keys of tokens cannot be fetched; the last ones stay in use");
            }
        }
        let next = Instant::now() + keys.pause(fastrand::u32(..));
        while Instant::now() < next {
            if Arc::strong_count(keys) == 1 {
                return;
            }
            tokio::select! {
                () = sleep_until(next.min(Instant::now() + CHECK)) => {}
                () = keys.wanted() => break,
            }
        }
    }
}
