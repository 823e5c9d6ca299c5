//! HTTP/1 and HTTP/2 on the wire, both sides, behind one interface: heads, bodies, exchanges.
//!
//! Above this module nobody knows which version is spoken, and nobody sees a type of h2 or httparse. What is malformed is
//! refused here, before anything is handed up. Hop-by-hop fields end here ([`hop`], RFC 9110 section 7.6.1).

pub mod answer;
mod authority;
pub mod body;
pub mod client;
mod date;
mod h1;
mod h2;
pub mod head;
mod hop;
pub mod limits;
pub mod server;
#[cfg(test)]
mod tests;
pub mod upgrade;
mod watchdog;
