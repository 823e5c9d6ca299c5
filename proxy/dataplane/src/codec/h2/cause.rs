//! Why a handler is dropped: its client has reset the stream, with a code that the upstream stream is reset with too.
//!
//! A drop has no arguments, and what is dropped (a handler, and somewhere in it an exchange with an upstream) is known to
//! neither side. It all happens on one thread, within one call.

use std::cell::Cell;

use h2::Reason as Code;

use super::failure;

thread_local! {
    static CODE: Cell<Option<u32>> = const { Cell::new(None) };
}

/// While it lives, what is dropped is dropped because of that reset.
#[derive(Debug)]
pub(super) struct Because(());

impl Because {
    /// Of a reset with that code.
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

/// The code to give an exchange up with, if it is another than the CANCEL that h2 sends by itself.
pub(super) fn code() -> Option<Code> {
    CODE.get().map(|code| failure::given_up(code.into())).filter(|code| *code != Code::CANCEL)
}
