//! Who a stream is for: the node of its first message, and the certificate.

use outrigger_core::Name;
use outrigger_core::identity::SpiffeId;
use outrigger_proto::xds::core::Node as WireNode;
use outrigger_proto::xds::protobuf::value::Kind;
use thiserror::Error;

use crate::model::registration::WorkloadKey;
use crate::translate::catalog::{Mode, Viewer};

/// Bytes of a node's id.
const MAX_ID: usize = 256;

/// How resources must be written for a client. The state-of-the-world protocol and the dialects of Envoy and of gRPC
/// get their variants here; whoever matches on it then has to say what differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Our own proxy: all of what translation makes, as it is.
    Outrigger,
}

impl Dialect {
    /// Told by the user agent. Who is not known is given what our own proxy gets.
    pub fn of(_user_agent: &str) -> Self {
        Self::Outrigger
    }
}

/// A client of xDS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The workload and its mode.
    pub viewer: Viewer,
    /// What it can read.
    pub dialect: Dialect,
}

impl Node {
    /// Reads the first message's node. The identity is the certificate's; of the node only the instance counts, which
    /// is a name within that identity, so that nobody reaches another's inbound side by it.
    pub fn read(node: Option<&WireNode>, identity: &SpiffeId) -> Result<Self, BadNode> {
        let node = node.ok_or(BadNode::Missing)?;
        if node.id.is_empty() || node.id.len() > MAX_ID {
            return Err(BadNode::Id);
        }
        let mode = node.metadata.as_ref().and_then(|metadata| metadata.fields.get("OUTRIGGER_MODE"));
        let mode = match mode.and_then(|value| value.kind.as_ref()) {
            None => Mode::OnDemand,
            Some(Kind::StringValue(mode)) if mode == "on-demand" => Mode::OnDemand,
            Some(Kind::StringValue(mode)) if mode == "wildcard" => Mode::Wildcard,
            Some(_) => return Err(BadNode::Mode),
        };
        let workload = WorkloadKey { identity: identity.clone(), instance: Name::from(node.id.as_str()) };
        Ok(Self { viewer: Viewer { workload, mode }, dialect: Dialect::of(&node.user_agent_name) })
    }

    /// Whether a later message's node, where there is one, is still this: it must not change on a stream.
    pub fn same(&self, later: Option<&WireNode>) -> bool {
        later.is_none_or(|later| *later.id == *self.viewer.workload.instance)
    }
}

/// Why a stream has no node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadNode {
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

    fn read(id: &str, mode: Option<&str>) -> Result<Node, BadNode> {
        let value = |mode: &str| Value { kind: Some(Kind::StringValue(mode.into())) };
        let fields: HashMap<_, _> =
            mode.map(|mode| ("OUTRIGGER_MODE".into(), value(mode))).into_iter().collect();
        let node = WireNode { id: id.into(), metadata: Some(Struct { fields }), ..Default::default() };
        let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
        Node::read(Some(&node), &identity)
    }

    #[test]
    fn the_identity_is_the_certificates_and_the_instance_the_nodes() {
        let node = read("cart-1", Some("wildcard")).unwrap();
        assert_eq!(
            (node.viewer.workload.identity.namespace(), &*node.viewer.workload.instance),
            ("shop", "cart-1")
        );
        assert_eq!(node.viewer.mode, Mode::Wildcard);
        assert_eq!(read("cart-1", None).unwrap().viewer.mode, Mode::OnDemand);
    }

    #[test]
    fn a_node_without_id_or_with_an_unknown_mode_is_refused() {
        assert_eq!(read("", None), Err(BadNode::Id));
        assert_eq!(read(&"x".repeat(MAX_ID + 1), None), Err(BadNode::Id));
        assert_eq!(read("a", Some("all")), Err(BadNode::Mode));
        let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
        assert_eq!(Node::read(None, &identity), Err(BadNode::Missing));
    }
}
