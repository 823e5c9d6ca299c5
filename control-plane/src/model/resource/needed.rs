//! The Services that policies name beside their targets.

use crate::model::service::ServiceKey;

/// A port of a Service that a policy needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Needed {
    pub(crate) service: ServiceKey,
    pub(crate) port: u16,
    /// The field that names it.
    pub(crate) field: String,
    /// It gets gRPC calls.
    pub(crate) gets_grpc: bool,
    /// A ReferenceGrant of its namespace must permit it.
    pub(crate) needs_grant: bool,
}
