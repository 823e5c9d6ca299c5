//! The counting runs of a variant: what a request costs in system calls, instructions and allocations. Called after its timed runs.
//!
//! The kernel counts in a short run of the proxies that were measured. Where the machine has no counter of instructions, proxies of their
//! own can run under valgrind's callgrind. What cannot be counted is named with the reason.

use std::net::SocketAddr;
use std::time::Duration;

use super::Found;
use super::counters::{ALLOCATIONS, CALLGRIND, Counted, INSTRUCTIONS, Meter, SYSCALLS};
use super::drive::Run;
use super::measure;
use super::peers::{Peer, Running, With};
use super::scenarios::Variant;
use crate::callgrind;

/// Warm-up and window of a run that the kernel counts, and of one under callgrind, where a request takes some 50 times as long.
const KERNEL: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(1)];
const UNDER_CALLGRIND: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(4)];
/// What they take with the start of their counters, or of the proxies under callgrind.
pub(super) const KERNEL_TIME: Duration = Duration::from_millis(2_000);
pub(super) const CALLGRIND_TIME: Duration = Duration::from_secs(15);

/// Counts with the proxies that run already.
pub(super) async fn of_kernel(
    variant: &Variant,
    running: &Running,
    application: SocketAddr,
    with: &With<'_>,
) -> Vec<Counted> {
    let counted = async {
        let meter = Meter::perf(&running.processes, with.directory)?;
        one(variant, running, application, with, &meter, KERNEL).await?;
        meter.finish().await
    };
    counted.await.unwrap_or_else(|why| {
        [SYSCALLS, INSTRUCTIONS, ALLOCATIONS].map(|metric| (metric, Err(why.clone()))).into()
    })
}

/// Counts instructions, with proxies that are started under callgrind for it.
pub(super) async fn of_callgrind(
    variant: &Variant,
    found: &Found,
    application: SocketAddr,
    with: &With<'_>,
) -> Counted {
    let counted = async {
        // The control plane is not counted.
        let command = (found.peer == Peer::Outrigger).then_some("proxy");
        let program = callgrind::script(&found.program, with.directory, command)?;
        let running = found.peer.start(&program, &variant.asks(application, None), with).await?;
        let meter = Meter::callgrind(&running.processes, with.directory);
        one(variant, &running, application, with, &meter, UNDER_CALLGRIND).await?;
        let counted = meter.finish().await?;
        counted.into_iter().next().ok_or("nothing counted")?.1
    };
    (CALLGRIND, counted.await)
}

async fn one(
    variant: &Variant,
    running: &Running,
    application: SocketAddr,
    with: &With<'_>,
    meter: &Meter<'_>,
    [warm_up, duration]: [Duration; 2],
) -> Result<(), String> {
    let run = Run {
        cores: with.cores,
        processes: &running.processes,
        warm_up,
        duration,
        application,
        collector: None,
        meter: Some(meter),
    };
    measure::once(variant, running, &run).await.map(drop)
}
