//! A stream of a connection, as its handler or exchange holds it. The stream is released when the last handle is dropped; the
//! connection counts them, so that none is allocated.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;

use super::cause;
use super::connection::{Connection, Received, ResponseSection, StreamError, StreamKey};
use super::frame::Code;
use super::hpack::Pseudo;

/// A stream. Each method is the one of [`Connection`] with that name.
pub(super) struct Handle {
    connection: Rc<RefCell<Connection>>,
    key: StreamKey,
}

impl Handle {
    /// Takes over the stream `key` of `connection`.
    pub(super) fn new(connection: &Rc<RefCell<Connection>>, key: StreamKey) -> Self {
        Self { connection: Rc::clone(connection), key }
    }

    pub(super) fn id(&self) -> u32 {
        self.key.id()
    }

    pub(super) fn poll_head(&self, cx: &Context<'_>) -> Poll<Result<ResponseSection, StreamError>> {
        self.connection.borrow_mut().poll_head(self.key, cx)
    }

    pub(super) fn poll_receive(&self, cx: &Context<'_>) -> Poll<Result<Received, StreamError>> {
        self.connection.borrow_mut().poll_receive(self.key, cx)
    }

    pub(super) fn poll_reset(&self, cx: &Context<'_>) -> Poll<StreamError> {
        self.connection.borrow_mut().poll_reset(self.key, cx)
    }

    pub(super) fn send_head(
        &self,
        pseudo: Pseudo<'_>,
        fields: &HeaderMap,
        end: bool,
    ) -> Result<(), StreamError> {
        self.connection.borrow_mut().send_head(self.key, pseudo, fields, end)
    }

    pub(super) fn poll_capacity(&self, cx: &Context<'_>) -> Poll<Result<(), StreamError>> {
        self.connection.borrow_mut().poll_capacity(self.key, cx)
    }

    pub(super) fn send_data(&self, data: Bytes, end: bool) -> Result<(), StreamError> {
        self.connection.borrow_mut().send_data(self.key, data, end)
    }

    pub(super) fn send_trailers(&self, fields: HeaderMap) -> Result<(), StreamError> {
        self.connection.borrow_mut().send_trailers(self.key, fields)
    }

    pub(super) fn queued(&self) -> usize {
        self.connection.borrow_mut().queued(self.key)
    }

    pub(super) fn poll_sent(&self, cx: &Context<'_>) -> Poll<Result<(), StreamError>> {
        self.connection.borrow_mut().poll_sent(self.key, cx)
    }

    pub(super) fn reset(&self, code: Code) {
        self.connection.borrow_mut().reset(self.key, code);
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        self.connection.borrow_mut().hold(self.key);
        Self::new(&self.connection, self.key)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut connection = self.connection.borrow_mut();
        if let Some(code) = cause::code() {
            connection.cancel(self.key, code);
        }
        connection.release(self.key);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("key", &self.key).finish_non_exhaustive()
    }
}
