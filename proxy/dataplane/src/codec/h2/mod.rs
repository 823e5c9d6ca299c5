//! HTTP/2 (RFC 9113) on top of the h2 crate, whose types are not used outside: a server and a client.
//!
//! Floods (resets, SETTINGS, PING, CONTINUATION, empty DATA) are h2's to refuse; the limits are set in [`server`] and
//! [`client`]. Windows bound what a stream may hold in memory, and open only as bodies are consumed. What h2 does by itself
//! and does not tell is read from the frames that pass ([`wire`], [`seen`]).

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

pub(crate) use responder::Responder;

/// Bytes that h2 buffers of what one stream sends.
const SEND_BUFFER: usize = 128 * 1024;
/// Largest DATA frame taken: fewer, larger frames cost less.
const FRAME_SIZE: u32 = 32 * 1024;
/// The limit on unread small DATA frames, in the units of h2: 256 less its length for each.
const SMALL_FRAMES: usize = 512 * 1024;
