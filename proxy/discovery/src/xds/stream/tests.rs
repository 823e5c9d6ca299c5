//! The stream machine against a model of a delta server: whatever happens in between, the client ends with the last good version
//! of every wanted resource that the server has.

use std::collections::BTreeMap;

use outrigger_proto::xds::protobuf::Any;
use proptest::prelude::*;

use super::*;

fn resource(kind: Kind, name: &str, version: &str) -> discovery::Resource {
    discovery::Resource {
        name: name.into(),
        version: version.into(),
        resource: Some(Any { type_url: kind.type_url().into(), value: version.into() }),
        ..Default::default()
    }
}

fn response(kind: Kind, nonce: &str, resources: Vec<discovery::Resource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: kind.type_url().into(),
        nonce: nonce.into(),
        resources,
        ..Default::default()
    }
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.into_iter().map(Into::into).collect()
}

fn connected(kind: Kind, wanted: BTreeSet<String>) -> Stream {
    let mut stream = Stream::new(Node { id: "n".into(), ..Default::default() });
    stream.want(kind, wanted);
    stream.connect(|_| HashMap::new());
    stream
}

fn update(received: Received) -> Update {
    match received {
        Received::Update(update) => update,
        Received::Nack(reason, _) => panic!("refused: {reason}"),
    }
}

#[test]
fn a_connection_starts_with_all_names_the_held_versions_and_the_node_once() {
    let mut stream = Stream::new(Node { id: "n".into(), ..Default::default() });
    assert_eq!(stream.want(Kind::Listener, names(["*", "cart:80"])), None, "not connected");
    stream.want(Kind::Route, names(["cart"]));
    let held = |kind| match kind {
        Kind::Route => HashMap::from([("cart".into(), "1".into()), ("gone".into(), "2".into())]),
        _ => HashMap::from([("cart:80".to_owned(), "3".to_owned()), ("inbound|x".into(), "4".into())]),
    };
    let [listeners, routes] = stream.connect(held).try_into().unwrap();
    assert_eq!(listeners.resource_names_subscribe, ["*", "cart:80"]);
    assert_eq!(listeners.initial_resource_versions.len(), 2, "the wildcard covers all that is held");
    assert_eq!(listeners.node.unwrap().id, "n");
    assert_eq!(routes.initial_resource_versions, HashMap::from([("cart".into(), "1".into())]));
    assert_eq!(routes.node, None);
    stream.disconnect();
    assert!(stream.connect(|_| HashMap::new())[0].node.is_some(), "sent again on a new connection");
}

#[test]
fn a_type_is_opened_by_its_first_name_only() {
    let mut stream = connected(Kind::Listener, names(["*"]));
    assert_eq!(stream.want(Kind::Cluster, names([])), None);
    let request = stream.want(Kind::Cluster, names(["a", "b"])).unwrap();
    assert_eq!(request.resource_names_subscribe, ["a", "b"]);
    let request = stream.want(Kind::Cluster, names(["b", "c"])).unwrap();
    assert_eq!(
        (request.resource_names_subscribe, request.resource_names_unsubscribe),
        (vec!["c".into()], vec!["a".into()])
    );
    assert_eq!(stream.want(Kind::Cluster, names(["b", "c"])), None, "no difference, nothing said");
    assert!(stream.want(Kind::Cluster, names([])).is_some());
}

#[test]
fn an_update_is_acknowledged_with_its_nonce() {
    let mut stream = connected(Kind::Cluster, names(["a"]));
    let update =
        update(stream.receive(response(Kind::Cluster, "7", vec![resource(Kind::Cluster, "a", "1")])));
    assert_eq!(&*update.changed[0].name, "a");
    let ack = stream.acknowledge(update.kind, update.nonce, &update.refused);
    assert_eq!((ack.response_nonce.as_str(), ack.error_detail), ("7", None));
    assert!(ack.resource_names_subscribe.is_empty());
}

#[test]
fn a_refused_resource_is_named_and_the_others_apply() {
    let mut stream = connected(Kind::Cluster, names(["a", "b", "c"]));
    let empty = discovery::Resource { name: "b".into(), ..Default::default() };
    let foreign = resource(Kind::Route, "c", "1");
    let received =
        stream.receive(response(Kind::Cluster, "1", vec![resource(Kind::Cluster, "a", "1"), empty, foreign]));
    let update = update(received);
    assert_eq!(update.changed.len(), 1);
    let nack = stream.acknowledge(update.kind, update.nonce, &update.refused);
    let detail = nack.error_detail.unwrap();
    assert_eq!(detail.code, INVALID_ARGUMENT);
    assert!(detail.message.starts_with("rejected: cluster \"b\", \"c\"; "), "{}", detail.message);
    assert!(
        detail.message.contains("cluster \"b\": holds no resource; cluster \"c\": "),
        "{}",
        detail.message
    );
}

