//! The incremental variant of the protocol: its messages become a [`Session`]'s requests, and the session's updates its
//! messages.

use jiff::Timestamp;
use outrigger_core::Name;
use outrigger_proto::xds::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource,
};

use super::session::{Answer, Interest, Request, Session, Source, TooManyNames, Update};
use super::unserved::Unserved;
use crate::translate::resource::{Kind, Resource, Version};

/// One stream.
#[derive(Debug, Default)]
pub(super) struct Delta {
    session: Session,
    unserved: Unserved,
}

impl Delta {
    /// Takes a message. Of types that are not served nothing exists: a client may ask one server for more than it has.
    pub(super) fn on_request(
        &mut self,
        request: DeltaDiscoveryRequest,
        now: Timestamp,
    ) -> Result<Interest, TooManyNames> {
        match Kind::from_type_url(&request.type_url) {
            Some(kind) => self.session.on_request(read(kind, request), now),
            None => {
                self.unserved.on_request(&request);
                Ok(Interest::default())
            }
        }
    }

    /// Something changed that may have to do with this name.
    pub(super) fn on_change(&mut self, kind: Kind, name: Name) {
        self.session.on_change(kind, name);
    }

    /// The next message that may be sent now.
    pub(super) fn poll(&mut self, source: &impl Source) -> Option<DeltaDiscoveryResponse> {
        self.session.poll(source).map(response).or_else(|| self.unserved.poll())
    }

    /// The session behind it.
    pub(super) fn session(&self) -> &Session {
        &self.session
    }
}

/// A message about a type that is served. `error_detail` alone tells a NACK; the node is read elsewhere.
fn read(kind: Kind, request: DeltaDiscoveryRequest) -> Request {
    let DeltaDiscoveryRequest {
        node: _,
        type_url: _,
        resource_names_subscribe,
        resource_names_unsubscribe,
        resource_locators_subscribe: _, // xdstp names, which nothing here has
        resource_locators_unsubscribe: _,
        initial_resource_versions,
        response_nonce,
        error_detail,
    } = request;
    let names = |names: Vec<String>| names.into_iter().map(Name::from).collect();
    let kept = initial_resource_versions.into_iter();
    Request {
        kind,
        // A nonce that is no number is none of ours, and answers nothing.
        answer: response_nonce
            .parse()
            .ok()
            .map(|nonce| Answer { nonce, refusal: error_detail.map(|status| status.message) }),
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
