//! The client side of the delta ADS protocol as a pure state machine: messages in, messages out, no I/O and no clock.
//!
//! The supervisor owns one [`Stream`] for the lifetime of the process. It keeps the subscriptions while disconnected;
//! [`Stream::connect`] sends all subscriptions and held versions again. The rules are those of the
//! [xDS protocol](https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol), "Incremental xDS".
//!
//! A malformed response (unknown type, duplicate names) is rejected as a whole. A resource that cannot be read is refused by
//! name while the rest of its response applies.

use std::collections::{BTreeSet, HashMap, HashSet};

use outrigger_proto::kind::{Kind, PerKind};
use outrigger_proto::xds::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, ResourceError};
use outrigger_proto::xds::{core::Node, discovery, rpc};

use outrigger_config::compiled::Raw;

use crate::status::Refused;

/// Subscribes to all resources that the server selects.
pub(crate) const WILDCARD: &str = "*";
/// `google.rpc.Code.INVALID_ARGUMENT`, the code of every NACK.
const INVALID_ARGUMENT: i32 = 3;
/// `google.rpc.Code.NOT_FOUND`, in a response's `resource_errors`.
const NOT_FOUND: i32 = 5;
/// Maximum size of the reasons in a NACK's text.
const NACK_REASON_BYTES: usize = 64 * 1024;

/// A subscription, and whether it was sent on the current connection.
#[derive(Debug)]
pub(crate) struct Stream {
    node: Node,
    connected: bool,
    node_sent: bool,
    subscriptions: PerKind<Subscription>,
}

#[derive(Debug, Default)]
struct Subscription {
    wanted: BTreeSet<String>,
    /// A request of this type was sent on this connection. No request is sent before there is a name, because an empty first
    /// request means the legacy wildcard.
    opened: bool,
}

/// A well-formed response.
#[derive(Debug, PartialEq)]
pub(crate) struct Update {
    pub(crate) kind: Kind,
    pub(crate) nonce: String,
    pub(crate) changed: Vec<Raw>,
    /// Names that do not exist, or no longer.
    pub(crate) removed: Vec<String>,
    /// Resources that were refused before decoding.
    pub(crate) refused: Vec<Refused>,
}

/// The result of receiving a response.
#[derive(Debug, PartialEq)]
pub(crate) enum Received {
    /// Apply it, then call [`Stream::acknowledge`].
    Update(Update),
    /// Nothing can be applied: the reason, and the NACK to send.
    Nack(String, Box<DeltaDiscoveryRequest>),
}

impl Stream {
    /// Creates a disconnected stream without subscriptions.
    pub(crate) fn new(node: Node) -> Self {
        Self { node, connected: false, node_sent: false, subscriptions: PerKind::default() }
    }

    /// Starts a new connection. Returns the first requests, one per subscribed kind, with the held versions, so that the server
    /// sends only differences.
    pub(crate) fn connect(
        &mut self,
        held: impl Fn(Kind) -> HashMap<String, String>,
    ) -> Vec<DeltaDiscoveryRequest> {
        self.connected = true;
        self.node_sent = false;
        self.subscriptions.values_mut().for_each(|subscription| subscription.opened = false);
        let mut requests = Vec::new();
        for kind in Kind::ALL {
            let wanted = &self.subscriptions[kind].wanted;
            if wanted.is_empty() {
                continue;
            }
            let names = wanted.iter().cloned().collect();
            let mut versions = held(kind);
            if !wanted.contains(WILDCARD) {
                versions.retain(|name, _| wanted.contains(name));
            }
            requests.push(self.request(kind, names, Vec::new(), versions));
        }
        requests
    }

    /// Marks the connection as lost; subscriptions stay.
    pub(crate) fn disconnect(&mut self) {
        self.connected = false;
    }

    /// Replaces the subscribed names of a kind. Returns the request if connected and anything changed.
    pub(crate) fn want(&mut self, kind: Kind, names: BTreeSet<String>) -> Option<DeltaDiscoveryRequest> {
        let wanted = &mut self.subscriptions[kind].wanted;
        let subscribe: Vec<_> = names.difference(wanted).cloned().collect();
        let unsubscribe: Vec<_> = wanted.difference(&names).cloned().collect();
        *wanted = names;
        let silent = subscribe.is_empty() && unsubscribe.is_empty();
        // The dropped names were never sent on this connection: only a first name opens the type.
        let unopened = !self.subscriptions[kind].opened && subscribe.is_empty();
        if !self.connected || silent || unopened {
            return None;
        }
        Some(self.request(kind, subscribe, unsubscribe, HashMap::new()))
    }

    /// Subscribes again to subscribed names, which makes the server send the resources or their absence again.
    pub(crate) fn resubscribe(
        &mut self,
        kind: Kind,
        mut names: Vec<String>,
    ) -> Option<DeltaDiscoveryRequest> {
        names.retain(|name| self.subscriptions[kind].wanted.contains(name));
        (self.connected && !names.is_empty()).then(|| self.request(kind, names, Vec::new(), HashMap::new()))
    }

    /// Returns true if a resource of this name would be accepted.
    pub(crate) fn wants(&self, kind: Kind, name: &str) -> bool {
        let wanted = &self.subscriptions[kind].wanted;
        wanted.contains(name) || wanted.contains(WILDCARD)
    }

    /// Returns true if this exact name is subscribed.
    pub(crate) fn wants_by_name(&self, kind: Kind, name: &str) -> bool {
        self.subscriptions[kind].wanted.contains(name)
    }

    /// Returns the number of subscribed names, including the wildcard.
    pub(crate) fn subscribed(&self, kind: Kind) -> usize {
        self.subscriptions[kind].wanted.len()
    }

