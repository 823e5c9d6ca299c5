//! Decides when the directory is scanned after a change, so that changes made together are read together.
//!
//! The write tracker reports complete versions of files. The scan is due when nothing more has come for a moment, or when
//! the first of them has waited for [`MAX_DEBOUNCE`]: changes that never stop delay none of them any longer. A version that
//! a scan had to leave, because its file was being written again, goes on waiting since its own time. Reads no clock.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Changes that come within this time of each other are read together,
pub(super) const DEBOUNCE: Duration = Duration::from_millis(50);
/// but the first of them waits no longer than this.
pub(super) const MAX_DEBOUNCE: Duration = Duration::from_millis(500);

/// The changes that wait for a scan.
#[derive(Debug, Default)]
pub(super) struct Debounce {
    /// Files with a complete version that was not read, and since when.
    waiting: BTreeMap<PathBuf, Instant>,
    /// When the first change came that is of no single file.
    tree: Option<Instant>,
    /// When the last change came since the scan.
    last: Option<Instant>,
}

impl Debounce {
    /// Records that a file has a complete version.
    pub(super) fn completed(&mut self, path: &Path, now: Instant) {
        if !self.waiting.contains_key(path) {
            self.waiting.insert(path.to_owned(), now);
        }
        self.last = Some(now);
    }

    /// Records a change that is of no single file.
    pub(super) fn tree_changed(&mut self, now: Instant) {
        self.tree.get_or_insert(now);
        self.last = Some(now);
    }

    /// Returns when to scan, which may be in the past. Returns None if no change has come since the scan, or if all files
    /// that changed are being written again: `is_complete` returns false for those.
    pub(super) fn due(&self, is_complete: impl Fn(&Path) -> bool) -> Option<Instant> {
        let last = self.last?;
        let complete = self.waiting.iter().filter(|(path, _)| is_complete(path)).map(|(_, since)| *since);
        let first = complete.chain(self.tree).min()?;
        Some((last + DEBOUNCE).min(first + MAX_DEBOUNCE))
    }

    /// Ends a scan at `now`. `is_left` returns true for the files that it left for later; `again` is whether one of them has
    /// a complete version already.
    pub(super) fn scanned(&mut self, is_left: impl Fn(&Path) -> bool, again: bool, now: Instant) {
        self.waiting.retain(|path, _| is_left(path));
        self.tree = None;
        self.last = again.then_some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn the_scan_is_due_when_changes_have_stopped() {
        let (mut debounce, start) = (Debounce::default(), Instant::now());
        assert_eq!(debounce.due(|_| true), None);
        debounce.completed("a".as_ref(), start);
        debounce.tree_changed(start + MILLISECOND * 30);
        assert_eq!(debounce.due(|_| true), Some(start + MILLISECOND * 30 + DEBOUNCE));
        debounce.scanned(|_| false, false, start + MILLISECOND * 80);
        assert_eq!(debounce.due(|_| true), None);
    }

    #[test]
    fn changes_that_never_stop_delay_no_scan_beyond_the_maximum() {
        let (mut debounce, start) = (Debounce::default(), Instant::now());
        (0..499).for_each(|at| debounce.completed("a".as_ref(), start + MILLISECOND * at));
        assert_eq!(debounce.due(|_| true), Some(start + MAX_DEBOUNCE));
    }

    #[test]
    fn a_version_that_a_scan_left_does_not_wait_for_the_maximum_again() {
        let (mut debounce, start) = (Debounce::default(), Instant::now());
        debounce.completed("a".as_ref(), start);
        debounce.scanned(|_| true, false, start + MAX_DEBOUNCE);
        assert_eq!(debounce.due(|_| true), None, "nothing new has come");
        let closed = start + MAX_DEBOUNCE + MILLISECOND;
        debounce.completed("a".as_ref(), closed);
        assert_eq!(debounce.due(|_| false), None, "it is being written");
        assert_eq!(debounce.due(|_| true), Some(start + MAX_DEBOUNCE));
        debounce.scanned(|_| true, true, closed);
        assert!(debounce.due(|_| true).unwrap() <= closed, "it changed during the scan");
    }
}
