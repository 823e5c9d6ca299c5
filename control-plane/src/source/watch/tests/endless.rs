//! A file that changes without end is delivered in time, whichever way it is written, and never half. On a virtual clock.

use std::time::{Duration, Instant};

use crate::source::debounce::{DEBOUNCE, MAX_DEBOUNCE};
use crate::source::write_tracker::{FileEvent, Readiness, Stamp, WriteTracker};

const MILLISECOND: Duration = Duration::from_millis(1);
const FILE: &str = "app.yaml";

/// What a writer does in a millisecond: the events, and whether the file is whole afterwards.
type Step = (Vec<FileEvent>, bool);

/// Runs the tracker for ten seconds of steps. Returns the longest time that a change waited, and the number of scans that read
/// the file. Panics if one reads it half.
fn run(step: impl Fn(u32) -> Step) -> (Duration, u32) {
    let start = Instant::now();
    let mut tracker = WriteTracker::default();
    tracker.scanned(|_| false, false, start);
    let stamp = |number: u32| Stamp { inode: 1, length: number.into(), modified: (0, 0), changed: (0, 0) };
    let (mut seen, mut waiting, mut longest, mut reads) = (stamp(0), None, Duration::ZERO, 0);
    for number in 1..=10_000 {
        let now = start + MILLISECOND * number;
        let (events, whole) = step(number);
        if whole && !events.is_empty() {
            waiting.get_or_insert(now);
        }
        for event in events {
            tracker.record(event, now);
        }
        if tracker.due().is_none_or(|due| due > now) {
            continue;
        }
        let readiness = tracker.readiness(FILE.as_ref(), (Some(seen), Some(stamp(number))), false, now);
        if readiness == Readiness::Complete {
            assert!(whole, "it is read half written");
            seen = stamp(number);
            reads += 1;
            longest = longest.max(now - waiting.take().unwrap_or(now));
        }
        tracker.scanned(|_| readiness == Readiness::Pending, false, now);
    }
    let unread = waiting.map_or(Duration::ZERO, |since: Instant| start + MILLISECOND * 10_000 - since);
    (longest.max(unread), reads)
}

#[test]
fn a_file_that_is_replaced_a_hundred_times_a_second_is_read_every_half_second() {
    let (longest, reads) = run(|at| match at % 10 {
        0 => (vec![FileEvent::Closed(FILE.into()), FileEvent::TreeChanged], true),
        _ => (vec![], true),
    });
    assert_eq!((longest, reads), (MAX_DEBOUNCE, 19));
}

#[test]
fn a_file_that_is_being_written_when_its_scan_is_due_is_read_when_its_writer_closes_it() {
    // Open for 7 of 10 ms.
    let (longest, reads) = run(|at| match at % 10 {
        0 => (vec![FileEvent::Writing(FILE.into())], false),
        1..7 => (vec![], false),
        7 => (vec![FileEvent::Closed(FILE.into())], true),
        _ => (vec![], true),
    });
    assert!(longest <= MAX_DEBOUNCE + MILLISECOND * 7, "{longest:?}");
    assert!(reads >= 19, "{reads}");
}

#[test]
fn a_file_that_rests_is_read_after_the_shorter_time() {
    let (longest, reads) = run(|at| match at % 200 {
        0 => (vec![FileEvent::Closed(FILE.into())], true),
        _ => (vec![], true),
    });
    assert_eq!((longest, reads), (DEBOUNCE, 49));
}
