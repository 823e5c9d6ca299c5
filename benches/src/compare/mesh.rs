//! Memory and CPU of a sidecar in a mesh of many services, of which it uses one: at start, after requests, and after changes of the others.
//!
//! Returns an error if a change or a request fails.

use std::time::Duration;

use super::drive::{self, Run, Target};
use super::memory::{held, mebibytes};
use super::peers::Running;
use super::results::Figure;
use crate::load::Protocol;

/// The age of the sidecar at which its memory is read.
const AGE: Duration = Duration::from_secs(1);
/// Changes of other services, and the time between two of them.
const CHANGES: u32 = 100;
const EVERY: Duration = Duration::from_millis(10);
/// The last change is debounced, translated, and sent if the sidecar is subscribed to it.
const SETTLE: Duration = Duration::from_secs(2);
/// What a measurement takes beside the requests.
pub(super) const TIME: Duration = Duration::from_secs(4);

pub(super) async fn measure(
    peer: &Running,
    target: &Target,
    request: Protocol,
    run: &Run<'_>,
) -> Result<(Vec<Figure>, f64), String> {
    let members = peer.members.as_ref().ok_or("it has no other services")?;
    tokio::time::sleep(AGE).await;
    let start = held(peer)?;
    drive::closed_loop(target, request, 1, false, run).await?;
    let used = held(peer)?;
    let before = run.account()?;
    for _ in 0..CHANGES {
        members.change()?;
        tokio::time::sleep(EVERY).await;
    }
    tokio::time::sleep(SETTLE).await;
    let spent = before.until(&run.account()?);
    let after = held(peer)?;
    let figures = vec![
        Figure::new("MiB private after requests and changes", mebibytes(after.anonymous)),
        Figure::new("MiB private after requests", mebibytes(used.anonymous)),
        Figure::new("MiB private at start", mebibytes(start.anonymous)),
        Figure::new(
            "CPU, µs per change of another service",
            spent.cpu().as_secs_f64() * 1e6 / f64::from(CHANGES),
        ),
    ];
    Ok((figures, spent.other))
}
