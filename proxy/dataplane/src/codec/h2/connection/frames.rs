//! Applies the frames that were received: DATA, RST_STREAM, WINDOW_UPDATE here, the others in `heads` and `control`.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::time::Instant;

use super::super::frame::{Code, Error, Frame, MAX_WINDOW, PREFACE, write};
use super::error::Fault;
use super::floods::{Floods, TINY};
use super::stream::{Receiving, Sending};
use super::streams::{Found, StreamKey};
use super::{Connection, Role};

/// The age below which a reset of a request without a response counts as early. The bound on concurrent streams bounds the
/// rate of the others; a timeout is longer.
const EARLY: Duration = Duration::from_millis(100);
/// Keys of streams that are gone, which the schedule may hold besides one for each stream.
const DEAD_KEYS: usize = 64;

impl Connection {
    /// Processes the bytes of `read` up to the last complete frame. Returns whether it stopped early because requests wait for
    /// [`Self::accept`]: then all of them are to be accepted and this called again. Requests are to be accepted after each call.
    ///
    /// A violation ends the connection, see [`Self::end`].
    pub(in super::super) fn receive(&mut self, read: &mut BytesMut, now: Instant) -> bool {
        self.now = now;
        self.heard = now;
        if self.awaits_preface && !self.take_preface(read) {
            return false;
        }
        if self.role == Role::Client && !self.peer.received && read.starts_with(b"HTTP/1") {
            self.violated_on(0, Error::connection(Code::PROTOCOL_ERROR, "it answers in HTTP/1"));
        }
        let mut complete = false;
        while self.end.is_none() {
            if self.accepting.is_full() {
                return true;
            }
            match self.reader.next(read) {
                Ok(Some(frame)) => {
                    complete = true;
                    self.apply(frame);
                }
                Ok(None) => {
                    self.note_owed(complete, read);
                    return false;
                }
                Err(error) => self.violated(error),
            }
        }
        read.clear();
        false
    }

    /// Takes the client's preface (RFC 9113 section 3.4). Returns whether it is complete.
    fn take_preface(&mut self, read: &mut BytesMut) -> bool {
        let length = read.len().min(PREFACE.len());
        if read[..length] != PREFACE[..length] {
            self.violated_on(0, Error::connection(Code::PROTOCOL_ERROR, "no HTTP/2 preface"));
            return false;
        }
        if length == PREFACE.len() {
            read.advance(length);
            self.awaits_preface = false;
        }
        !self.awaits_preface
    }

    /// Notes since when the rest of what is read as a whole is outstanding. `complete` is whether a frame was completed; `rest`
    /// are the bytes behind the last one. DATA does not count: the reader of the body waits for it.
    fn note_owed(&mut self, complete: bool, rest: &[u8]) {
        let within_a_block = self.reader.is_within_a_block();
        if complete && !within_a_block && self.peer.received {
            self.owed_since = None;
        }
        let within_a_frame = rest.get(3).map_or(!rest.is_empty(), |kind| *kind != 0);
        if (within_a_frame || within_a_block || !self.peer.received) && self.owed_since.is_none() {
            self.owed_since = Some(self.now);
        } else if !within_a_frame && !within_a_block && self.peer.received {
            self.owed_since = None;
        }
    }

    fn apply(&mut self, frame: Frame<'_>) {
        if !self.peer.received && !matches!(frame, Frame::Settings(_)) {
            let error = Error::connection(Code::PROTOCOL_ERROR, "the first frame is not SETTINGS");
            return self.violated_on(0, error);
        }
        match frame {
            Frame::Data { stream, data, charged, end } => self.apply_data(stream, data, charged, end),
            Frame::Headers { stream, block, end, depends_on_itself } => {
                self.apply_headers(stream, &block, end, depends_on_itself);
            }
            Frame::Reset { stream, code } => self.apply_reset(stream, code),
            Frame::WindowUpdate { stream, increment } => self.apply_window_update(stream, increment),
            Frame::Settings(settings) => self.apply_settings(&settings),
            Frame::SettingsAck | Frame::Ignored => self.idle_frame(),
            Frame::Ping(payload) => {
                write::pong(self.output.frames(), payload);
                self.idle_frame();
            }
            Frame::Pong(payload) => self.apply_pong(payload),
            Frame::GoAway { last, code, .. } => self.apply_goaway(last, code),
            Frame::PriorityUpdate { stream, priority } => {
                if self.role == Role::Client {
                    let error = Error::connection(Code::PROTOCOL_ERROR, "a server sent PRIORITY_UPDATE");
                    return self.violated_on(0, error);
                }
                if let Found::Stream(index) = self.streams.find(stream)
                    && let Some(stream) = self.streams.at(index)
                {
                    stream.priority = priority;
                }
                self.idle_frame();
            }
        }
    }

