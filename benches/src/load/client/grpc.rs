//! gRPC over HTTP/2: unary calls, and messages of bidirectional streams. A call succeeds if its trailers say `grpc-status: 0`
//! (gRPC over HTTP2, "Responses").

use std::rc::Rc;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Method, Request, header};

use super::super::failure::Failure;
use super::super::recorder::Received;
use super::super::spec::{Expect, GrpcCall, HttpRequest};
use super::http2::{self, Shared};
use super::{Exchange, verify_length};

/// Bytes of the prefix of a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// One call at a time of a connection, or one message at a time of a stream.
pub(in super::super) struct Grpc {
    connection: Rc<Shared>,
    request: Request<()>,
    /// With its prefix.
    message: Bytes,
    expect_length: Option<u64>,
    messages_per_stream: Option<u64>,
    stream: Option<Stream>,
    once: bool,
}

/// An open call.
struct Stream {
    sender: SendStream<Bytes>,
    /// Its response, until the head has arrived.
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
    messages: Messages,
    sent: u64,
}

/// Counts the messages in the bytes of a body.
#[derive(Debug, Default)]
struct Messages {
    prefix: BytesMut,
    /// Bytes of the message that are still to come.
    left: u64,
    /// Complete messages that were not taken, and the size of all of them.
    complete: u64,
    bytes: u64,
}

impl Grpc {
    /// With `once`, each call has a connection of its own. Returns an error if the call has no valid URI.
    pub(in super::super) fn new(
        connection: Rc<Shared>,
        call: &GrpcCall,
        scheme: &'static str,
        once: bool,
    ) -> Result<Self, String> {
        let request = HttpRequest {
            method: Method::POST,
            authority: call.authority.clone(),
            path: call.path.clone(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            expect: Expect::default(),
        };
        let mut request = http2::head(&request, scheme)?;
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        request.headers_mut().extend(call.metadata.clone());
        let length = u32::try_from(call.message.len()).map_err(|_| "a gRPC message has less than 4 GiB")?;
        let mut message = BytesMut::with_capacity(PREFIX + call.message.len());
        message.put_u8(0);
        message.put_u32(length);
        message.put_slice(&call.message);
        Ok(Self {
            connection,
            request,
            message: message.freeze(),
            expect_length: call.expect_length,
            messages_per_stream: call.messages_per_stream,
            stream: None,
            once,
        })
    }

    async fn begin(&mut self) -> Result<Stream, Failure> {
        let mut sender: SendRequest<Bytes> = self.connection.sender().await?;
        let (response, sender) =
            sender.send_request(self.request.clone(), false).map_err(|error| Failure::h2(&error))?;
        if self.once {
            self.connection.close();
        }
        Ok(Stream { sender, response: Some(response), body: None, messages: Messages::default(), sent: 0 })
    }
}

impl Exchange for Grpc {
    async fn open(&mut self) -> Result<(), Failure> {
        if !self.once {
            self.connection.sender().await?;
        }
        Ok(())
    }

    async fn exchange(&mut self) -> Result<Received, Failure> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.begin().await?,
        };
        stream.sent += 1;
        let last = self.messages_per_stream.is_none_or(|messages| stream.sent == messages);
        stream.sender.send_data(self.message.clone(), last).map_err(|error| Failure::h2(&error))?;
        let received = match last {
            true => stream.finish().await?,
            false => {
                let received = stream.message().await?;
                self.stream = Some(stream);
                received
            }
        };
        verify_length(received, self.expect_length)
    }
}

impl Stream {
    /// Waits for the next message and returns its size.
    async fn message(&mut self) -> Result<u64, Failure> {
        while self.messages.complete == 0 {
            if !self.read().await? {
                self.status().await?;
                return Err(Failure::Malformed("the stream ended before its last message"));
            }
        }
        self.messages.take()
    }

    /// Waits for the only message that is left and for status 0. Returns the size of the message.
    async fn finish(mut self) -> Result<u64, Failure> {
        while self.read().await? {}
        self.status().await?;
        if self.messages.is_inside() {
            return Err(Failure::Malformed("a message is not complete"));
        }
        self.messages.take()
    }

