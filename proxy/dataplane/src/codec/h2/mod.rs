//! HTTP/2 (RFC 9113), by the h2 crate, whose types stop here: a server and a client.
//!
//! Floods (resets, SETTINGS, PING, CONTINUATION, empty DATA) are h2's to refuse; the limits are set in [`server`] and
//! [`client`]. Windows bound what a connection may hold in memory, and open only as bodies are consumed.

pub(crate) mod server;
mod request;
mod responder;
pub(crate) mod client;
mod tunnel;
mod websocket;
mod incoming;
mod outgoing;
mod failure;
mod rewound;

pub(crate) use responder::Responder;

/// Bytes that h2 buffers of what one stream sends.
const SEND_BUFFER: usize = 128 * 1024;
/// Largest DATA frame taken: fewer, larger frames cost less.
const FRAME_SIZE: u32 = 32 * 1024;
/// Resets that a peer may have us remember or wait for before the connection is closed (CVE-2023-44487).
const PENDING_RESETS: usize = 32;
