//! The client of a stream: its certificate, and the node of its first message.

use outrigger_core::Name;
use outrigger_core::identity::SpiffeId;
use outrigger_proto::xds::core::Node;
use outrigger_proto::xds::core::node::UserAgentVersionType;
use outrigger_proto::xds::node;
use outrigger_proto::xds::protobuf::value::Kind;
use thiserror::Error;

use crate::model::registration::WorkloadKey;
use crate::translate::scope::{Dialect, Mode, Viewer};

/// Maximum size of a node's ID.
const MAX_ID: usize = 256;
/// Maximum size of a zone's name. A longer one names no zone.
const MAX_ZONE: usize = 63;
/// Maximum number of characters of the software's name and version. The rest is omitted.
const MAX_SOFTWARE: usize = 64;

/// Reads the node of the first message. The identity comes from the certificate. The node's ID is the instance, a name
/// within that identity, so that a client cannot get the inbound configuration of another identity.
pub(super) fn read(node: Option<&Node>, identity: &SpiffeId) -> Result<Viewer, NodeError> {
    let node = node.ok_or(NodeError::Missing)?;
    if node.id.is_empty() || node.id.len() > MAX_ID {
        return Err(NodeError::Id);
    }
    let mode = node.metadata.as_ref().and_then(|metadata| metadata.fields.get(node::MODE));
    let mode = match mode.and_then(|value| value.kind.as_ref()) {
        None => Mode::OnDemand,
        Some(Kind::StringValue(mode)) if mode == node::ON_DEMAND => Mode::OnDemand,
        Some(Kind::StringValue(mode)) if mode == node::WILDCARD => Mode::Wildcard,
        Some(_) => return Err(NodeError::Mode),
    };
    let dialect = match node.user_agent_name.as_str() {
        node::USER_AGENT => Dialect::Outrigger,
        _ => Dialect::Envoy,
    };
    let feature = |feature: &String| feature == node::FORWARDS_CLIENT_CERTIFICATES;
    let forwards_client_certificates = dialect == Dialect::Envoy || node.client_features.iter().any(feature);
    let workload = WorkloadKey { identity: identity.clone(), instance: Name::from(node.id.as_str()) };
    let zone = node.locality.as_ref().map(|locality| locality.zone.as_str());
    let zone = zone.filter(|zone| (1..=MAX_ZONE).contains(&zone.len())).map(Name::from);
    Ok(Viewer { workload, mode, dialect, zone, forwards_client_certificates })
}

/// Returns the name and version of the client's software, such as `outrigger 0.1.0`.
pub(super) fn software(node: &Node) -> String {
    let version = match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => match &build.version {
            Some(version) => format!("{}.{}.{}", version.major_number, version.minor_number, version.patch),
            None => String::new(),
        },
        None => String::new(),
    };
    let software = format!("{} {version}", node.user_agent_name);
    software.trim().chars().take(MAX_SOFTWARE).collect()
}

/// Returns true if a later message has no node or the same one. The node must not change on a stream.
pub(super) fn is_same(viewer: &Viewer, later: Option<&Node>) -> bool {
    later.is_none_or(|later| *later.id == *viewer.workload.instance)
}

