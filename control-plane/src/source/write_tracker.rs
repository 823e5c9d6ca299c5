//! Decides which changed files may be read, so that no file is read half-written.
//!
//! The kernel reports when a file is written and when its writer closes it; between the two it is not read. A rename and
//! a link that is replaced are complete at once. If no event reports a change (a network file system, lost events), the file
//! must stay the same for a while. A file that disappears often comes back, or reappears under another name (editors,
//! `git checkout`, a mount): other files may define its resources at once, and they are removed when the file has been gone
//! for a while. Reads no clock and no file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::debounce::Debounce;

/// How long a file that changed without an event must stay the same.
pub(super) const STABLE_AFTER: Duration = Duration::from_secs(2);
/// How long a file must be gone before its resources are removed.
pub(super) const REMOVED_AFTER: Duration = Duration::from_secs(1);
/// How long a file that is not closed must not be written to before it is read all the same: its text then adds and
/// changes resources, and removes none.
pub(super) const IDLE_AFTER: Duration = Duration::from_secs(10);

/// Tells versions of a file apart: even one rewritten with the same length within a clock tick has another inode or change
/// time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) inode: u64,
    pub(super) length: u64,
    pub(super) modified: (i64, i64),
    pub(super) changed: (i64, i64),
}

impl From<&Metadata> for Stamp {
    fn from(of: &Metadata) -> Self {
        Self {
            inode: of.ino(),
            length: of.size(),
            modified: (of.mtime(), of.mtime_nsec()),
            changed: (of.ctime(), of.ctime_nsec()),
        }
    }
}

/// An event about a path below the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FileEvent {
    /// It is being written.
    Writing(PathBuf),
    /// Its writer closed it, or it was renamed or removed.
    Closed(PathBuf),
    /// Its attributes changed.
    AttributesChanged(PathBuf),
    /// A folder or a link changed, and with it the files that it leads to.
    TreeChanged,
    /// Some events were lost.
    EventsLost,
}

/// Whether a changed file may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readiness {
    Complete,
    /// Its text may be cut short, or the file is gone only for a moment: resources that it does not define stay.
    Partial,
    /// Not yet.
    Pending,
}

/// The state of the files that changed since the last scan.
#[derive(Debug, Default)]
pub(super) struct WriteTracker {
    scanned: bool,
    writing: BTreeMap<PathBuf, OpenFile>,
    closed: BTreeSet<PathBuf>,
    tree_changed: bool,
    /// Files that changed without an event: what was seen, and since when.
    unannounced: BTreeMap<PathBuf, (Stamp, Instant)>,
    /// Files that are gone, and since when.
    gone: BTreeMap<PathBuf, Instant>,
    debounce: Debounce,
}

#[derive(Debug)]
struct OpenFile {
    last_write: Instant,
    was_read: bool,
}

impl WriteTracker {
    /// Records an event. Returns true if it calls for a scan.
    pub(super) fn record(&mut self, event: FileEvent, now: Instant) -> bool {
        match event {
            FileEvent::Writing(path) => {
                self.closed.remove(&path);
                self.writing.insert(path, OpenFile { last_write: now, was_read: false });
                false
            }
            FileEvent::AttributesChanged(path) if self.writing.contains_key(&path) => false,
            FileEvent::Closed(path) | FileEvent::AttributesChanged(path) => {
                self.writing.remove(&path);
                self.debounce.completed(&path, now);
                self.closed.insert(path)
            }
            FileEvent::TreeChanged => {
                self.tree_changed = true;
                self.debounce.tree_changed(now);
                true
            }
            FileEvent::EventsLost => {
                self.writing.clear();
                self.closed.clear();
                self.debounce.tree_changed(now);
                true
            }
        }
    }

    /// The paths that are being written.
    pub(super) fn writing(&self) -> impl Iterator<Item = &Path> {
        self.writing.keys().map(PathBuf::as_path)
    }

    /// The paths whose writers closed them.
    pub(super) fn closed(&self) -> impl Iterator<Item = &Path> {
        self.closed.iter().map(PathBuf::as_path)
    }

    /// Returns true if the writer of this path closed it.
    pub(super) fn is_closed(&self, path: &Path) -> bool {
        self.closed.contains(path)
    }

