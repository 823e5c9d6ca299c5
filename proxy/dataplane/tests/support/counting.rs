//! An allocator that counts what the workers hold, and how often they allocate. The file of a test that uses it has no other tests that run at the same time, since it
//! counts for the whole process.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// Bytes that are allocated by the workers, and the most since [`mark`].
static LIVE: AtomicI64 = AtomicI64::new(0);
static PEAK: AtomicI64 = AtomicI64::new(0);
/// How often the workers have allocated.
static CALLS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether this thread is the test's own.
    static OWN: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Excludes what the calling thread allocates.
pub(crate) fn exclude_this_thread() {
    OWN.set(true);
}

/// Returns how often the workers have allocated.
pub(crate) fn calls() -> u64 {
    CALLS.load(Relaxed)
}

/// Returns how many bytes the workers hold.
pub(crate) fn live() -> i64 {
    LIVE.load(Relaxed)
}

/// Returns how many bytes the workers hold, from which [`growth`] counts.
pub(crate) fn mark() -> i64 {
    let live = live();
    PEAK.store(live, Relaxed);
    live
}

/// Returns how many bytes more than `mark` the workers have held at most.
pub(crate) fn growth(mark: i64) -> i64 {
    PEAK.load(Relaxed) - mark
}

fn count(bytes: i64) {
    if !OWN.get() {
        let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
        PEAK.fetch_max(live, Relaxed);
    }
}

fn size(layout: Layout) -> i64 {
    i64::try_from(layout.size()).unwrap_or_default()
}

// SAFETY: every call goes to the system's allocator as it is. Counting allocates nothing and cannot unwind: the thread-local
// has no destructor.
#[allow(unsafe_code, reason = "an allocator cannot be implemented without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(u64::from(!OWN.get()), Relaxed);
        count(size(layout));
        // SAFETY: the caller's promises are those that the system's allocator requires.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-size(layout));
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}