/// Why a node is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum NodeError {
    /// The first message has no node.
    #[error("the first message has no node")]
    Missing,
    /// The ID is empty or too long.
    #[error("node.id must have 1 to {MAX_ID} bytes")]
    Id,
    /// The mode is unknown.
    #[error("node.metadata.OUTRIGGER_MODE must be \"on-demand\" or \"wildcard\"")]
    Mode,
    /// A later message has a different node.
    #[error("the node changed on the stream")]
    Changed,
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use outrigger_proto::xds::core::{BuildVersion, Locality};
    use outrigger_proto::xds::protobuf::{Struct, Value};
    use outrigger_proto::xds::types::SemanticVersion;

    use super::*;

    fn viewer(id: &str, mode: Option<&str>) -> Result<Viewer, NodeError> {
        let value = |mode: &str| Value { kind: Some(Kind::StringValue(mode.into())) };
        let fields: HashMap<_, _> =
            mode.map(|mode| ("OUTRIGGER_MODE".into(), value(mode))).into_iter().collect();
        let node = Node { id: id.into(), metadata: Some(Struct { fields }), ..Default::default() };
        let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
        read(Some(&node), &identity)
    }

    #[test]
    fn the_identity_comes_from_the_certificate_and_the_instance_from_the_node() {
        let proxy = viewer("cart-1", Some("wildcard")).unwrap();
        assert_eq!((proxy.workload.identity.namespace(), &*proxy.workload.instance), ("shop", "cart-1"));
        assert_eq!(proxy.mode, Mode::Wildcard);
        assert_eq!(viewer("cart-1", None).unwrap().mode, Mode::OnDemand);
    }

    #[test]
    fn the_zone_is_that_of_the_nodes_locality() {
        let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
        for (zone, expected) in [("eu-1a", Some("eu-1a")), ("", None), (&*"z".repeat(64), None)] {
            let locality = Some(Locality { zone: zone.into(), ..Default::default() });
            let node = Node { id: "cart-1".into(), locality, ..Default::default() };
            assert_eq!(read(Some(&node), &identity).unwrap().zone.as_deref(), expected);
        }
        assert_eq!(viewer("cart-1", None).unwrap().zone, None);
    }

    #[test]
    fn a_node_without_id_or_with_an_unknown_mode_is_refused() {
        assert_eq!(viewer("", None), Err(NodeError::Id));
        assert_eq!(viewer(&"x".repeat(MAX_ID + 1), None), Err(NodeError::Id));
        assert_eq!(viewer("a", Some("all")), Err(NodeError::Mode));
        let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
        assert_eq!(read(None, &identity), Err(NodeError::Missing));
    }

    #[test]
    fn only_a_proxy_that_says_so_and_envoy_forward_client_certificates() {
        let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
        let feature = || vec!["outrigger.forward-client-cert".to_owned()];
        for (agent, client_features, forwards) in
            [("outrigger", vec![], false), ("outrigger", feature(), true), ("envoy", vec![], true)]
        {
            let node =
                Node { id: "a".into(), user_agent_name: agent.into(), client_features, ..Default::default() };
            assert_eq!(read(Some(&node), &identity).unwrap().forwards_client_certificates, forwards);
        }
    }

    #[test]
    fn software_is_read_from_a_text_and_from_a_version_of_three_numbers() {
        let node = |version| Node {
            user_agent_name: "envoy".into(),
            user_agent_version_type: version,
            ..Default::default()
        };
        let number = SemanticVersion { major_number: 1, minor_number: 40, patch: 2 };
        let build = BuildVersion { version: Some(number), metadata: None };
        for (version, software_name) in [
            (Some(UserAgentVersionType::UserAgentVersion("0.1.0".into())), "envoy 0.1.0"),
            (Some(UserAgentVersionType::UserAgentBuildVersion(build)), "envoy 1.40.2"),
            (None, "envoy"),
        ] {
            assert_eq!(software(&node(version)), software_name);
        }
        let long = Some(UserAgentVersionType::UserAgentVersion("9".repeat(1000)));
        assert_eq!(software(&node(long)).len(), MAX_SOFTWARE);
    }

    #[test]
    fn the_user_agent_selects_the_dialect_and_envoys_is_the_default() {
        let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
        for (agent, dialect) in
            [("outrigger", Dialect::Outrigger), ("envoy", Dialect::Envoy), ("", Dialect::Envoy)]
        {
            let node = Node { id: "a".into(), user_agent_name: agent.into(), ..Default::default() };
            assert_eq!(read(Some(&node), &identity).unwrap().dialect, dialect, "{agent:?}");
        }
    }
}