    /// Returns whether a file may be read that differs from what was `seen` last. Without a stamp, it is gone. `written` is
    /// true if it is being written under another name.
    pub(super) fn readiness(
        &mut self,
        path: &Path,
        (seen, stamp): (Option<Stamp>, Option<Stamp>),
        written: bool,
        now: Instant,
    ) -> Readiness {
        if !self.scanned {
            return Readiness::Complete;
        }
        let Some(stamp) = stamp else { return self.removed_readiness(path, now) };
        self.gone.remove(path);
        if let Some(open) = self.writing.get_mut(path) {
            let part = !open.was_read && now.saturating_duration_since(open.last_write) >= IDLE_AFTER;
            open.was_read |= part;
            return if part { Readiness::Partial } else { Readiness::Pending };
        }
        if written {
            return Readiness::Pending;
        }
        // A folder or link that changed leads to another file, which is complete. The same file with new content may not be:
        // a link may lead out of the directory, where writers cause no events.
        let another = seen.is_none_or(|seen| seen.inode != stamp.inode);
        if self.closed.contains(path) || (self.tree_changed && another) {
            return Readiness::Complete;
        }
        match self.unannounced.get(path) {
            Some((seen, since)) if *seen == stamp => {
                match now.saturating_duration_since(*since) >= STABLE_AFTER {
                    true => Readiness::Complete,
                    false => Readiness::Pending,
                }
            }
            _ => {
                self.unannounced.insert(path.to_owned(), (stamp, now));
                Readiness::Pending
            }
        }
    }

    fn removed_readiness(&mut self, path: &Path, now: Instant) -> Readiness {
        match self.gone.get(path) {
            None => {
                self.gone.insert(path.to_owned(), now);
                Readiness::Partial
            }
            Some(since) if now.saturating_duration_since(*since) < REMOVED_AFTER => Readiness::Pending,
            Some(_) => {
                self.gone.remove(path);
                Readiness::Complete
            }
        }
    }

    /// Ends a scan at `now`. `pending` returns true for the files that the scan left for later; `again` is whether one of them
    /// was completed during the scan.
    pub(super) fn scanned(&mut self, pending: impl Fn(&Path) -> bool, again: bool, now: Instant) {
        self.scanned = true;
        self.closed.retain(|path| pending(path));
        self.tree_changed = false;
        self.unannounced.retain(|path, _| pending(path));
        self.debounce.scanned(pending, again, now);
    }

    /// Returns when to scan because of what changed, which may be in the past. Returns None if nothing did.
    pub(super) fn due(&self) -> Option<Instant> {
        self.debounce.due(|path| self.is_closed(path))
    }