    /// Reads a piece of the body. Returns false at its end.
    async fn read(&mut self) -> Result<bool, Failure> {
        if let Some(response) = self.response.take() {
            let response = response.await.map_err(|error| Failure::h2(&error))?;
            if response.status() != 200 {
                return Err(Failure::Status(response.status().as_u16()));
            }
            // A response without a body has its status in the head.
            if let Some(code) = code(response.headers())
                && code != 0
            {
                return Err(Failure::Grpc(code));
            }
            self.body = Some(response.into_body());
        }
        let Some(body) = &mut self.body else { return Err(Failure::Closed) };
        match http2::data(body).await? {
            Some(data) => self.messages.add(data).map(|()| true),
            None => Ok(false),
        }
    }

    async fn status(&mut self) -> Result<(), Failure> {
        let Some(body) = &mut self.body else { return Err(Failure::Closed) };
        let trailers = body.trailers().await.map_err(|error| Failure::h2(&error))?;
        match trailers.as_ref().and_then(code) {
            Some(0) => Ok(()),
            Some(code) => Err(Failure::Grpc(code)),
            None => Err(Failure::NoGrpcStatus),
        }
    }
}

fn code(fields: &HeaderMap) -> Option<i32> {
    fields.get("grpc-status")?.to_str().ok()?.parse().ok()
}

impl Messages {
    fn add(&mut self, mut data: Bytes) -> Result<(), Failure> {
        while !data.is_empty() {
            if self.left > 0 {
                let now = self.left.min(data.len() as u64);
                let _ = data.split_to(now as usize);
                self.left -= now;
                self.complete += u64::from(self.left == 0);
                continue;
            }
            let now = (PREFIX - self.prefix.len()).min(data.len());
            self.prefix.extend_from_slice(&data.split_to(now));
            if let [compressed, length @ ..] = &self.prefix[..]
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                if *compressed != 0 {
                    return Err(Failure::Malformed("a compressed message that was not asked for"));
                }
                self.left = u32::from_be_bytes(length).into();
                self.bytes += self.left;
                self.complete += u64::from(self.left == 0);
                self.prefix.clear();
            }
        }
        Ok(())
    }

    /// Takes the one message that has arrived and returns its size.
    fn take(&mut self) -> Result<u64, Failure> {
        match std::mem::take(&mut self.complete) {
            1 => Ok(std::mem::take(&mut self.bytes)),
            0 => Err(Failure::Malformed("no message")),
            _ => Err(Failure::Malformed("more than one message")),
        }
    }

    fn is_inside(&self) -> bool {
        self.left > 0 || !self.prefix.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_in_any_pieces() {
        let bytes = b"\0\0\0\0\x03abc\0\0\0\0\0";
        for size in 1..bytes.len() {
            let mut messages = Messages::default();
            let mut sizes = Vec::new();
            for piece in bytes.chunks(size) {
                messages.add(Bytes::copy_from_slice(piece)).unwrap();
                if messages.complete == 1 && !messages.is_inside() {
                    sizes.push(messages.take().unwrap());
                }
            }
            assert!(!messages.is_inside());
            assert!(sizes.ends_with(&[0]) || messages.take().is_err(), "{size}: {sizes:?}");
        }
    }

    #[test]
    fn compressed_missing_and_surplus_messages_are_failures() {
        let mut messages = Messages::default();
        assert_eq!(messages.take(), Err(Failure::Malformed("no message")));
        messages.add(Bytes::from_static(b"\0\0\0\0\x01a\0\0\0\0\x01b")).unwrap();
        assert_eq!(messages.take(), Err(Failure::Malformed("more than one message")));
        assert!(Messages::default().add(Bytes::from_static(b"\x01\0\0\0\x01a")).is_err());
        let mut part = Messages::default();
        part.add(Bytes::from_static(b"\0\0\0\0\x02a")).unwrap();
        assert!(part.is_inside());
    }
}
