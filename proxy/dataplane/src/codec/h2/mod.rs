//! HTTP/2 (RFC 9113): a server and a client over a codec of our own.
//!
//! [`connection`] is the protocol without I/O: windows, streams, limits on floods. A driver moves its bytes; handlers and exchanges
//! read and write their streams in it, all on one task. Windows limit what a stream may hold in memory, and open only as bodies are
//! consumed.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod properties;
#[cfg(feature = "stages")]
mod stage;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod oracle;
pub(crate) mod server;
mod handlers;
mod request;
mod responder;
pub(crate) mod client;
mod exchange;
mod slot;
mod tunnel;
mod websocket;
mod incoming;
mod outgoing;
mod driver;
mod lingering;
mod length;
mod promised;
mod handle;
mod cause;
mod failure;
mod connection;
mod head_memory;
mod wait;
mod hpack;
mod frame;

pub(crate) use responder::Responder;
#[cfg(feature = "stages")]
pub use stage::FieldSections;
