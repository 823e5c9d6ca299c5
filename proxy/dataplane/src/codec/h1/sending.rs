//! A request on its way out on an HTTP/1 connection, while its response is awaited and read.

use std::cell::RefCell;
use std::task::{Context, Poll};

use super::buffered_stream::BufferedStream;
use super::transfer::{Transfer, TransferError};
use crate::codec::limits::CONTINUE_WAIT;
use crate::codec::watchdog::Watchdog;

/// One request, whose head was written already.
#[derive(Debug)]
pub(super) struct Sending {
    transfer: Transfer,
    /// The body is held back until a 100 comes or this passes.
    held: Option<Watchdog>,
}

impl Sending {
    pub(super) fn new(transfer: Transfer, wants_continue: bool) -> Self {
        let held = wants_continue.then(|| {
            let mut watchdog = Watchdog::new();
            watchdog.set(CONTINUE_WAIT);
            watchdog
        });
        Self { transfer, held }
    }

    /// The 100 has come: the body is sent from the next poll on.
    pub(super) fn let_go(&mut self) {
        self.held = None;
    }

    /// Goes on; ready when all of it was handed to the kernel.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        wire: &RefCell<Option<BufferedStream>>,
    ) -> Poll<Result<(), TransferError>> {
        if let Some(watchdog) = &mut self.held {
            if watchdog.poll_passed(cx).is_pending() {
                if let Some(wire) = &mut *wire.borrow_mut() {
                    // An error of writing comes back when the response is read.
                    let _ = wire.poll_flush(cx);
                }
                return Poll::Pending;
            }
            self.held = None;
        }
        self.transfer.poll(cx, wire)
    }
}
