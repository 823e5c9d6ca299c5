//! Behaviours of the codec: bytes in, bytes out, over connections in memory.

mod http2;
mod requests;
mod responses;
mod support;
