//! Who a stream is for: the node of its first message, and the certificate.

use outrigger_core::Name;
use outrigger_core::identity::SpiffeId;
use outrigger_proto::xds::core::Node;
use outrigger_proto::xds::node;
use outrigger_proto::xds::protobuf::value::Kind;
use thiserror::Error;

use crate::model::registration::WorkloadKey;
use crate::translate::scope::{Dialect, Mode, Viewer};

/// Bytes of a node's id.
const MAX_ID: usize = 256;

/// Reads the first message's node. The identity is the certificate's; of the node only the instance counts, which is a
/// name within that identity, so that nobody reaches another's inbound side by it.
pub(super) fn read(node: Option<&Node>, identity: &SpiffeId) -> Result<Viewer, BadNode> {
    let node = node.ok_or(BadNode::Missing)?;
    if node.id.is_empty() || node.id.len() > MAX_ID {
        return Err(BadNode::Id);
    }
    let mode = node.metadata.as_ref().and_then(|metadata| metadata.fields.get(node::MODE));
    let mode = match mode.and_then(|value| value.kind.as_ref()) {
        None => Mode::OnDemand,
        Some(Kind::StringValue(mode)) if mode == node::ON_DEMAND => Mode::OnDemand,
        Some(Kind::StringValue(mode)) if mode == node::WILDCARD => Mode::Wildcard,
        Some(_) => return Err(BadNode::Mode),
    };
    let dialect = match node.user_agent_name.as_str() {
        node::USER_AGENT => Dialect::Outrigger,
        _ => Dialect::Envoy,
    };
    let workload = WorkloadKey { identity: identity.clone(), instance: Name::from(node.id.as_str()) };
    Ok(Viewer { workload, mode, dialect })
}

/// Whether a later message's node, where there is one, is still that of this viewer: it must not change on a stream.
pub(super) fn is_same(viewer: &Viewer, later: Option<&Node>) -> bool {
    later.is_none_or(|later| *later.id == *viewer.workload.instance)
}

/// Why a stream has no node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum BadNode {
    /// The first message has none.
    #[error("the first message has no node")]
    Missing,
    /// Its id is empty or too long.
    #[error("node.id must have 1 to {MAX_ID} bytes")]
    Id,
    /// An unknown mode.
    #[error("node.metadata.OUTRIGGER_MODE must be \"on-demand\" or \"wildcard\"")]
    Mode,
    /// A later message has another.
    #[error("the node changed on the stream")]
    Changed,
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use outrigger_proto::xds::protobuf::{Struct, Value};

    use super::*;

    fn viewer(id: &str, mode: Option<&str>) -> Result<Viewer, BadNode> {
        let value = |mode: &str| Value { kind: Some(Kind::StringValue(mode.into())) };
        let fields: HashMap<_, _> =
            mode.map(|mode| ("OUTRIGGER_MODE".into(), value(mode))).into_iter().collect();
        let node = Node { id: id.into(), metadata: Some(Struct { fields }), ..Default::default() };
        let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
        read(Some(&node), &identity)
    }

    #[test]
    fn the_identity_is_the_certificates_and_the_instance_the_nodes() {
        let proxy = viewer("cart-1", Some("wildcard")).unwrap();
        assert_eq!((proxy.workload.identity.namespace(), &*proxy.workload.instance), ("shop", "cart-1"));
        assert_eq!(proxy.mode, Mode::Wildcard);
        assert_eq!(viewer("cart-1", None).unwrap().mode, Mode::OnDemand);
    }

    #[test]
    fn a_node_without_id_or_with_an_unknown_mode_is_refused() {
        assert_eq!(viewer("", None), Err(BadNode::Id));
        assert_eq!(viewer(&"x".repeat(MAX_ID + 1), None), Err(BadNode::Id));
        assert_eq!(viewer("a", Some("all")), Err(BadNode::Mode));
        let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
        assert_eq!(read(None, &identity), Err(BadNode::Missing));
    }

    #[test]
    fn the_user_agent_tells_the_dialect_and_who_is_not_known_gets_envoys() {
        let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
        for (agent, dialect) in
            [("outrigger", Dialect::Outrigger), ("envoy", Dialect::Envoy), ("", Dialect::Envoy)]
        {
            let node = Node { id: "a".into(), user_agent_name: agent.into(), ..Default::default() };
            assert_eq!(read(Some(&node), &identity).unwrap().dialect, dialect, "{agent:?}");
        }
    }
}
