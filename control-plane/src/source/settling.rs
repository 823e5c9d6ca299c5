//! Which files may be read: what is being written is not taken half.
//!
//! The kernel says when a file is written to and when who wrote it closes it; between the two it is left alone. A rename
//! and a link that is replaced are complete at once. Where nothing is heard of a change (a network file system, notices
//! that were lost) the file must stay as it is for a while. A file that goes away is often about to come back, or to turn
//! up under another name (editors, `git checkout`, a mount): what it held gives way to other files at once, and is taken
//! away when the file has been gone for a while. Reads no clock and no file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a changed file of which nothing was heard must stay as it is.
pub(super) const SETTLED: Duration = Duration::from_secs(2);
/// How long a file must be gone until what it held is taken away.
pub(super) const GONE: Duration = Duration::from_secs(1);
/// How long a file that is not closed must not be written to until it is taken all the same: what it says then adds and
/// changes, and takes nothing away.
pub(super) const LEFT_OPEN: Duration = Duration::from_secs(10);

/// What changes when a file does: even one rewritten with the same length within a clock tick has another inode or
/// change time.
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

/// What was heard of a path below the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Notice {
    /// It is being written.
    Written(PathBuf),
    /// It is as its writer wants it, or it is gone.
    Complete(PathBuf),
    /// Its attributes changed.
    Touched(PathBuf),
    /// A folder or a link changed, and with it what others lead to.
    Structure,
    /// Some notices were lost: nothing is known.
    Lost,
}

/// What may be done with a changed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Take,
    /// It may be half, or gone for a moment only: what it does not say stays.
    TakePart,
    Wait,
}

/// What is known of the files that changed since the last look.
#[derive(Debug, Default)]
pub(super) struct Settling {
    looked: bool,
    written: BTreeMap<PathBuf, Written>,
    complete: BTreeSet<PathBuf>,
    structure: bool,
    /// Changed, without a notice: what was seen, and since when.
    unheard: BTreeMap<PathBuf, (Stamp, Instant)>,
    /// Files that are gone, since when.
    gone: BTreeMap<PathBuf, Instant>,
}

#[derive(Debug)]
struct Written {
    last: Instant,
    taken: bool,
}

impl Settling {
    /// Takes note; true when it is worth a look.
    pub(super) fn notice(&mut self, notice: Notice, now: Instant) -> bool {
        match notice {
            Notice::Written(path) => {
                self.complete.remove(&path);
                self.written.insert(path, Written { last: now, taken: false });
                false
            }
            Notice::Complete(path) => {
                self.written.remove(&path);
                self.complete.insert(path)
            }
            Notice::Touched(path) => !self.written.contains_key(&path) && self.complete.insert(path),
            Notice::Structure => {
                self.structure = true;
                true
            }
            Notice::Lost => {
                self.written.clear();
                self.complete.clear();
                true
            }
        }
    }

    /// The paths that are being written.
    pub(super) fn written(&self) -> impl Iterator<Item = &Path> {
        self.written.keys().map(PathBuf::as_path)
    }

    /// The paths whose writers are done.
    pub(super) fn complete(&self) -> impl Iterator<Item = &Path> {
        self.complete.iter().map(PathBuf::as_path)
    }

    /// What may be done with a file that differs from what was `seen` last; no stamp: it is gone. `written` says that it is
    /// being written under another name.
    pub(super) fn judge(
        &mut self,
        path: &Path,
        (seen, stamp): (Option<Stamp>, Option<Stamp>),
        written: bool,
        now: Instant,
    ) -> Verdict {
        if !self.looked {
            return Verdict::Take;
        }
        let Some(stamp) = stamp else { return self.judge_gone(path, now) };
        self.gone.remove(path);
        if let Some(open) = self.written.get_mut(path) {
            let part = !open.taken && now.saturating_duration_since(open.last) >= LEFT_OPEN;
            open.taken |= part;
            return if part { Verdict::TakePart } else { Verdict::Wait };
        }
        if written {
            return Verdict::Wait;
        }
        // A folder or link that changed leads to another file. The same file with new content is another matter: a link
        // may lead out of the directory, and nothing is heard of a writer there.
        let another = seen.is_none_or(|seen| seen.inode != stamp.inode);
        if self.complete.contains(path) || (self.structure && another) {
            return Verdict::Take;
        }
        match self.unheard.get(path) {
            Some((seen, since)) if *seen == stamp => match now.saturating_duration_since(*since) >= SETTLED {
                true => Verdict::Take,
                false => Verdict::Wait,
            },
            _ => {
                self.unheard.insert(path.to_owned(), (stamp, now));
                Verdict::Wait
            }
        }
    }

