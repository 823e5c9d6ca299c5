//! Applies the frames of the connection: SETTINGS, GOAWAY, the answers to PING; and sends PING.

use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use super::super::frame::{Code, Error, MAX_WINDOW, Settings, write};
use super::closing::LEAVING;
use super::error::{End, Fault};
use super::{Connection, Role};

/// The payload of a PING that asks whether the peer is there.
const ASKING: [u8; 8] = *b"\0\0asking";

impl Connection {
    pub(super) fn apply_settings(&mut self, settings: &Settings) {
        let violated = |rule| Error::connection(Code::PROTOCOL_ERROR, rule);
        if self.role == Role::Client && settings.enable_push == Some(true) {
            return self.violated_on(0, violated("a server enables push"));
        }
        if let Some(enabled) = settings.enable_connect_protocol {
            if self.peer.extended_connect && !enabled {
                return self.violated_on(0, violated("extended CONNECT was taken back"));
            }
            self.peer.extended_connect = enabled;
        }
        if let Some((lowest, last)) = settings.header_table_size {
            self.encoder.set_table_size(lowest);
            self.encoder.set_table_size(last);
        }
        if let Some(size) = settings.max_frame_size {
            self.peer.frame_size = size;
        }
        match settings.max_concurrent_streams {
            Some(most) => self.peer.concurrent_streams = most,
            None if !self.peer.received => self.peer.concurrent_streams = u32::MAX,
            None => {}
        }
        self.peer.received = true;
        if let Some(window) = settings.initial_window_size
            && !self.resize_windows(window)
        {
            let error = Error::connection(Code::FLOW_CONTROL_ERROR, "a stream's window is above 2^31-1");
            return self.violated_on(0, error);
        }
        write::settings_ack(self.output.frames());
        self.settings_wanted.drain(..).for_each(Waker::wake);
        self.wake_opening();
        self.idle_frame();
    }

    /// Applies a new initial window to all streams (RFC 9113 section 6.9.2). Returns whether all stay within the limit.
    fn resize_windows(&mut self, window: u32) -> bool {
        let change = i64::from(window) - i64::from(self.peer.initial_window);
        self.peer.initial_window = window;
        let mut opened = Vec::new();
        for (index, stream) in self.streams.all() {
            if stream.fault.is_some() {
                // Its window may be above the limit, which it was reset for.
                continue;
            }
            stream.send_window += change;
            if stream.send_window > i64::from(MAX_WINDOW) {
                return false;
            }
            if stream.has_capacity() {
                stream.writer.wake();
            }
            opened.push(index);
        }
        opened.into_iter().for_each(|index| self.schedule(index));
        true
    }

    pub(super) fn apply_goaway(&mut self, last: u32, code: Code) {
        if self.peer_leaves.is_some_and(|before| last > before) {
            let error = Error::connection(Code::PROTOCOL_ERROR, "the last stream of GOAWAY has increased");
            return self.violated_on(0, error);
        }
        self.peer_leaves = Some(last);
        self.peer_code = code;
        if self.role == Role::Server {
            return self.idle_frame();
        }
        let above: Vec<u32> =
            self.streams.all().filter(|(_, stream)| stream.id > last).map(|(index, _)| index).collect();
        for index in above {
            self.lose(index, Fault::NotProcessed);
        }
        self.opening.wake_all();
        self.driver.wake();
        self.idle_frame();
    }

    pub(super) fn apply_pong(&mut self, payload: [u8; 8]) {
        match payload {
            LEAVING => self.leave(),
            ASKING => {
                self.pinged_since = None;
                self.pong.wake();
            }
            _ => self.idle_frame(),
        }
    }

    /// Sends a PING, unless one is unanswered. Returns whether one was sent.
    pub(in super::super) fn ping(&mut self, now: Instant) -> bool {
        if self.pinged_since.is_some() || self.end.is_some() {
            return false;
        }
        self.pinged_since = Some(now);
        write::ping(self.output.frames(), ASKING);
        self.driver.wake();
        true
    }

    /// Ready when no PING is unanswered. Never ready if the connection has ended.
    pub(in super::super) fn poll_answered(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.pinged_since.is_none() {
            return Poll::Ready(());
        }
        self.pong.wait(cx);
        Poll::Pending
    }

    /// Ready when the peer's SETTINGS were received: whether it serves extended CONNECT (RFC 8441 section 3).
    pub(in super::super) fn poll_extended_connect(&mut self, cx: &Context<'_>) -> Poll<Result<bool, End>> {
        if let Some(end) = &self.end {
            return Poll::Ready(Err(end.clone()));
        }
        if self.peer.received {
            return Poll::Ready(Ok(self.peer.extended_connect));
        }
        if !self.settings_wanted.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.settings_wanted.push(cx.waker().clone());
        }
        Poll::Pending
    }
}
