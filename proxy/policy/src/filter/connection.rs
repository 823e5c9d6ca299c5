//! The network filters that this proxy has (`FilterChain.filters`, without the last one, which handles the connection).
//!
//! They decide about a connection before a byte of it reaches an upstream, and again when their configuration changes.

use std::sync::Arc;

use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::type_url;

use crate::field::{Unusable, unpack};
use crate::rbac::{Decision, Rbac};
use crate::verdict::Source;

/// A network filter before the last one.
#[derive(Debug, Clone)]
pub enum ConnectionFilter {
    /// Authorization.
    Rbac(Arc<Rbac>),
}

impl ConnectionFilter {
    /// Decodes a filter. Returns `None` if this proxy does not have it.
    pub fn decode(any: &Any) -> Result<Option<Self>, Unusable> {
        match any.type_url.as_str() {
            type_url::NETWORK_RBAC => {
                let wire = unpack(any, type_url::NETWORK_RBAC)?;
                Ok(Some(Self::Rbac(Arc::new(Rbac::decode_for_connection(wire)?))))
            }
            _ => Ok(None),
        }
    }
}

/// Returns what filters decide about a connection: the first one that refuses it, and the first one that would refuse it.
pub fn decide<'a>(filters: &'a [ConnectionFilter], source: &Source<'_>) -> Decision<'a> {
    let mut all = Decision::default();
    for ConnectionFilter::Rbac(rbac) in filters {
        let one = rbac.decide(source, None);
        all.audit_denied_by = all.audit_denied_by.or(one.audit_denied_by);
        all.denied_by = all.denied_by.or(one.denied_by);
        if all.denied_by.is_some() {
            break;
        }
    }
    all
}