    fn judge_gone(&mut self, path: &Path, now: Instant) -> Verdict {
        match self.gone.get(path) {
            None => {
                self.gone.insert(path.to_owned(), now);
                Verdict::TakePart
            }
            Some(since) if now.saturating_duration_since(*since) < GONE => Verdict::Wait,
            Some(_) => {
                self.gone.remove(path);
                Verdict::Take
            }
        }
    }

    /// A look is over; `waits` says of which files it left some for later.
    pub(super) fn looked(&mut self, waits: impl Fn(&Path) -> bool) {
        self.looked = true;
        self.complete.clear();
        self.structure = false;
        self.unheard.retain(|path, _| waits(path));
    }

    /// When to look again, if nothing is heard before.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let unheard = self.unheard.values().map(|(_, since)| *since + SETTLED);
        let open = self.written.values().filter(|open| !open.taken).map(|open| open.last + LEFT_OPEN);
        let gone = self.gone.values().map(|since| *since + GONE);
        unheard.chain(open).chain(gone).filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(number: u64) -> Option<Stamp> {
        Some(Stamp { inode: number, length: number, modified: (0, 0), changed: (0, 0) })
    }

    /// A directory that was looked at once.
    fn settling() -> (Settling, Instant) {
        let mut settling = Settling::default();
        settling.looked(|_| false);
        (settling, Instant::now())
    }

    fn path() -> PathBuf {
        "a.yaml".into()
    }

    #[test]
    fn at_first_everything_is_taken_as_it_is() {
        let verdict = Settling::default().judge(&path(), (None, stamp(1)), true, Instant::now());
        assert_eq!(verdict, Verdict::Take);
    }

    #[test]
    fn a_file_is_taken_when_its_writer_closes_it_however_long_it_pauses() {
        let (mut settling, now) = settling();
        let second = Duration::from_secs(1);
        assert!(!settling.notice(Notice::Written(path()), now));
        assert_eq!(settling.judge(&path(), (None, stamp(0)), false, now + second), Verdict::Wait);
        assert!(!settling.notice(Notice::Touched(path()), now + second), "is still open");
        assert!(!settling.notice(Notice::Written(path()), now + second * 9));
        assert_eq!(settling.judge(&path(), (None, stamp(1)), false, now + second * 18), Verdict::Wait);
        assert!(settling.notice(Notice::Complete(path()), now + second * 18));
        assert_eq!(settling.judge(&path(), (None, stamp(1)), false, now + second * 18), Verdict::Take);
    }

    #[test]
    fn a_file_that_nobody_closes_is_taken_once_in_part_when_it_is_quiet() {
        let (mut settling, now) = settling();
        settling.notice(Notice::Written(path()), now);
        assert_eq!(settling.next(now), Some(now + LEFT_OPEN));
        let later = now + LEFT_OPEN;
        assert_eq!(settling.judge(&path(), (None, stamp(1)), false, later), Verdict::TakePart);
        assert_eq!(settling.judge(&path(), (None, stamp(1)), false, later), Verdict::Wait);
        assert_eq!(settling.next(later), None);
        settling.notice(Notice::Written(path()), later);
        assert_eq!(settling.judge(&path(), (None, stamp(2)), false, later + LEFT_OPEN), Verdict::TakePart);
        settling.notice(Notice::Complete(path()), later);
        assert_eq!(settling.judge(&path(), (None, stamp(2)), false, later), Verdict::Take);
    }