#[test]
fn a_nack_names_every_refused_resource_however_long_the_reasons_are() {
    let mut stream = connected(Kind::Cluster, names(["*"]));
    let refused: Vec<_> =
        (0..500).map(|n| Refused { name: format!("cluster-{n}"), reason: "\u{20ac}".repeat(300) }).collect();
    let message = stream.acknowledge(Kind::Cluster, "1".into(), &refused).error_detail.unwrap().message;
    assert!(refused.iter().all(|refused| message.contains(&format!("{:?}", refused.name))));
    let (_, reasons) = message.split_once("; ").unwrap();
    assert!((NACK_REASON_BYTES - 3..=NACK_REASON_BYTES).contains(&reasons.len()), "{}", reasons.len());
}

#[test]
fn duplicate_names_and_unknown_types_are_refused_as_a_whole() {
    let mut stream = connected(Kind::Cluster, names(["a"]));
    let twice = vec![resource(Kind::Cluster, "a", "1"), resource(Kind::Cluster, "a", "2")];
    let Received::Nack(reason, nack) = stream.receive(response(Kind::Cluster, "1", twice)) else { panic!() };
    assert!(reason.contains("more than once"));
    assert_eq!(nack.response_nonce, "1");
    let mut both = response(Kind::Cluster, "2", vec![resource(Kind::Cluster, "a", "1")]);
    both.removed_resources = vec!["a".into()];
    assert!(matches!(stream.receive(both), Received::Nack(..)));
    let unknown = DeltaDiscoveryResponse { type_url: "x".into(), nonce: "3".into(), ..Default::default() };
    let Received::Nack(_, nack) = stream.receive(unknown) else { panic!() };
    assert_eq!((nack.type_url.as_str(), nack.response_nonce.as_str()), ("x", "3"));
    assert!(nack.error_detail.is_some());
}

#[test]
fn unsubscribed_resources_are_ignored_but_acknowledged() {
    let mut stream = connected(Kind::Cluster, names(["a"]));
    stream.want(Kind::Cluster, names([]));
    let mut late = response(Kind::Cluster, "1", vec![resource(Kind::Cluster, "a", "1")]);
    late.removed_resources = vec!["z".into()];
    let update = update(stream.receive(late));
    assert_eq!((update.changed, update.removed, update.refused), (vec![], vec![], vec![]));
}

/// What happens between client and server.
#[derive(Debug, Clone)]
enum Event {
    /// The server gets a new version of a resource; `true`: one that the client must refuse.
    Set(u8, bool),
    Remove(u8),
    Want(Vec<u8>, bool),
    /// The server sends all pending responses.
    Push,
    /// Client messages reach the server.
    Deliver,
    Reconnect,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..6u8, prop::bool::weighted(0.2)).prop_map(|(name, bad)| Event::Set(name, bad)),
        (0..6u8).prop_map(Event::Remove),
        (prop::collection::vec(0..6u8, 0..4), any::<bool>()).prop_map(|(names, all)| Event::Want(names, all)),
        Just(Event::Push),
        Just(Event::Deliver),
        Just(Event::Reconnect),
    ]
}

/// A delta server for one type, written from the protocol's text.
#[derive(Default)]
struct Server {
    resources: BTreeMap<String, (u32, bool)>,
    clock: u32,
    subscribed: BTreeSet<String>,
    sent: BTreeMap<String, u32>,
    owed_absent: BTreeSet<String>,
}

impl Server {
    fn hear(&mut self, request: DeltaDiscoveryRequest) {
        for (name, version) in request.initial_resource_versions {
            self.sent.insert(name, version.parse().unwrap());
        }
        for name in request.resource_names_subscribe {
            // Subscribing again must resend, but the versions in the first request were sent by the previous connection.
            if self.subscribed.contains(&name) {
                self.sent.remove(&name);
            }
            // Each subscription gets a response: a resource, or its absence at that time.
            if name != WILDCARD && !self.sent.contains_key(&name) {
                self.owed_absent.insert(name.clone());
            }
            self.subscribed.insert(name);
        }
        for name in request.resource_names_unsubscribe {
            self.subscribed.remove(&name);
            if name == WILDCARD {
                self.sent.retain(|name, _| self.subscribed.contains(name));
            } else if self.sent.remove(&name).is_some() && self.subscribed.contains(WILDCARD) {
                self.owed_absent.insert(name);
            }
        }
    }

