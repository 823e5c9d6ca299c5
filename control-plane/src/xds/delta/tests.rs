//! A client that follows only the protocol's rules ends with the resources that exist, whatever happens on the way.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_proto::xds::rpc::Status;
use proptest::prelude::*;

use super::*;
use crate::xds::session::tests::Numbers;
use crate::xds::subscription::ClientVersion;

fn request(kind: Kind, subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url().into(),
        resource_names_subscribe: subscribe.iter().map(|name| (*name).into()).collect(),
        resource_names_unsubscribe: unsubscribe.iter().map(|name| (*name).into()).collect(),
        ..Default::default()
    }
}

fn send(delta: &mut Delta, request: DeltaDiscoveryRequest) -> SubscriptionChange {
    delta.on_request(request, Timestamp::UNIX_EPOCH).unwrap()
}

fn ack(delta: &mut Delta, response: &DeltaDiscoveryResponse) {
    answer(delta, response, None);
}

fn answer(delta: &mut Delta, response: &DeltaDiscoveryResponse, rejection: Option<&str>) {
    let answer = DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        error_detail: rejection.map(|text| Status { message: text.into(), ..Default::default() }),
        ..Default::default()
    };
    send(delta, answer);
}

#[test]
fn a_type_that_is_not_served_has_no_resources_and_disturbs_no_other() {
    let (mut delta, source) = (Delta::default(), Numbers::default().with(Kind::Cluster, "a", 1));
    let unknown = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/x".into(),
        resource_names_subscribe: vec!["s".into()],
        ..Default::default()
    };
    assert_eq!(send(&mut delta, unknown), SubscriptionChange::default());
    send(&mut delta, request(Kind::Cluster, &["a"], &[]));
    let cluster = delta.poll(&source).unwrap();
    assert_eq!(cluster.resources[0].name, "a");
    assert_eq!(delta.poll(&source).unwrap().removed_resources, ["s"]);
    ack(&mut delta, &cluster);
    assert!(delta.poll(&source).is_none());
}

#[test]
fn only_an_error_detail_makes_a_nack_and_a_stale_nonce_is_ignored() {
    let (mut delta, source) = (Delta::default(), Numbers::default().with(Kind::Cluster, "a", 1));
    send(&mut delta, request(Kind::Cluster, &["a"], &[]));
    let response = delta.poll(&source).unwrap();
    let stale = DeltaDiscoveryResponse { nonce: "0".into(), ..response.clone() };
    answer(&mut delta, &stale, Some("a: too late"));
    assert!(delta.session().kinds()[0].outstanding.is_some());
    answer(&mut delta, &response, Some(""));
    assert_eq!(delta.session().refused(), 1);
}

#[test]
fn a_version_of_another_server_is_replaced_and_one_of_ours_is_kept() {
    let source = Numbers::default().with(Kind::Cluster, "a", 1).with(Kind::Cluster, "b", 1);
    let ours = source.resource(Kind::Cluster, "a").unwrap().version.to_string();
    let kept = [("a".into(), ours), ("b".into(), "of another server".into())].into();
    let mut delta = Delta::default();
    let resumed = request(Kind::Cluster, &["a", "b"], &[]);
    send(&mut delta, DeltaDiscoveryRequest { initial_resource_versions: kept, ..resumed });
    let sent: Vec<_> = delta.poll(&source).unwrap().resources.into_iter().map(|one| one.name).collect();
    assert_eq!(sent, ["b"]);
}

/// The state of a client that follows only the protocol's rules and knows nothing of the server.
#[derive(Debug, Default)]
struct Client {
    wildcard: BTreeSet<Kind>,
    names: BTreeSet<(Kind, String)>,
    has: BTreeMap<(Kind, String), String>,
}

impl Client {
    fn take(&mut self, response: &DeltaDiscoveryResponse) {
        let kind = Kind::from_type_url(&response.type_url).unwrap();
        for resource in &response.resources {
            // A resource that is no longer subscribed may still arrive, and is dropped.
            let key = (kind, resource.name.clone());
            if self.wildcard.contains(&kind) || self.names.contains(&key) {
                self.has.insert(key, resource.version.clone());
            }
        }
        for name in &response.removed_resources {
            self.has.remove(&(kind, name.clone()));
        }
    }

    fn give_up(&mut self, kind: Kind, name: &str) {
        self.names.remove(&(kind, name.into()));
        if !self.wildcard.contains(&kind) {
            self.has.remove(&(kind, name.into()));
        }
    }

    fn give_up_wildcard(&mut self, kind: Kind) {
        self.wildcard.remove(&kind);
        self.has.retain(|key, _| key.0 != kind || self.names.contains(key));
    }
}

