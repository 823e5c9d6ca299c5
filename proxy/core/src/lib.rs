//! The words that every part of Outrigger uses: identities, matchers, percentages, reasons, errors, drain, records.
//!
//! Nothing here does I/O, and nothing here knows a wire message. A value of one of these types is valid by
//! construction, so that nobody checks it again. As everywhere, a module uses only modules listed below it.

pub mod record;
pub mod trace;
pub mod error;
pub mod reason;
pub mod drain;
pub mod descriptors;
pub mod peer;
pub mod identity;
pub mod matcher;
pub mod percentage;

/// The name of a resource (listener, route, cluster, destination): compared often, made seldom, shared freely.
pub type Name = std::sync::Arc<str>;
