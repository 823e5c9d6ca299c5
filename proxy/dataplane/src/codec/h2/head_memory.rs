//! The memory of request heads. With HPACK one byte may stand for a field of kilobytes (RFC 7541 section 6.1), so a client
//! could make the proxy hold hundreds of bytes for each byte that it sends.
//!
//! The same holds for what waits to be read: trailers, and interim responses of a server.
//!
//! A worker holds heads up to [`FREE`]. Above that, a connection may hold [`RATIO`] bytes for each header byte that it has sent
//! during its lifetime; more is refused. While a request is processed, its fields cost up to twice what is counted here.

use std::cell::Cell;
use std::rc::Rc;

use crate::codec::limits::FieldSize;

/// Bytes of heads that a worker holds regardless of how many bytes its clients have sent.
const FREE: usize = 8 * 1024 * 1024;
/// Bytes of heads for each header byte that a connection has sent.
const RATIO: usize = 20;
/// The cost of a field in addition to what [`FieldSize`] counts: its entry in a map.
const ENTRY: usize = 72;

thread_local! {
    /// The bytes that this worker holds for all its connections.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// The heads of one connection.
#[derive(Debug, Default)]
pub(super) struct HeadMemory(Rc<Cell<usize>>);

/// A head, which is counted until it is dropped.
#[derive(Debug)]
pub(super) struct HeadPermit {
    bytes: usize,
    connection: Rc<Cell<usize>>,
}

impl HeadMemory {
    /// Accounts for one more head of a connection that has sent `sent` header bytes. Returns `None` if that is too much.
    pub(super) fn hold(&self, size: FieldSize, sent: usize) -> Option<HeadPermit> {
        let bytes = size.bytes + size.fields * ENTRY;
        let (of_worker, of_connection) = (HELD.get() + bytes, self.0.get() + bytes);
        if of_worker > FREE && of_connection > sent.saturating_mul(RATIO) {
            return None;
        }
        HELD.set(of_worker);
        self.0.set(of_connection);
        Some(HeadPermit { bytes, connection: Rc::clone(&self.0) })
    }
}

impl Drop for HeadPermit {
    fn drop(&mut self) {
        HELD.set(HELD.get() - self.bytes);
        self.connection.set(self.connection.get() - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn above_what_is_free_a_connection_holds_what_it_sent_for() {
        let size = FieldSize { fields: 100, bytes: 60 * 1024 };
        let (greedy, honest) = (HeadMemory::default(), HeadMemory::default());
        let held: Vec<_> = std::iter::from_fn(|| greedy.hold(size, 1000)).take(100_000).collect();
        let cost = size.bytes + 100 * ENTRY;
        assert_eq!(held.len(), FREE / cost, "of nearly nothing sent, what is free");
        assert!(
            honest.hold(size, size.bytes).is_some(),
            "a peer is served while it has sent what it wants held"
        );
        assert!(
            greedy.hold(size, held.len() * cost).is_some(),
            "and so is this one, once it has sent enough"
        );
        drop(held);
        assert_eq!((HELD.get(), greedy.0.get()), (0, 0));
    }
}
