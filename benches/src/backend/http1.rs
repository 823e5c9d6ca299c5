//! HTTP/1.1: the same answer to every request, written as it is.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::load::{Failure, body, duplex};

/// The largest head of a request, in bytes.
const HEAD: usize = 256 << 10;
const FIELDS: usize = 128;

/// An answer with a body of `size` bytes.
pub(super) fn answer(size: usize) -> Bytes {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {size}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + size, b'x');
    answer.into()
}

/// Answers every request of a connection until the client ends it.
pub(super) async fn serve(mut stream: TcpStream, answer: Bytes) -> Result<(), Failure> {
    let mut read = BytesMut::new();
    loop {
        let head = loop {
            match parse(&read)? {
                Some(head) => break head,
                None if read.len() > HEAD => return Err(Failure::Malformed("a head of over 256 KiB")),
                None => match duplex::fill(&mut stream, &mut read).await {
                    Ok(true) => {}
                    Ok(false) => return Ok(()),
                    Err(error) => return Err(Failure::Io(error.kind())),
                },
            }
        };
        read.advance(head.length);
        match head.body {
            Some(length) => body::discard(&mut stream, &mut read, length).await?,
            None => body::chunked(&mut stream, &mut read).await?,
        };
        stream.write_all(&answer).await.map_err(|error| Failure::Io(error.kind()))?;
        if head.close {
            return Ok(());
        }
    }
}

struct Head {
    length: usize,
    /// None: chunked.
    body: Option<u64>,
    close: bool,
}

fn parse(bytes: &[u8]) -> Result<Option<Head>, Failure> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let malformed = |_| Failure::Malformed("not a request of HTTP/1");
    let httparse::Status::Complete(length) = request.parse(bytes).map_err(malformed)? else {
        return Ok(None);
    };
    let mut head = Head { length, body: Some(0), close: request.version != Some(1) };
    for field in request.headers.iter() {
        if field.name.eq_ignore_ascii_case("content-length") {
            let value = std::str::from_utf8(field.value).ok().and_then(|text| text.parse().ok());
            head.body = Some(value.ok_or(Failure::Malformed("content-length"))?);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            head.body = None;
        } else if field.name.eq_ignore_ascii_case("connection") {
            head.close |= field.value.eq_ignore_ascii_case(b"close");
        }
    }
    Ok(Some(head))
}
