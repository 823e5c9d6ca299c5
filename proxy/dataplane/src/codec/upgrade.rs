//! What is left of HTTP after a 101 or a CONNECT: a raw connection, to be copied both ways.

use bytes::Bytes;

use crate::socket::stream::Stream;

/// A connection that no longer speaks HTTP.
#[derive(Debug)]
pub struct Upgraded {
    /// The connection.
    pub stream: Stream,
    /// Bytes that came behind the head and were read with it. They come before what `stream` yields.
    pub read: Bytes,
}
