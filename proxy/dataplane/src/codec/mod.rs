//! HTTP/1 and HTTP/2 on the wire, client and server, behind one interface: heads, bodies, exchanges.
//!
//! Modules above this one do not know the HTTP version of a connection, and see no type of `h2` or httparse. Malformed messages
//! are refused here, before any part of them is passed on. Hop-by-hop fields end here (`hop`, RFC 9110 section 7.6.1).

#[cfg(test)]
mod tests;
pub(crate) mod server;
pub(crate) mod client;
mod h2;
mod h1;
mod buffers;
pub(crate) mod allowance;
pub(crate) mod watchdog;
mod date;
pub(crate) mod field_value;
pub(crate) mod answer;
pub(crate) mod usage;
pub(crate) mod upgrade;
pub(crate) mod body;
mod hop;
mod authority;
mod path;
pub(crate) mod head;
mod maps;
pub(crate) mod limits;

#[cfg(feature = "fuzzing")]
pub(crate) use h1::properties;
#[cfg(feature = "stages")]
pub use h2::FieldSections;
#[cfg(feature = "fuzzing")]
pub(crate) use h2::oracle as http2_oracle;
#[cfg(feature = "fuzzing")]
pub(crate) use h2::properties as http2_properties;
