//! HTTP/1 and HTTP/2 on the wire, both sides, behind one interface: heads, bodies, exchanges.
//!
//! Above this module nobody knows which version is spoken, and nobody sees a type of h2 or httparse. What is malformed is
//! refused here, before anything is handed up. Hop-by-hop fields end here (`hop`, RFC 9110 section 7.6.1).

#[cfg(test)]
mod tests;
pub(crate) mod server;
pub(crate) mod client;
mod h2;
mod h1;
pub(crate) mod allowance;
pub(crate) mod watchdog;
mod date;
pub(crate) mod answer;
pub(crate) mod usage;
pub(crate) mod upgrade;
pub(crate) mod body;
mod hop;
mod authority;
mod path;
pub(crate) mod head;
pub(crate) mod limits;

#[cfg(feature = "fuzzing")]
pub(crate) use h1::properties;