    /// Reads a response. Resources that are not subscribed, or no longer, are ignored: the response and the end of the
    /// subscription have crossed.
    pub(crate) fn receive(&mut self, response: DeltaDiscoveryResponse) -> Received {
        let DeltaDiscoveryResponse {
            system_version_info: _, // for people who debug the server
            resources,
            type_url,
            mut removed_resources,
            removed_resource_names: _, // xdstp names with parameters; we never subscribe to any
            nonce,
            control_plane: _, // the server's name, for people
            resource_errors,
        } = response;
        let Some(kind) = Kind::from_type_url(&type_url) else {
            return self.refuse_whole(type_url.clone(), nonce, format!("unknown type {type_url:?}"));
        };
        let mut seen = HashSet::with_capacity(resources.len() + removed_resources.len());
        let duplicate =
            resources.iter().map(|r| &r.name).chain(&removed_resources).find(|n| !seen.insert(*n));
        if let Some(name) = duplicate {
            let reason = format!("{kind} {name:?} occurs more than once");
            return self.refuse_whole(type_url, nonce, reason);
        }
        removed_resources.extend(resource_errors.into_iter().filter_map(not_found));
        removed_resources.retain(|name| self.wants(kind, name));
        let (mut changed, mut refused) = (Vec::with_capacity(resources.len()), Vec::new());
        for resource in resources {
            match self.admit(kind, resource) {
                Ok(admitted) => changed.extend(admitted),
                Err(refusal) => refused.push(refusal),
            }
        }
        Received::Update(Update { kind, nonce, changed, removed: removed_resources, refused })
    }

    /// Returns the response to an update: an ACK, or a NACK that names each refused resource. The others are applied
    /// nevertheless; the server only sees `error_detail`.
    pub(crate) fn acknowledge(
        &mut self,
        kind: Kind,
        nonce: String,
        refused: &[Refused],
    ) -> DeltaDiscoveryRequest {
        let mut request = self.request(kind, Vec::new(), Vec::new(), HashMap::new());
        request.response_nonce = nonce;
        if !refused.is_empty() {
            request.error_detail = Some(error_detail(nack_text(kind, refused)));
        }
        request
    }

    fn admit(&self, kind: Kind, resource: discovery::Resource) -> Result<Option<Raw>, Refused> {
        let discovery::Resource {
            name,
            resource_name: _, // xdstp, as above
            aliases,
            version,
            resource,
            ttl,
            cache_control: _, // a hint to caching relays between server and client
            metadata: _,      // for relays, too
        } = resource;
        if name.is_empty() || name == WILDCARD {
            return Err(Refused { name, reason: "not a resource name".into() });
        }
        if !self.wants(kind, &name) {
            return Ok(None);
        }
        match resource {
            Some(body) if body.type_url == kind.type_url() => {
                let aliases = aliases.into_iter().map(Into::into).collect();
                Ok(Some(Raw { name: name.into(), aliases, version, body }))
            }
            Some(body) => Err(Refused { name, reason: format!("holds a {:?}", body.type_url) }),
            // A heartbeat of a resource with a TTL. TTLs are ignored, because a proxy keeps serving the last good
            // configuration while its control plane is silent.
            None if ttl.is_some() => Ok(None),
            None => Err(Refused { name, reason: "holds no resource".into() }),
        }
    }

    /// Returns the NACK for a response of which nothing could be applied.
    pub(crate) fn refuse(
        &mut self,
        type_url: String,
        nonce: String,
        reason: String,
    ) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            node: self.node_once(),
            type_url,
            response_nonce: nonce,
            error_detail: Some(error_detail(truncated(reason))),
            ..Default::default()
        }
    }

    fn refuse_whole(&mut self, type_url: String, nonce: String, reason: String) -> Received {
        Received::Nack(reason.clone(), Box::new(self.refuse(type_url, nonce, reason)))
    }

    fn request(
        &mut self,
        kind: Kind,
        subscribe: Vec<String>,
        unsubscribe: Vec<String>,
        versions: HashMap<String, String>,
    ) -> DeltaDiscoveryRequest {
        self.subscriptions[kind].opened = true;
        DeltaDiscoveryRequest {
            node: self.node_once(),
            type_url: kind.type_url().into(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            initial_resource_versions: versions,
            ..Default::default()
        }
    }

    /// Returns the node for the first message of a connection, then None.
    fn node_once(&mut self) -> Option<Node> {
        (!std::mem::replace(&mut self.node_sent, true)).then(|| self.node.clone())
    }
}

/// Returns the name in a "not found" error. Other errors (permission denied, unavailable) do not affect held resources.
fn not_found(error: ResourceError) -> Option<String> {
    let ResourceError { resource_name, error_detail } = error;
    (error_detail?.code == NOT_FOUND).then_some(resource_name?.name)
}

/// Names all refused resources before the reasons. The server must find each name in the text, while the reasons are cut to
/// [`NACK_REASON_BYTES`]. The names are bounded because they are a part of the response.
fn nack_text(kind: Kind, refused: &[Refused]) -> String {
    let each = refused.iter().map(|r| format!("{kind} {:?}: {}", r.name, r.reason));
    let reasons = truncated(each.collect::<Vec<_>>().join("; "));
    if let [_] = refused {
        return reasons;
    }
    let names: Vec<_> = refused.iter().map(|r| format!("{:?}", r.name)).collect();
    format!("rejected: {kind} {}; {reasons}", names.join(", "))
}

fn truncated(mut reasons: String) -> String {
    reasons.truncate(reasons.floor_char_boundary(NACK_REASON_BYTES));
    reasons
}

fn error_detail(message: String) -> rpc::Status {
    rpc::Status { code: INVALID_ARGUMENT, message, details: Vec::new() }
}

#[cfg(test)]
mod tests;