    fn push(&mut self, kind: Kind) -> DeltaDiscoveryResponse {
        let all = self.subscribed.contains(WILDCARD);
        let mut message = response(kind, &self.clock.to_string(), Vec::new());
        for (name, (version, bad)) in &self.resources {
            if (all || self.subscribed.contains(name)) && self.sent.get(name) != Some(version) {
                let mut resource = resource(kind, name, &version.to_string());
                if *bad {
                    resource.resource = None;
                }
                message.resources.push(resource);
                self.sent.insert(name.clone(), *version);
            }
        }
        let gone: Vec<_> = self.sent.keys().filter(|n| !self.resources.contains_key(*n)).cloned().collect();
        self.sent.retain(|name, _| !gone.contains(name));
        let absent = std::mem::take(&mut self.owed_absent);
        message.removed_resources =
            gone.into_iter().chain(absent).collect::<BTreeSet<_>>().into_iter().collect();
        message.removed_resources.retain(|name| !self.resources.contains_key(name));
        message
    }
}

struct Client {
    stream: Stream,
    held: BTreeMap<String, String>,
    outbox: Vec<DeltaDiscoveryRequest>,
}

impl Client {
    fn hear(&mut self, message: DeltaDiscoveryResponse) {
        let update = update(self.stream.receive(message));
        for Raw { name, version, .. } in update.changed {
            self.held.insert(name.to_string(), version);
        }
        update.removed.iter().for_each(|name| drop(self.held.remove(name)));
        self.outbox.push(self.stream.acknowledge(update.kind, update.nonce, &update.refused));
    }

    fn want(&mut self, kind: Kind, names: BTreeSet<String>) {
        self.outbox.extend(self.stream.want(kind, names));
        let stream = &self.stream;
        self.held.retain(|name, _| stream.wants(kind, name));
    }

    fn reconnect(&mut self) {
        self.outbox.clear();
        self.stream.disconnect();
        self.outbox = self.stream.connect(|_| self.held.clone().into_iter().collect());
    }
}

proptest! {
    #[test]
    fn the_client_ends_with_what_the_server_has(events in prop::collection::vec(event(), 1..60)) {
        let kind = Kind::Cluster;
        let mut server = Server::default();
        let mut client = Client { stream: Stream::new(Node::default()), held: BTreeMap::new(), outbox: vec![] };
        let mut wanted = BTreeSet::new();
        // The last good version of each name, which must be held if a bad one follows.
        let mut good: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
        client.reconnect();
        for event in events.into_iter().chain([Event::Deliver, Event::Push, Event::Deliver, Event::Push]) {
            match event {
                Event::Set(name, bad) => {
                    server.clock += 1;
                    server.resources.insert(name.to_string(), (server.clock, bad));
                    if !bad {
                        good.entry(name.to_string()).or_default().insert(server.clock);
                    }
                }
                Event::Remove(name) => drop(server.resources.remove(&name.to_string())),
                Event::Want(names, all) => {
                    // The supervisor never drops the wildcard: the server could no longer remove what it sent under the
                    // old subscription and forgot under the new one.
                    let all = all || wanted.contains(WILDCARD);
                    wanted = names.iter().map(u8::to_string).collect();
                    if all {
                        wanted.insert(WILDCARD.to_owned());
                    }
                    client.want(kind, wanted.clone());
                }
                Event::Push => client.hear(server.push(kind)),
                Event::Deliver => client.outbox.drain(..).for_each(|request| server.hear(request)),
                Event::Reconnect => {
                    server = Server { resources: server.resources, clock: server.clock, ..Server::default() };
                    client.reconnect();
                }
            }
        }
        let visible = |name: &String| wanted.contains(WILDCARD) || wanted.contains(name);
        for (name, version) in &client.held {
            prop_assert!(visible(name), "{name} is held but not wanted");
            prop_assert!(server.resources.contains_key(name), "{name} is held but does not exist");
            prop_assert!(good[name].contains(&version.parse().unwrap()), "{name}: a refused version is held");
        }
        for (name, (version, bad)) in server.resources.iter().filter(|(name, _)| visible(name)) {
            if !bad {
                prop_assert_eq!(client.held.get(name), Some(&version.to_string()), "{}", name);
            }
        }
    }
}
