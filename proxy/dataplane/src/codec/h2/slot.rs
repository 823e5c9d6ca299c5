//! The streams in use on a client connection. Their number determines whether the connection is in use.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::time::Instant;

use super::connection::Connection;
use super::frame::Code;
use crate::codec::limits::Limits;
use crate::codec::usage::Usage;

/// The state that a client connection and its exchanges share. The connection closes when it is dropped.
pub(super) struct Shared {
    pub(super) limits: Rc<Limits>,
    pub(super) connection: Rc<RefCell<Connection>>,
    pub(super) streams: Cell<usize>,
    pub(super) usage: Rc<dyn Usage>,
    /// Whether the peer is a proxy, which may be sent PINGs at any time.
    pub(super) of_proxy: bool,
    /// When the peer was last sent a PING because of a doubt.
    pub(super) asked: Cell<Option<Instant>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.connection.borrow_mut().shut_down(Code::NO_ERROR);
    }
}

/// A stream of the connection that is in use.
pub(super) struct Slot(Rc<Shared>);

impl Slot {
    pub(super) fn new(shared: &Rc<Shared>) -> Self {
        let streams = shared.streams.get();
        shared.streams.set(streams + 1);
        if streams == 0 {
            shared.usage.begins();
        }
        Self(Rc::clone(shared))
    }

    pub(super) fn shared(&self) -> &Rc<Shared> {
        &self.0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let streams = self.0.streams.get() - 1;
        self.0.streams.set(streams);
        if streams == 0 {
            self.0.usage.ends();
        }
    }
}
