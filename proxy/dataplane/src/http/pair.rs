//! A pair: one request that is sent to a host that is in doubt, and covered by an attempt at another host.
//!
//! The doubted host receives the request first. The other host receives it if the first does not answer soon, so that the
//! client waits little. Its response time is the baseline: a request that is slow everywhere says nothing about the doubted
//! host. Only requests without a body whose method is safe are used, since both hosts may execute them.
//!
//! If a pair is dropped before its end, nothing is recorded and the doubt remains.

use std::rc::Rc;
use std::time::Duration;

use outrigger_policy::blame::{self, Freshness};
use tokio::time::{Instant, sleep_until, timeout};

use super::leg::{Answered, Leg};
use crate::upstream::cluster::Cluster;

/// The doubted host has failed if it takes this many times longer than the other host, and at least this long.
const TIMES: u32 = 10;
const LEAST: Duration = Duration::from_millis(250);

/// If a deadline is observed later than this, this process itself was stalled.
const STOOD_STILL: Duration = Duration::from_millis(100);

/// How long the response of a host that failed its pair is awaited: it distinguishes a slow host from a silent one.
const AWAITED: Duration = Duration::from_secs(30);

/// Determines whether the doubted host of `probe` is silent or slow, after the other host has answered within `yardstick`. Runs in
/// a separate task, which ends within [`AWAITED`].
pub(super) fn judge(probe: Leg<'static>, cluster: Rc<Cluster>, yardstick: Duration) {
    tokio::task::spawn_local(judged(probe, cluster, yardstick));
}

async fn judged(mut probe: Leg<'static>, cluster: Rc<Cluster>, yardstick: Duration) {
    let allowed = (yardstick * TIMES).max(LEAST);
    if allowed > AWAITED {
        return; // A request that is slow everywhere proves nothing in time.
    }
    let deadline = Instant::now() + allowed.saturating_sub(probe.asking.age());
    let late = sleep_until(deadline);
    tokio::select! {
        biased;
        answer = probe.answer() => return over(&probe, &answer),
        () = late => {}
    }
    if deadline.elapsed() > STOOD_STILL {
        return;
    }
    let host = Rc::clone(probe.asking.host());
    cluster.found_silent(&host);
    if let Some(_place) = host.await_answer()
        && let Ok(answer) = timeout(AWAITED, probe.answer()).await
    {
        over(&probe, &answer);
    }
}

fn over(probe: &Leg<'_>, answer: &Answered) {
    match answer {
        Ok(response) => {
            probe.asking.heard();
            if !response.facts.status.is_server_error() {
                probe.asking.answered();
            }
        }
        Err(failed) => {
            let alive = blame::failed(&failed.failure, Freshness::Fresh).alive;
            probe.asking.ended(&failed.failure, alive);
        }
    }
}