    #[test]
    fn a_rename_and_a_link_that_is_set_anew_are_complete_at_once() {
        for (notice, stamp) in [
            (Notice::Complete(path()), stamp(1)),
            (Notice::Touched(path()), stamp(1)),
            (Notice::Structure, stamp(1)),
        ] {
            let (mut settling, now) = settling();
            let seen = self::stamp(9);
            assert!(settling.notice(notice.clone(), now));
            assert_eq!(settling.judge(&path(), (seen, stamp), false, now), Verdict::Take, "{notice:?}");
            settling.looked(|_| false);
            assert_eq!(
                settling.judge(&path(), (seen, stamp), false, now),
                Verdict::Wait,
                "{notice:?} counts once"
            );
        }
    }

    #[test]
    fn a_change_elsewhere_does_not_complete_a_file_that_nothing_was_heard_of() {
        let (mut settling, now) = settling();
        let grown = Some(Stamp { length: 9, ..stamp(1).unwrap() });
        settling.notice(Notice::Structure, now);
        assert_eq!(settling.judge(&path(), (stamp(1), grown), false, now), Verdict::Wait);
        settling.looked(|_| true);
        assert_eq!(settling.judge(&path(), (stamp(1), grown), false, now + SETTLED), Verdict::Take);
    }

    #[test]
    fn a_file_that_is_written_under_another_name_is_left_alone() {
        let (mut settling, now) = settling();
        settling.notice(Notice::Structure, now);
        assert_eq!(settling.judge(&path(), (None, stamp(1)), true, now), Verdict::Wait);
    }

    #[test]
    fn what_nothing_was_heard_of_must_stay_as_it_is_for_a_while() {
        let (mut settling, now) = settling();
        assert_eq!(settling.judge(&path(), (None, stamp(1)), false, now), Verdict::Wait);
        settling.looked(|_| true);
        assert_eq!(settling.next(now), Some(now + SETTLED));
        assert_eq!(
            settling.judge(&path(), (None, stamp(2)), false, now + SETTLED),
            Verdict::Wait,
            "it changed"
        );
        settling.looked(|_| true);
        assert_eq!(settling.judge(&path(), (None, stamp(2)), false, now + SETTLED * 2), Verdict::Take);
    }

    #[test]
    fn a_file_that_goes_away_takes_nothing_with_it_until_it_has_been_gone_for_a_while() {
        for notice in [Notice::Complete(path()), Notice::Structure, Notice::Lost] {
            let (mut settling, now) = settling();
            settling.notice(notice.clone(), now);
            assert_eq!(
                settling.judge(&path(), (stamp(1), None), false, now),
                Verdict::TakePart,
                "{notice:?}"
            );
            settling.looked(|_| true);
            assert_eq!(settling.next(now), Some(now + GONE));
            settling.notice(notice, now);
            assert_eq!(settling.judge(&path(), (None, None), false, now + GONE / 2), Verdict::Wait);
            settling.looked(|_| true);
            assert_eq!(settling.judge(&path(), (None, None), false, now + GONE), Verdict::Take);
            settling.looked(|_| false);
            assert_eq!(settling.next(now), None);
        }
    }

    #[test]
    fn a_file_that_came_back_and_goes_away_again_is_waited_for_anew() {
        let (mut settling, now) = settling();
        assert_eq!(settling.judge(&path(), (stamp(1), None), false, now), Verdict::TakePart);
        settling.notice(Notice::Complete(path()), now);
        assert_eq!(settling.judge(&path(), (None, stamp(1)), false, now + GONE / 2), Verdict::Take);
        settling.looked(|_| false);
        assert_eq!(settling.judge(&path(), (stamp(1), None), false, now + GONE), Verdict::TakePart);
    }

    #[test]
    fn after_lost_notices_nothing_is_taken_for_closed_or_open() {
        let (mut settling, now) = settling();
        settling.notice(Notice::Written(path()), now);
        assert!(settling.notice(Notice::Lost, now));
        assert_eq!(settling.judge(&path(), (None, stamp(1)), false, now), Verdict::Wait);
        assert_eq!(settling.judge(&path(), (None, stamp(1)), false, now + SETTLED), Verdict::Take);
    }
}
