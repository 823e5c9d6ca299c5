//! Applies the field sections that were received: heads of requests and responses, and trailers (RFC 9113 section 8.1).
//!
//! Every block is decoded, also one whose stream is gone: the decoder's table is that of the connection.

use http::StatusCode;

use super::super::frame::{Code, Error};
use super::super::hpack::{Kind, Section};
use super::closing::Leaving;
use super::error::{Fault, Refusal};
use super::serving::Request;
use super::stream::{BadTrailers, Receiving, Sending};
use super::streams::Found;
use super::{Connection, Role};

impl Connection {
    pub(super) fn apply_headers(&mut self, id: u32, block: &[u8], end: bool, depends_on_itself: bool) {
        self.head_bytes = self.head_bytes.saturating_add(block.len());
        let found = self.streams.find(id);
        let kind = match found {
            Found::Stream(index) => match self.streams.at(index) {
                Some(stream) if stream.receiving == Receiving::Head => Kind::Response,
                _ => Kind::Trailers,
            },
            _ if self.role == Role::Client => Kind::Response,
            _ => Kind::Request,
        };
        let section = match self.decoder.decode(block, kind) {
            Ok(section) => section,
            Err(error) => {
                return self.violated_on(id, Error::connection(Code::COMPRESSION_ERROR, error.0));
            }
        };
        match found {
            Found::Stream(index) => match kind {
                Kind::Response => self.response(index, section, end),
                _ => self.trailers(index, section, end),
            },
            // The final head may be late, and no other.
            Found::Reset if section.status.is_some_and(|status| status.is_informational()) => {
                self.idle_frame()
            }
            Found::Reset => {}
            Found::Idle if self.is_beyond_the_last(id) => {}
            Found::Idle if self.role == Role::Server && id % 2 == 1 && id > self.streams.newest => {
                self.request(id, section, end, depends_on_itself);
            }
            Found::Idle => {
                let error =
                    Error::connection(Code::PROTOCOL_ERROR, "HEADERS on a stream that cannot be opened");
                self.violated_on(id, error);
            }
            Found::Closed => {
                let error = Error::connection(Code::STREAM_CLOSED, "HEADERS on a closed stream");
                self.violated_on(id, error);
            }
        }
    }

    /// Returns whether a stream was opened after the final GOAWAY, and is ignored.
    pub(super) fn is_beyond_the_last(&self, id: u32) -> bool {
        matches!(self.leaving, Leaving::Final(last) if id > last && id % 2 == 1)
    }

    fn request(&mut self, id: u32, section: Box<Section>, end: bool, depends_on_itself: bool) {
        self.streams.opened(id);
        if self.streams.active >= self.config.concurrent_streams {
            self.accepting.refusals.push_back(Refusal::TooManyStreams);
            return self.refuse(id, Code::REFUSED_STREAM);
        }
        let malformed = match section.malformed {
            _ if depends_on_itself => Some("the stream depends on itself"),
            None if end && section.content_length.is_some_and(|length| length > 0) => {
                Some("less DATA than content-length")
            }
            malformed => malformed,
        };
        if let Some(rule) = malformed {
            self.accepting.refusals.push_back(Refusal::Malformed(rule));
            return self.refuse(id, Code::PROTOCOL_ERROR);
        }
        let key = self.streams.insert(id, self.now);
        if let Some(stream) = self.streams.at(key.index) {
            stream.receiving = if end { Receiving::Ended } else { Receiving::Body };
            stream.sending = Sending::Head;
            stream.outstanding = section.content_length;
            stream.window = i64::from(self.config.stream_window);
            stream.send_window = i64::from(self.peer.initial_window);
            stream.priority = section.priority.unwrap_or_default();
        }
        self.accepting.push(Request { key, section, ended: end });
    }

    fn response(&mut self, index: u32, section: Box<Section>, end: bool) {
        let Some(stream) = self.streams.at(index) else { return };
        let status = section.status.unwrap_or_default();
        if stream.fault.is_some() {
            if status.is_informational() {
                self.idle_frame();
            }
            return;
        }
        let violation = match section.malformed {
            None if status.is_informational() && end => Some("an interim response ends the stream"),
            malformed => malformed,
        };
        if let Some(rule) = violation {
            return self.stream_violated(index, Code::PROTOCOL_ERROR, rule);
        }
        if status.is_informational() {
            stream.interims += 1;
            if stream.interims > self.config.interim_responses {
                return self.stream_violated(index, Code::ENHANCE_YOUR_CALM, "too many interim responses");
            }
            let Some(permit) = self.unread_heads.hold(section.size, self.head_bytes) else {
                let rule = "interim responses take far more memory than was sent for them";
                return self.stream_violated(index, Code::ENHANCE_YOUR_CALM, rule);
            };
            stream.interim.push_back((section, permit));
            stream.reader.wake();
            return;
        }
        // The length of a response that opens a tunnel has no meaning (RFC 9110 section 9.3.6).
        let opens_tunnel = stream.tunnel && status.is_success();
        let has_body = !stream.bodiless
            && !opens_tunnel
            && status != StatusCode::NOT_MODIFIED
            && status != StatusCode::NO_CONTENT;
        stream.outstanding = section.content_length.filter(|_| has_body);
        if end && stream.outstanding.is_some_and(|length| length > 0) {
            return self.stream_violated(index, Code::PROTOCOL_ERROR, "less DATA than content-length");
        }
        stream.head = Some(section);
        stream.receiving = if end { Receiving::Ended } else { Receiving::Body };
        stream.reader.wake();
        if end {
            self.settle(index);
        }
    }

    fn trailers(&mut self, index: u32, mut section: Box<Section>, end: bool) {
        let Some(stream) = self.streams.at(index) else { return };
        if stream.fault.is_some_and(Fault::was_sent) {
            return;
        }
        if stream.receiving == Receiving::Ended || stream.fault.is_some() {
            return self.closed_violated(index, Code::STREAM_CLOSED, "HEADERS after the end of the message");
        }
        if !end {
            return self.stream_violated(index, Code::PROTOCOL_ERROR, "trailers do not end the stream");
        }
        if stream.outstanding.is_some_and(|left| left > 0) {
            return self.stream_violated(index, Code::PROTOCOL_ERROR, "less DATA than content-length");
        }
        if let Some(rule) = section.malformed {
            stream.bad_trailers = Some(BadTrailers::Malformed(rule));
        } else if section.too_large {
            stream.bad_trailers = Some(BadTrailers::TooLarge);
        } else if !section.fields.is_empty() {
            match self.unread_heads.hold(section.size, self.head_bytes) {
                Some(permit) => {
                    stream.trailers = Some((std::mem::take(&mut section.fields), section.size, permit))
                }
                None => stream.bad_trailers = Some(BadTrailers::TooLarge),
            }
        }
        section.give();
        stream.receiving = Receiving::Ended;
        stream.reader.wake();
        self.settle(index);
    }
}
