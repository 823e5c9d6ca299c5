//! The vocabulary that every part of Outrigger shares: identities, matchers, percentages, reasons, errors, drain,
//! records, metric families.
//!
//! Nothing here knows a wire message. A value of one of these types is valid by construction and is not checked again. As
//! everywhere, a module uses only modules listed below it.

pub mod metrics;
pub mod record;
pub mod trace;
pub mod error;
pub mod explanation;
pub mod reason;
pub mod grpc;
pub mod drain;
pub mod descriptors;
pub mod inbound_name;
pub mod dns_name;
pub mod alpn;
pub mod private_file;
pub mod peer;
pub mod identity;
pub mod matcher;
pub mod percentage;
pub mod duration;
pub mod tchar;

/// The name of a resource (listener, route, cluster, destination). Cloning is cheap.
pub type Name = std::sync::Arc<str>;
