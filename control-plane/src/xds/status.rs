//! The state of all streams for `/status`: what was sent, acknowledged and rejected.
//!
//! It is read from the streams on request; nothing is stored for it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use outrigger_core::Name;
use outrigger_proto::xds::node;
use serde::{Deserialize, Serialize};

use super::session::Session;
use super::subscription::{ClientVersion, Nack, Subscription, Wildcard};
use crate::translate::resource::Kind;
use crate::translate::scope::{Mode, Viewer};

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// `node.id`: the workload's instance.
    pub node: String,
    /// The SPIFFE ID of its certificate.
    pub identity: String,
    /// The namespace of that identity.
    pub namespace: String,
    /// The software and its version: `outrigger 0.1.0`, `envoy 1.40.0`. Empty if the client does not report it.
    #[serde(default)]
    pub software: String,
    /// The end of the certificate that the stream was opened with. A renewed certificate comes with a new stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires: Option<String>,
    /// `on-demand` or `wildcard`.
    pub mode: Cow<'static, str>,
    /// When the stream began.
    pub since: String,
    /// The resource types that the client has requested.
    pub types: Vec<TypeStatus>,
}

/// One resource type of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeStatus {
    /// `cds`, `eds`, `lds` or `rds`.
    pub kind: Cow<'static, str>,
    /// Whether `*` is subscribed.
    pub wildcard: bool,
    /// Whether a response is outstanding.
    pub waiting: bool,
    /// All names that are subscribed or were sent.
    pub resources: Vec<ResourceStatus>,
}

/// One resource on a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceStatus {
    /// Its name.
    pub name: String,
    /// The version sent last. Absent if the resource does not exist or was not sent yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<String>,
    /// The version acknowledged last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acked: Option<String>,
    /// The last rejection, if the resource was not acknowledged since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nacked: Option<NackStatus>,
}

/// A rejection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NackStatus {
    /// The rejected version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The client's reason.
    pub detail: String,
    /// When.
    pub since: String,
}

/// A resource that a connected proxy rejects now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejection {
    /// The type of the resource.
    pub(crate) kind: Kind,
    /// Its name.
    pub(crate) name: Name,
    /// The namespace of the proxy, in which names are resolved.
    pub(crate) namespace: Name,
    /// The instance of the proxy.
    pub(crate) instance: Name,
    /// The proxy's reason.
    pub(crate) reason: Arc<str>,
}

/// Facts about the client of a stream that only `/status` uses.
#[derive(Debug)]
pub(super) struct ClientFacts {
    /// The software and its version.
    pub software: String,
    /// The end of its certificate.
    pub not_after: SystemTime,
}

/// Returns the status of one stream.
pub(super) fn of(viewer: &Viewer, client: &ClientFacts, since: Timestamp, session: &Session) -> StreamStatus {
    let workload = &viewer.workload;
    StreamStatus {
        node: workload.instance.to_string(),
        identity: workload.identity.to_string(),
        namespace: workload.identity.namespace().into(),
        software: client.software.clone(),
        certificate_expires: Timestamp::try_from(client.not_after).ok().map(|end| format!("{end:.0}")),
        mode: match viewer.mode {
            Mode::OnDemand => node::ON_DEMAND.into(),
            Mode::Wildcard => node::WILDCARD.into(),
        },
        since: since.to_string(),
        types: session.kinds().iter().filter(|state| state.requested).map(of_type).collect(),
    }
}

/// Returns what the client of one stream rejects.
pub(super) fn rejections(viewer: &Viewer, session: &Session) -> Vec<Rejection> {
    let all = session.kinds().iter().flat_map(|state| state.nacks.iter().map(|nack| (state.kind, nack)));
    let rejection = |(kind, (name, nack)): (Kind, (&Name, &Nack))| Rejection {
        kind,
        name: name.clone(),
        namespace: viewer.namespace().into(),
        instance: viewer.workload.instance.clone(),
        reason: Arc::clone(&nack.detail),
    };
    all.map(rejection).collect()
}

fn of_type(state: &Subscription) -> TypeStatus {
    let mut names: Vec<_> = state.names.iter().chain(state.client_versions.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let resource = |name: &Name| ResourceStatus {
        name: name.to_string(),
        sent: match state.client_versions.get(name) {
            Some(ClientVersion::Version(version)) => Some(version.to_string()),
            Some(ClientVersion::Foreign | ClientVersion::Absent) | None => None,
        },
        acked: state.acked.get(name).map(|version| version.to_string()),
        nacked: state.nacks.get(name).map(|nack| NackStatus {
            version: nack.version.map(|version| version.to_string()),
            detail: nack.detail.to_string(),
            since: nack.since.to_string(),
        }),
    };
    TypeStatus {
        kind: state.kind.service().into(),
        wildcard: state.wildcard != Wildcard::Off,
        waiting: state.outstanding.is_some(),
        resources: names.into_iter().map(resource).collect(),
    }
}