    /// Returns when to scan again if nothing changes before.
    pub(super) fn next_scan(&self, now: Instant) -> Option<Instant> {
        let unannounced = self.unannounced.values().map(|(_, since)| *since + STABLE_AFTER);
        let open =
            self.writing.values().filter(|open| !open.was_read).map(|open| open.last_write + IDLE_AFTER);
        let gone = self.gone.values().map(|since| *since + REMOVED_AFTER);
        unannounced.chain(open).chain(gone).filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(number: u64) -> Option<Stamp> {
        Some(Stamp { inode: number, length: number, modified: (0, 0), changed: (0, 0) })
    }

    /// A directory that was scanned once.
    fn tracker() -> (WriteTracker, Instant) {
        let (mut tracker, now) = (WriteTracker::default(), Instant::now());
        tracker.scanned(|_| false, false, now);
        (tracker, now)
    }

    fn path() -> PathBuf {
        "a.yaml".into()
    }

    #[test]
    fn at_first_every_file_is_complete() {
        let readiness = WriteTracker::default().readiness(&path(), (None, stamp(1)), true, Instant::now());
        assert_eq!(readiness, Readiness::Complete);
    }

    #[test]
    fn a_file_is_read_when_its_writer_closes_it_however_long_it_pauses() {
        let (mut tracker, now) = tracker();
        let second = Duration::from_secs(1);
        assert!(!tracker.record(FileEvent::Writing(path()), now));
        assert_eq!(tracker.readiness(&path(), (None, stamp(0)), false, now + second), Readiness::Pending);
        assert!(!tracker.record(FileEvent::AttributesChanged(path()), now + second), "is still open");
        assert!(!tracker.record(FileEvent::Writing(path()), now + second * 9));
        assert_eq!(
            tracker.readiness(&path(), (None, stamp(1)), false, now + second * 18),
            Readiness::Pending
        );
        assert!(tracker.record(FileEvent::Closed(path()), now + second * 18));
        assert_eq!(
            tracker.readiness(&path(), (None, stamp(1)), false, now + second * 18),
            Readiness::Complete
        );
    }

    #[test]
    fn a_file_that_is_not_closed_is_read_once_in_part_when_it_is_idle() {
        let (mut tracker, now) = tracker();
        tracker.record(FileEvent::Writing(path()), now);
        assert_eq!(tracker.next_scan(now), Some(now + IDLE_AFTER));
        let later = now + IDLE_AFTER;
        assert_eq!(tracker.readiness(&path(), (None, stamp(1)), false, later), Readiness::Partial);
        assert_eq!(tracker.readiness(&path(), (None, stamp(1)), false, later), Readiness::Pending);
        assert_eq!(tracker.next_scan(later), None);
        tracker.record(FileEvent::Writing(path()), later);
        assert_eq!(
            tracker.readiness(&path(), (None, stamp(2)), false, later + IDLE_AFTER),
            Readiness::Partial
        );
        tracker.record(FileEvent::Closed(path()), later);
        assert_eq!(tracker.readiness(&path(), (None, stamp(2)), false, later), Readiness::Complete);
    }

    #[test]
    fn a_rename_and_a_replaced_link_are_complete_at_once() {
        for (event, stamp) in [
            (FileEvent::Closed(path()), stamp(1)),
            (FileEvent::AttributesChanged(path()), stamp(1)),
            (FileEvent::TreeChanged, stamp(1)),
        ] {
            let (mut tracker, now) = tracker();
            let seen = self::stamp(9);
            assert!(tracker.record(event.clone(), now));
            assert_eq!(
                tracker.readiness(&path(), (seen, stamp), false, now),
                Readiness::Complete,
                "{event:?}"
            );
            tracker.scanned(|_| false, false, now);
            assert_eq!(
                tracker.readiness(&path(), (seen, stamp), false, now),
                Readiness::Pending,
                "{event:?} counts once"
            );
        }
    }

    #[test]
    fn a_change_elsewhere_does_not_complete_a_file_without_events() {
        let (mut tracker, now) = tracker();
        let grown = Some(Stamp { length: 9, ..stamp(1).unwrap() });
        tracker.record(FileEvent::TreeChanged, now);
        assert_eq!(tracker.readiness(&path(), (stamp(1), grown), false, now), Readiness::Pending);
        tracker.scanned(|_| true, false, now);
        assert_eq!(
            tracker.readiness(&path(), (stamp(1), grown), false, now + STABLE_AFTER),
            Readiness::Complete
        );
    }

    #[test]
    fn a_file_that_is_written_under_another_name_is_left_alone() {
        let (mut tracker, now) = tracker();
        tracker.record(FileEvent::TreeChanged, now);
        assert_eq!(tracker.readiness(&path(), (None, stamp(1)), true, now), Readiness::Pending);
    }

    #[test]
    fn a_file_without_events_must_stay_the_same_for_a_while() {
        let (mut tracker, now) = tracker();
        assert_eq!(tracker.readiness(&path(), (None, stamp(1)), false, now), Readiness::Pending);
        tracker.scanned(|_| true, false, now);
        assert_eq!(tracker.next_scan(now), Some(now + STABLE_AFTER));
        assert_eq!(
            tracker.readiness(&path(), (None, stamp(2)), false, now + STABLE_AFTER),
            Readiness::Pending,
            "it changed"
        );
        tracker.scanned(|_| true, false, now);
        assert_eq!(
            tracker.readiness(&path(), (None, stamp(2)), false, now + STABLE_AFTER * 2),
            Readiness::Complete
        );
    }

    #[test]
    fn a_file_is_removed_only_when_it_has_been_gone_for_a_while() {
        for event in [FileEvent::Closed(path()), FileEvent::TreeChanged, FileEvent::EventsLost] {
            let (mut tracker, now) = tracker();
            tracker.record(event.clone(), now);
            assert_eq!(
                tracker.readiness(&path(), (stamp(1), None), false, now),
                Readiness::Partial,
                "{event:?}"
            );
            tracker.scanned(|_| true, false, now);
            assert_eq!(tracker.next_scan(now), Some(now + REMOVED_AFTER));
            tracker.record(event, now);
            assert_eq!(
                tracker.readiness(&path(), (None, None), false, now + REMOVED_AFTER / 2),
                Readiness::Pending
            );
            tracker.scanned(|_| true, false, now);
            assert_eq!(
                tracker.readiness(&path(), (None, None), false, now + REMOVED_AFTER),
                Readiness::Complete
            );
            tracker.scanned(|_| false, false, now);
            assert_eq!(tracker.next_scan(now), None);
        }
    }

    #[test]
    fn a_file_that_came_back_and_disappears_again_is_waited_for_again() {
        let (mut tracker, now) = tracker();
        assert_eq!(tracker.readiness(&path(), (stamp(1), None), false, now), Readiness::Partial);
        tracker.record(FileEvent::Closed(path()), now);
        assert_eq!(
            tracker.readiness(&path(), (None, stamp(1)), false, now + REMOVED_AFTER / 2),
            Readiness::Complete
        );
        tracker.scanned(|_| false, false, now);
        assert_eq!(
            tracker.readiness(&path(), (stamp(1), None), false, now + REMOVED_AFTER),
            Readiness::Partial
        );
    }

    #[test]
    fn after_lost_events_no_file_counts_as_closed_or_open() {
        let (mut tracker, now) = tracker();
        tracker.record(FileEvent::Writing(path()), now);
        assert!(tracker.record(FileEvent::EventsLost, now));
        assert_eq!(tracker.readiness(&path(), (None, stamp(1)), false, now), Readiness::Pending);
        assert_eq!(
            tracker.readiness(&path(), (None, stamp(1)), false, now + STABLE_AFTER),
            Readiness::Complete
        );
    }
}
