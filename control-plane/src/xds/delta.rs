//! The incremental variant of the protocol: converts its messages to a [`Session`]'s requests, and the session's updates
//! to messages.

use jiff::Timestamp;
use outrigger_core::Name;
use outrigger_proto::xds::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource,
};

use super::session::{
    Acknowledgement, Request, ResourceView, Session, SubscriptionChange, TooManyNames, Update,
};
use super::unserved::Unserved;
use crate::translate::resource::{Kind, Resource, Version};

/// The state of one stream.
#[derive(Debug, Default)]
pub(super) struct Delta {
    session: Session,
    unserved: Unserved,
}

impl Delta {
    /// Applies a message. Types that are not served have no resources: a client may request more types than a server has.
    pub(super) fn on_request(
        &mut self,
        request: DeltaDiscoveryRequest,
        now: Timestamp,
    ) -> Result<SubscriptionChange, TooManyNames> {
        match Kind::from_type_url(&request.type_url) {
            Some(kind) => self.session.on_request(read(kind, request), now),
            None => {
                self.unserved.on_request(&request);
                Ok(SubscriptionChange::default())
            }
        }
    }

    /// Marks a name whose resource may have changed.
    pub(super) fn on_change(&mut self, kind: Kind, name: Name) {
        self.session.on_change(kind, name);
    }

    /// Returns the next message that may be sent now.
    pub(super) fn poll(&mut self, source: &impl ResourceView) -> Option<DeltaDiscoveryResponse> {
        self.session.poll(source).map(response).or_else(|| self.unserved.poll())
    }

    /// Returns the session.
    pub(super) fn session(&self) -> &Session {
        &self.session
    }
}

/// Reads a message about a served type. Only `error_detail` distinguishes a NACK from an ACK. The node is read elsewhere.
fn read(kind: Kind, request: DeltaDiscoveryRequest) -> Request {
    let DeltaDiscoveryRequest {
        node: _,
        type_url: _,
        resource_names_subscribe,
        resource_names_unsubscribe,
        resource_locators_subscribe: _, // xdstp names, which are not served
        resource_locators_unsubscribe: _,
        initial_resource_versions,
        response_nonce,
        error_detail,
    } = request;
    let names = |names: Vec<String>| names.into_iter().map(Name::from).collect();
    let kept = initial_resource_versions.into_iter();
    Request {
        kind,
        // A nonce that is not a number is not ours, and acknowledges nothing.
        acknowledgement: response_nonce
            .parse()
            .ok()
            .map(|nonce| Acknowledgement { nonce, rejection: error_detail.map(|status| status.message) }),
        subscribe: names(resource_names_subscribe),
        unsubscribe: names(resource_names_unsubscribe),
        kept: kept.map(|(name, version)| (name.into(), Version::parse(&version))).collect(),
    }
}

fn response(update: Update) -> DeltaDiscoveryResponse {
    let Update { kind, nonce, resources, removed } = update;
    DeltaDiscoveryResponse {
        type_url: kind.type_url().into(),
        resources: resources.iter().map(|resource| wire(resource)).collect(),
        removed_resources: removed.iter().map(|name| name.to_string()).collect(),
        nonce: nonce.to_string(),
        ..Default::default()
    }
}

fn wire(resource: &Resource) -> WireResource {
    WireResource {
        name: resource.name.to_string(),
        aliases: resource.aliases.iter().map(|alias| alias.to_string()).collect(),
        version: resource.version.to_string(),
        resource: Some(resource.to_any()),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
