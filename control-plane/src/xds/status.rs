//! What every stream was told and what it refused, for `/status`.
//!
//! Taken when somebody asks, from the streams themselves; nothing is kept for it.

use std::borrow::Cow;

use jiff::Timestamp;
use outrigger_proto::xds::node;
use serde::{Deserialize, Serialize};

use super::session::Session;
use super::subscription::{Held, Subscription, Wildcard};
use crate::translate::scope::{Mode, Viewer};

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// `node.id`: the workload's instance.
    pub node: String,
    /// The SPIFFE ID of its certificate.
    pub identity: String,
    /// The namespace in that.
    pub namespace: String,
    /// `on-demand` or `wildcard`.
    pub mode: Cow<'static, str>,
    /// When the stream began.
    pub since: String,
    /// Each resource type that it asked for.
    pub types: Vec<TypeStatus>,
}

/// One resource type of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeStatus {
    /// `cds`, `eds`, `lds` or `rds`.
    pub kind: Cow<'static, str>,
    /// Whether all that `*` means is subscribed.
    pub wildcard: bool,
    /// A response waits for its answer.
    pub waiting: bool,
    /// Every name that is subscribed to or was sent.
    pub resources: Vec<ResourceStatus>,
}

/// One resource as a stream knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceStatus {
    /// Its name.
    pub name: String,
    /// The version sent last; none if there is no such resource, or nothing was sent yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<String>,
    /// The version acknowledged last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acked: Option<String>,
    /// The refusal that stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nacked: Option<NackStatus>,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NackStatus {
    /// The refused version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The client's words.
    pub detail: String,
    /// When.
    pub since: String,
}

/// The status of one stream.
pub(super) fn of(viewer: &Viewer, since: Timestamp, session: &Session) -> StreamStatus {
    let workload = &viewer.workload;
    StreamStatus {
        node: workload.instance.to_string(),
        identity: workload.identity.to_string(),
        namespace: workload.identity.namespace().into(),
        mode: match viewer.mode {
            Mode::OnDemand => node::ON_DEMAND.into(),
            Mode::Wildcard => node::WILDCARD.into(),
        },
        since: since.to_string(),
        types: session.kinds().iter().filter(|state| state.seen).map(of_type).collect(),
    }
}

fn of_type(state: &Subscription) -> TypeStatus {
    let mut names: Vec<_> = state.names.iter().chain(state.held.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let resource = |name: &outrigger_core::Name| ResourceStatus {
        name: name.to_string(),
        sent: match state.held.get(name) {
            Some(Held::Version(version)) => Some(version.to_string()),
            Some(Held::Foreign | Held::Absent) | None => None,
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