#[derive(Debug, Clone)]
enum Step {
    Subscribe(Kind, &'static str),
    Unsubscribe(Kind, &'static str),
    Change(Kind, &'static str, Option<u8>),
    Deliver,
    Acknowledgement(Kind, bool),
    Reconnect,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = || prop::sample::select(&Kind::ALL[..]);
    let name = || prop::sample::select(&["a", "b", "wa", "wb"][..]);
    let asked = || prop::sample::select(&["a", "b", "wa", "wb", "*"][..]);
    let step = prop_oneof![
        3 => (kind(), asked()).prop_map(|(kind, name)| Step::Subscribe(kind, name)),
        2 => (kind(), asked()).prop_map(|(kind, name)| Step::Unsubscribe(kind, name)),
        5 => (kind(), name(), prop::option::of(0..4_u8)).prop_map(|(k, n, to)| Step::Change(k, n, to)),
        5 => Just(Step::Deliver),
        4 => (kind(), any::<bool>()).prop_map(|(kind, well)| Step::Acknowledgement(kind, well)),
        1 => Just(Step::Reconnect),
    ];
    prop::collection::vec(step, 1..80)
}

/// Sends the first request of each type on a new stream: all names that the client wants and the versions that it has.
fn resume(client: &Client, delta: &mut Delta) {
    for kind in Kind::ALL {
        let mut names: Vec<_> =
            client.names.iter().filter(|key| key.0 == kind).map(|key| key.1.as_str()).collect();
        names.extend(client.wildcard.contains(&kind).then_some("*"));
        // An empty first request would be a wildcard subscription.
        if !names.is_empty() {
            let versions = client.has.iter().filter(|(key, _)| key.0 == kind);
            let versions = versions.map(|(key, version)| (key.1.clone(), version.clone())).collect();
            let resumed = request(kind, &names, &[]);
            send(delta, DeltaDiscoveryRequest { initial_resource_versions: versions, ..resumed });
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_client_ends_with_the_servers_state(steps in steps()) {
        let (mut delta, mut source, mut client) = (Delta::default(), Numbers::default(), Client::default());
        let mut waiting: BTreeMap<Kind, DeltaDiscoveryResponse> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Subscribe(kind, "*") if !kind.has_wildcard() => {}
                Step::Unsubscribe(kind, "*") if !kind.has_wildcard() => {}
                Step::Subscribe(kind, name) => {
                    match name {
                        "*" => client.wildcard.insert(kind),
                        name => client.names.insert((kind, name.into())),
                    };
                    send(&mut delta, request(kind, &[name], &[]));
                }
                Step::Unsubscribe(kind, name) => {
                    // A first request that subscribes to nothing would be a wildcard.
                    if !delta.session().kinds()[kind as usize].requested {
                        continue;
                    }
                    match name {
                        "*" => client.give_up_wildcard(kind),
                        name => client.give_up(kind, name),
                    }
                    send(&mut delta, request(kind, &[], &[name]));
                }
                Step::Change(kind, name, number) => {
                    source.put(kind, name, number);
                    delta.on_change(kind, name.into());
                }
                Step::Deliver => {
                    if let Some(response) = delta.poll(&source) {
                        let kind = Kind::from_type_url(&response.type_url).unwrap();
                        client.take(&response);
                        prop_assert!(waiting.insert(kind, response).is_none(), "two responses wait");
                    }
                }
                // A client that rejects a response may still use its valid resources; this one uses all of them.
                Step::Acknowledgement(kind, well) => match waiting.remove(&kind) {
                    Some(response) if well => ack(&mut delta, &response),
                    Some(response) => answer(&mut delta, &response, Some("no")),
                    None => {}
                },
                Step::Reconnect => {
                    waiting.clear();
                    delta = Delta::default();
                    resume(&client, &mut delta);
                }
            }
        }
        for response in waiting.into_values() {
            ack(&mut delta, &response);
        }
        while let Some(response) = delta.poll(&source) {
            client.take(&response);
            ack(&mut delta, &response);
        }
        for kind in Kind::ALL {
            let wanted: BTreeMap<_, _> = source.0.keys().filter(|key| key.0 == kind).filter_map(|key| {
                let wild = client.wildcard.contains(&kind) && source.in_wildcard(kind, &key.1);
                let version = || source.resource(kind, &key.1).unwrap().version.to_string();
                (wild || client.names.contains(key)).then(|| (key.clone(), version()))
            }).collect();
            let has: BTreeMap<_, _> = client.has.clone().into_iter().filter(|(key, _)| key.0 == kind).collect();
            prop_assert_eq!(has, wanted);
            let state = &delta.session().kinds()[kind as usize];
            prop_assert!(state.pending.is_empty() && state.removals.is_empty() && state.outstanding.is_none());
            prop_assert!(state.client_versions.iter().all(|(name, client_versions)| match client_versions {
                ClientVersion::Absent => state.names.contains(name),
                ClientVersion::Version(_) | ClientVersion::Foreign => state.covers(name),
            }), "memory is what is subscribed");
        }
    }
}
