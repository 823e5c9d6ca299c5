//! Records why a handler is dropped: its client has reset the stream, with a code that the upstream stream is reset with too.
//!
//! Drop has no arguments, and neither side knows what is dropped (a handler, and within it an exchange with an upstream). All
//! of it happens on one thread, within one call.

use std::cell::Cell;

use super::failure;
use super::frame::Code;

thread_local! {
    static CODE: Cell<Option<u32>> = const { Cell::new(None) };
}

/// While this guard exists, everything that is dropped is dropped because of that reset.
#[derive(Debug)]
pub(super) struct Because(());

impl Because {
    /// Creates the guard for a reset with that code.
    pub(super) fn of_reset(code: Code) -> Self {
        CODE.set(Some(code.into()));
        Self(())
    }
}

impl Drop for Because {
    fn drop(&mut self) {
        CODE.set(None);
    }
}

/// Returns the code to cancel an exchange with, if it differs from CANCEL, which a stream that is dropped is reset with.
pub(super) fn code() -> Option<Code> {
    CODE.get().map(|code| failure::given_up(code.into())).filter(|code| *code != Code::CANCEL)
}
