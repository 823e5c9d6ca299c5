//! The memory of the measured processes, for the scenarios of memory.

use outrigger::memory::Memory;

use super::peers::Running;

/// The memory of all processes of a peer.
pub(super) fn held(peer: &Running) -> Result<Memory, String> {
    let mut sum = Memory { rss: 0, anonymous: 0, pss: 0 };
    for pid in &peer.processes {
        let memory = Memory::of(*pid).ok_or("a measured process has ended")?;
        sum.rss += memory.rss;
        sum.anonymous += memory.anonymous;
        sum.pss += memory.pss;
    }
    Ok(sum)
}

pub(super) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