    /// Counts a frame that has no effect on a stream.
    pub(super) fn idle_frame(&mut self) {
        if !self.floods.idle_frame(self.now) {
            self.flooded("too many frames without effect");
        }
    }

    fn apply_data(&mut self, id: u32, data: Bytes, charged: u32, end: bool) {
        if !self.receiving.receive(charged, self.now) {
            let error = Error::connection(Code::FLOW_CONTROL_ERROR, "more DATA than the connection's window");
            return self.violated_on(id, error);
        }
        let index = match self.streams.find(id) {
            Found::Stream(index) => index,
            Found::Reset => {
                if charged == 0 && !end {
                    self.idle_frame();
                }
                return self.consumed(charged);
            }
            Found::Idle if self.is_beyond_the_last(id) => return self.consumed(charged),
            Found::Idle => {
                let error = Error::connection(Code::PROTOCOL_ERROR, "DATA on a stream that was never opened");
                return self.violated_on(id, error);
            }
            Found::Closed => {
                let error = Error::connection(Code::STREAM_CLOSED, "DATA on a closed stream");
                return self.violated_on(id, error);
            }
        };
        // Cannot fail: the index was just found.
        let Some(stream) = self.streams.at(index) else { return };
        if stream.fault.is_some_and(Fault::was_sent) {
            if charged == 0 && !end {
                self.idle_frame();
            }
            return self.consumed(charged);
        }
        let length = data.len() as u32;
        let violation = if stream.receiving == Receiving::Ended || stream.fault.is_some() {
            Some((Code::STREAM_CLOSED, "DATA after the end of the message"))
        } else if stream.receiving == Receiving::Head {
            Some((Code::PROTOCOL_ERROR, "DATA before the head of the response"))
        } else {
            stream.window -= i64::from(charged);
            let outstanding = stream.outstanding.map(|left| left.checked_sub(u64::from(length)));
            match outstanding {
                _ if stream.window < 0 => {
                    Some((Code::FLOW_CONTROL_ERROR, "more DATA than the stream's window"))
                }
                Some(None) => Some((Code::PROTOCOL_ERROR, "more DATA than content-length")),
                Some(Some(1..)) if end => Some((Code::PROTOCOL_ERROR, "less DATA than content-length")),
                Some(left) => {
                    stream.outstanding = left;
                    None
                }
                None => None,
            }
        };
        if let Some((code, rule)) = violation {
            self.consumed(charged);
            return self.closed_violated(index, code, rule);
        }
        let (held, idle) = (stream.is_held(), data.is_empty() && !end);
        let tiny = length < TINY;
        if held && !data.is_empty() {
            stream.received(data, tiny);
        }
        let too_tiny = !Floods::allow_tiny(stream.tiny);
        if end {
            stream.receiving = Receiving::Ended;
        }
        stream.reader.wake();
        // Padding is consumed at once, and so is what nobody reads.
        let consumed = if held { charged - length } else { charged };
        if consumed > 0 {
            if let Some(increment) = stream.consumed(consumed) {
                write::window_update(self.output.frames(), id, increment);
            }
            self.consumed(consumed);
        }
        if end {
            self.settle(index);
        }
        if idle {
            self.idle_frame();
        }
        if too_tiny {
            self.stream_violated(index, Code::ENHANCE_YOUR_CALM, "too many tiny DATA frames");
        }
    }

