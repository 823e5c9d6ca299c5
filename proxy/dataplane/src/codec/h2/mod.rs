//! HTTP/2 (RFC 9113) on top of the h2 crate, whose types are not used outside: a server and a client.
//!
//! Floods (resets, SETTINGS, PING, CONTINUATION, empty DATA) are refused by h2; the limits are set in [`server`] and
//! [`client`]. Windows limit what a stream may hold in memory, and open only as bodies are consumed. What h2 does by itself and
//! does not report is observed in the frames that pass ([`wire`], [`seen`]).

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod properties;
pub(crate) mod server;
mod request;
mod responder;
pub(crate) mod client;
mod exchange;
mod slot;
mod tunnel;
mod websocket;
mod incoming;
mod outgoing;
mod unread;
mod promised;
mod cause;
mod head_memory;
mod field_value;
mod failure;
mod wire;
mod seen;
mod owed;
mod block;
mod written;
mod window;
mod walker;
#[allow(dead_code, unused_imports, reason = "the server and the client over it follow")]
mod connection;
#[allow(dead_code, unused_imports, reason = "a connection over it follows")]
mod frame;
#[allow(dead_code, unused_imports, reason = "a connection over it follows")]
mod hpack;

pub(crate) use responder::Responder;

/// Bytes that h2 buffers for sending on one stream.
const SEND_BUFFER: usize = 128 * 1024;
/// The largest DATA frame accepted: fewer, larger frames cost less.
const FRAME_SIZE: u32 = 32 * 1024;
/// The limit on unread small DATA frames, in the units of h2: 256 minus its length for each frame.
const SMALL_FRAMES: usize = 512 * 1024;
