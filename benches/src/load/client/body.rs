//! Bodies of HTTP/1 (RFC 9112 section 6): read and dropped, for a client that verifies their size and for a backend.

use bytes::{Buf, BytesMut};
use tokio::io::AsyncRead;

use super::super::failure::Failure;
use super::duplex;

/// The longest line of a chunked body, in bytes.
const LINE: usize = 64 << 10;

/// Reads and drops `length` bytes. Returns their number.
pub(crate) async fn discard<S: AsyncRead + Unpin>(
    stream: &mut S,
    read: &mut BytesMut,
    length: u64,
) -> Result<u64, Failure> {
    let mut left = length;
    loop {
        let now = left.min(read.len() as u64);
        read.advance(now as usize);
        left -= now;
        if left == 0 {
            return Ok(length);
        }
        more(stream, read).await?;
    }
}

/// Reads and drops a chunked body with its trailers (RFC 9112 section 7.1). Returns its size.
pub(crate) async fn chunked<S: AsyncRead + Unpin>(
    stream: &mut S,
    read: &mut BytesMut,
) -> Result<u64, Failure> {
    let mut received = 0;
    loop {
        let size = loop {
            match httparse::parse_chunk_size(read).map_err(|_| Failure::Malformed("size of a chunk"))? {
                httparse::Status::Complete((length, size)) => {
                    read.advance(length);
                    break size;
                }
                httparse::Status::Partial if read.len() > LINE => {
                    return Err(Failure::Malformed("size of a chunk"));
                }
                httparse::Status::Partial => more(stream, read).await?,
            }
        };
        if size == 0 {
            break;
        }
        received += discard(stream, read, size).await?;
        if line(stream, read).await? != 0 {
            return Err(Failure::Malformed("end of a chunk"));
        }
    }
    while line(stream, read).await? != 0 {}
    Ok(received)
}

/// Reads and drops a line. Returns its length without its end.
async fn line<S: AsyncRead + Unpin>(stream: &mut S, read: &mut BytesMut) -> Result<usize, Failure> {
    loop {
        if let Some(end) = read.windows(2).position(|two| two == b"\r\n") {
            read.advance(end + 2);
            return Ok(end);
        }
        if read.len() > LINE {
            return Err(Failure::Malformed("a trailer of over 64 KiB"));
        }
        more(stream, read).await?;
    }
}

/// Reads and drops everything until the end. Returns its size.
pub(crate) async fn until_close<S: AsyncRead + Unpin>(
    stream: &mut S,
    read: &mut BytesMut,
) -> Result<u64, Failure> {
    let mut received = read.len() as u64;
    read.clear();
    while duplex::fill(stream, read).await.map_err(|error| Failure::io(&error))? {
        received += read.len() as u64;
        read.clear();
    }
    Ok(received)
}

/// Reads more, or fails at the end.
async fn more<S: AsyncRead + Unpin>(stream: &mut S, read: &mut BytesMut) -> Result<(), Failure> {
    match duplex::fill(stream, read).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::Closed),
        Err(error) => Err(Failure::io(&error)),
    }
}