    /// Handles a violation on a stream that may be closed: then RST_STREAM is sent nonetheless.
    pub(super) fn closed_violated(&mut self, index: u32, code: Code, rule: &'static str) {
        let closed = self.streams.at(index).filter(|stream| stream.is_closed()).map(|stream| stream.id);
        if let Some(id) = closed {
            write::rst_stream(self.output.frames(), id, code);
        }
        self.stream_violated(index, code, rule);
    }

    /// Records bytes of the connection's window that were consumed.
    pub(super) fn consumed(&mut self, bytes: u32) {
        if bytes > 0
            && let Some(increment) = self.receiving.consume(bytes)
            && self.end.is_none()
        {
            write::window_update(self.output.frames(), 0, increment);
            self.driver.wake();
        }
    }

    fn apply_reset(&mut self, id: u32, code: Code) {
        match self.streams.find(id) {
            Found::Idle if self.is_beyond_the_last(id) => {}
            Found::Idle => {
                let error =
                    Error::connection(Code::PROTOCOL_ERROR, "RST_STREAM on a stream that was never opened");
                self.violated_on(id, error);
            }
            Found::Reset | Found::Closed => self.idle_frame(),
            Found::Stream(index) => {
                let Some(stream) = self.streams.at(index) else { return };
                if stream.receiving == Receiving::Ended && code == Code::NO_ERROR && self.role == Role::Client
                {
                    // The response is complete and needs no more of the request (RFC 9113 section 8.1).
                    stream.drop_queue();
                    stream.sending = Sending::Ended;
                    stream.wake();
                    return self.settle(index);
                }
                let early = stream.fault.is_none()
                    && stream.sending == Sending::Head
                    && self.now.saturating_duration_since(stream.opened_at) < EARLY;
                self.lose(index, Fault::Reset(code));
                let unseen = self.drop_unseen(id);
                if (unseen || early) && !self.floods.early_reset(self.now) {
                    self.flooded("too many resets of what was just begun");
                }
            }
        }
    }

    fn apply_window_update(&mut self, id: u32, increment: u32) {
        if id == 0 {
            if !self.sending.grow(increment) {
                let error =
                    Error::connection(Code::FLOW_CONTROL_ERROR, "the connection's window is above 2^31-1");
                self.violated_on(0, error);
            }
        } else {
            match self.streams.find(id) {
                Found::Stream(index) => self.grow(index, increment),
                Found::Idle if !self.is_beyond_the_last(id) => {
                    let rule = "WINDOW_UPDATE on a stream that was never opened";
                    self.violated_on(id, Error::connection(Code::PROTOCOL_ERROR, rule));
                }
                Found::Idle | Found::Reset | Found::Closed => {}
            }
        }
        if increment < TINY {
            self.idle_frame();
        }
    }

    fn grow(&mut self, index: u32, increment: u32) {
        let Some(stream) = self.streams.at(index).filter(|stream| stream.fault.is_none()) else { return };
        stream.send_window += i64::from(increment);
        if stream.send_window > i64::from(MAX_WINDOW) {
            return self.stream_violated(
                index,
                Code::FLOW_CONTROL_ERROR,
                "the stream's window is above 2^31-1",
            );
        }
        if stream.has_capacity() {
            stream.writer.wake();
        }
        self.schedule(index);
    }

    /// Gives a stream its turn, if it has something to send and its window is open.
    pub(super) fn schedule(&mut self, index: u32) {
        let Some(stream) = self.streams.at(index) else { return };
        if !stream.scheduled && stream.queued() > 0 && stream.send_window > 0 && stream.fault.is_none() {
            stream.scheduled = true;
            self.schedule.push(stream.priority.urgency, StreamKey { index, id: stream.id });
            // A reset leaves its key there, and none is taken while the connection's window is closed.
            if self.schedule.len() > 2 * self.streams.active as usize + DEAD_KEYS {
                self.schedule.retain(|key| self.streams.entry(key).is_some_and(|stream| stream.scheduled));
            }
        }
    }
}
