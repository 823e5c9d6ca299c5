use std::collections::{BTreeMap, BTreeSet, HashMap};

use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::rpc::Status;

use super::*;

mod client;

/// A mesh of names with a number each. `*` means the names that begin with `w`.
#[derive(Debug, Default, Clone)]
struct Numbers(BTreeMap<(Kind, String), u8>);

impl Numbers {
    fn with(mut self, kind: Kind, name: &str, number: u8) -> Self {
        self.0.insert((kind, name.into()), number);
        self
    }

    fn set(&mut self, stream: &mut Stream, kind: Kind, name: &str, number: Option<u8>) {
        match number {
            Some(number) => self.0.insert((kind, name.into()), number),
            None => self.0.remove(&(kind, name.into())),
        };
        stream.on_change(kind, name.into());
    }
}

impl Source for Numbers {
    fn resource(&self, kind: Kind, name: &str) -> Option<Arc<Resource>> {
        let number = self.0.get(&(kind, name.to_owned()))?;
        Some(Resource::new(kind, name, &Any { type_url: String::new(), value: vec![*number] }))
    }

    fn wildcard(&self, kind: Kind) -> Vec<Name> {
        let all = self.0.keys().filter(|(of, name)| *of == kind && self.in_wildcard(kind, name));
        all.map(|(_, name)| name.as_str().into()).collect()
    }

    fn in_wildcard(&self, _: Kind, name: &str) -> bool {
        name.starts_with('w')
    }
}

fn request(kind: Kind, subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url().into(),
        resource_names_subscribe: subscribe.iter().map(|name| (*name).into()).collect(),
        resource_names_unsubscribe: unsubscribe.iter().map(|name| (*name).into()).collect(),
        ..Default::default()
    }
}

fn send(stream: &mut Stream, request: DeltaDiscoveryRequest) -> Interest {
    stream.on_request(&request, Timestamp::UNIX_EPOCH).unwrap()
}

fn ack(stream: &mut Stream, response: &DeltaDiscoveryResponse) {
    let ack = DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..Default::default()
    };
    send(stream, ack);
}

fn nack(stream: &mut Stream, response: &DeltaDiscoveryResponse, text: &str) {
    let nack = DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        error_detail: Some(Status { message: text.into(), ..Default::default() }),
        ..Default::default()
    };
    send(stream, nack);
}

/// Everything that may be sent, each response acknowledged at once: `lds +a -b` in order.
fn settle(stream: &mut Stream, source: &Numbers) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(response) = stream.poll(source) {
        told.push(words(&response));
        ack(stream, &response);
    }
    told
}

fn words(response: &DeltaDiscoveryResponse) -> String {
    let mut words = vec![Kind::from_type_url(&response.type_url).unwrap().as_str().to_owned()];
    words.extend(response.resources.iter().map(|resource| format!("+{}", resource.name)));
    words.extend(response.removed_resources.iter().map(|name| format!("-{name}")));
    words.join(" ")
}

#[test]
fn names_are_answered_and_what_does_not_exist_is_answered_as_removed() {
    let (mut stream, source) = (Stream::default(), Numbers::default().with(Kind::Listener, "a", 1));
    let interest = send(&mut stream, request(Kind::Listener, &["a", "b"], &[]));
    assert_eq!(interest.added, [(Kind::Listener, "a".into()), (Kind::Listener, "b".into())]);
    assert_eq!(settle(&mut stream, &source), ["lds +a -b"]);
    assert!(stream.poll(&source).is_none());
}

#[test]
fn a_name_that_begins_to_exist_is_sent_and_one_that_ceases_is_removed() {
    let (mut stream, mut source) = (Stream::default(), Numbers::default());
    send(&mut stream, request(Kind::Listener, &["a"], &[]));
    assert_eq!(settle(&mut stream, &source), ["lds -a"]);
    source.set(&mut stream, Kind::Listener, "a", Some(1));
    assert_eq!(settle(&mut stream, &source), ["lds +a"]);
    source.set(&mut stream, Kind::Listener, "a", None);
    assert_eq!(settle(&mut stream, &source), ["lds -a"]);
}

#[test]
fn what_did_not_change_and_what_nobody_asked_for_sends_nothing() {
    let (mut stream, mut source) = (Stream::default(), Numbers::default().with(Kind::Cluster, "a", 1));
    send(&mut stream, request(Kind::Cluster, &["a"], &[]));
    settle(&mut stream, &source);
    source.set(&mut stream, Kind::Cluster, "a", Some(1));
    source.set(&mut stream, Kind::Cluster, "other", Some(1));
    assert_eq!(settle(&mut stream, &source), Vec::<String>::new());
}

#[test]
fn subscribing_again_sends_again() {
    let (mut stream, source) = (Stream::default(), Numbers::default().with(Kind::Cluster, "wa", 1));
    send(&mut stream, request(Kind::Cluster, &["wa", "*"], &[]));
    assert_eq!(settle(&mut stream, &source), ["cds +wa"]);
    send(&mut stream, request(Kind::Cluster, &["wa"], &[]));
    assert_eq!(settle(&mut stream, &source), ["cds +wa"]);
    send(&mut stream, request(Kind::Cluster, &["*"], &[]));
    assert_eq!(settle(&mut stream, &source), ["cds +wa"]);
}

#[test]
fn an_empty_first_request_is_a_wildcard_until_the_first_name() {
    let mut source = Numbers::default().with(Kind::Listener, "wa", 1).with(Kind::Listener, "b", 1);
    let mut stream = Stream::default();
    let interest = send(&mut stream, request(Kind::Listener, &[], &[]));
    assert_eq!(interest.added, [(Kind::Listener, "*".into())]);
    assert_eq!(settle(&mut stream, &source), ["lds +wa"]);
    let interest = send(&mut stream, request(Kind::Listener, &["b"], &[]));
    assert_eq!(interest.dropped, [(Kind::Listener, "*".into())]);
    assert_eq!(settle(&mut stream, &source), ["lds +b"]);
    source.set(&mut stream, Kind::Listener, "wa", Some(2));
    assert_eq!(settle(&mut stream, &source), Vec::<String>::new());
}

#[test]
fn routes_and_endpoints_have_no_wildcard() {
    let source = Numbers::default().with(Kind::Route, "wa", 1);
    let mut stream = Stream::default();
    assert_eq!(send(&mut stream, request(Kind::Route, &[], &[])), Interest::default());
    assert_eq!(settle(&mut stream, &source), Vec::<String>::new());
    send(&mut stream, request(Kind::Route, &["*"], &[]));
    assert_eq!(settle(&mut stream, &source), ["rds -*"]);
}

#[test]
fn a_name_given_up_under_a_wildcard_is_answered_either_way() {
    let source = Numbers::default().with(Kind::Cluster, "wa", 1).with(Kind::Cluster, "b", 1);
    let mut stream = Stream::default();
    send(&mut stream, request(Kind::Cluster, &["*", "wa", "b"], &[]));
    assert_eq!(settle(&mut stream, &source), ["cds +b +wa"]);
    send(&mut stream, request(Kind::Cluster, &[], &["wa", "b"]));
    assert_eq!(settle(&mut stream, &source), ["cds +wa -b"]);
}

#[test]
fn giving_up_the_wildcard_keeps_the_names() {
    let mut source = Numbers::default().with(Kind::Cluster, "wa", 1).with(Kind::Cluster, "b", 1);
    let mut stream = Stream::default();
    send(&mut stream, request(Kind::Cluster, &["*", "b"], &[]));
    settle(&mut stream, &source);
    send(&mut stream, request(Kind::Cluster, &[], &["*"]));
    source.set(&mut stream, Kind::Cluster, "wa", Some(2));
    source.set(&mut stream, Kind::Cluster, "b", Some(2));
    assert_eq!(settle(&mut stream, &source), ["cds +b"]);
}

#[test]
fn a_name_given_up_and_asked_for_in_one_request_is_asked_for() {
    let source = Numbers::default().with(Kind::Cluster, "a", 1);
    let mut stream = Stream::default();
    send(&mut stream, request(Kind::Cluster, &["a"], &[]));
    settle(&mut stream, &source);
    let interest = send(&mut stream, request(Kind::Cluster, &["a"], &["a"]));
    assert_eq!((interest.dropped.len(), interest.added.len()), (1, 1));
    assert_eq!(settle(&mut stream, &source), ["cds +a"]);
}

#[test]
fn one_response_waits_at_a_time_and_changes_meanwhile_become_one() {
    let (mut stream, mut source) = (Stream::default(), Numbers::default().with(Kind::Cluster, "a", 1));
    send(&mut stream, request(Kind::Cluster, &["a"], &[]));
    let first = stream.poll(&source).unwrap();
    for number in 2..50 {
        source.set(&mut stream, Kind::Cluster, "a", Some(number));
        assert!(stream.poll(&source).is_none());
    }
    ack(&mut stream, &first);
    let second = stream.poll(&source).unwrap();
    assert_eq!(words(&second), "cds +a");
    ack(&mut stream, &second);
    assert!(stream.poll(&source).is_none());
}

#[test]
fn a_stale_nonce_answers_nothing_but_its_subscriptions_count() {
    let source = Numbers::default().with(Kind::Cluster, "a", 1).with(Kind::Cluster, "b", 1);
    let mut stream = Stream::default();
    send(&mut stream, request(Kind::Cluster, &["a"], &[]));
    let first = stream.poll(&source).unwrap();
    let stale = DeltaDiscoveryRequest {
        response_nonce: "0".into(),
        error_detail: Some(Status::default()),
        ..request(Kind::Cluster, &["b"], &[])
    };
    let interest = send(&mut stream, stale);
    assert_eq!(interest.added, [(Kind::Cluster, "b".into())]);
    assert!(stream.poll(&source).is_none(), "the first response still waits");
    assert!(stream.kinds()[0].nacks.is_empty());
    ack(&mut stream, &first);
    assert_eq!(settle(&mut stream, &source), ["cds +b"]);
}

#[test]
fn a_refused_resource_is_recorded_by_name_and_sent_again_only_when_it_changed() {
    let mut source = Numbers::default().with(Kind::Cluster, "a", 1).with(Kind::Cluster, "b", 1);
    let mut stream = Stream::default();
    send(&mut stream, request(Kind::Cluster, &["a", "b"], &[]));
    let response = stream.poll(&source).unwrap();
    nack(&mut stream, &response, "cluster b: no such thing");
    let state = &stream.kinds()[0];
    assert_eq!(state.nacks.keys().map(|name| name.as_ref()).collect::<Vec<_>>(), ["b"]);
    assert!(state.acked.contains_key("a") && !state.acked.contains_key("b"));
    assert_eq!(settle(&mut stream, &source), Vec::<String>::new());
    source.set(&mut stream, Kind::Cluster, "b", Some(2));
    assert_eq!(settle(&mut stream, &source), ["cds +b"]);
    assert!(stream.kinds()[0].nacks.is_empty());
}

#[test]
fn a_refusal_without_names_is_recorded_for_all_that_was_sent() {
    let source = Numbers::default().with(Kind::Cluster, "aa", 1).with(Kind::Cluster, "bb", 1);
    let mut stream = Stream::default();
    send(&mut stream, request(Kind::Cluster, &["aa", "bb"], &[]));
    let response = stream.poll(&source).unwrap();
    nack(&mut stream, &response, &"ü".repeat(2000));
    let nacks = &stream.kinds()[0].nacks;
    assert_eq!(nacks.len(), 2);
    assert!(nacks.values().all(|nack| nack.detail.len() <= crate::xds::subscription::MAX_DETAIL));
}

#[test]
fn a_client_that_reconnects_is_told_the_difference() {
    let source = Numbers::default().with(Kind::Cluster, "same", 1).with(Kind::Cluster, "wsame", 1).with(
        Kind::Cluster,
        "other",
        2,
    );
    let version = |name| source.resource(Kind::Cluster, name).unwrap().version.to_string();
    let mut stream = Stream::default();
    let versions = HashMap::from([
        ("same".into(), version("same")),
        ("wsame".into(), version("wsame")),
        ("other".into(), "of another server".into()),
        ("gone".into(), version("same")),
        ("wgone".into(), version("same")),
    ]);
    send(
        &mut stream,
        DeltaDiscoveryRequest {
            initial_resource_versions: versions,
            ..request(Kind::Cluster, &["*", "same", "other", "gone", "new"], &[])
        },
    );
    assert_eq!(settle(&mut stream, &source), ["cds +other -new", "cds -gone -wgone"]);
}

#[test]
fn updates_go_from_clusters_to_routes_and_removals_last_the_other_way() {
    let mut source = Kind::ALL.into_iter().fold(Numbers::default(), |all, kind| all.with(kind, "old", 1));
    let mut stream = Stream::default();
    for kind in Kind::ALL.into_iter().rev() {
        send(&mut stream, request(kind, &["old", "new"], &[]));
    }
    assert_eq!(
        settle(&mut stream, &source),
        ["cds -new +old", "eds -new +old", "lds -new +old", "rds -new +old"].map(|words| {
            let mut parts: Vec<_> = words.split(' ').collect();
            parts[1..].sort_unstable();
            parts.join(" ")
        })
    );
    for kind in Kind::ALL {
        source.set(&mut stream, kind, "old", None);
        source.set(&mut stream, kind, "new", Some(1));
    }
    let told = settle(&mut stream, &source);
    assert_eq!(
        told,
        ["cds +new", "eds +new", "lds +new", "rds +new", "lds -old", "rds -old", "eds -old", "cds -old"]
    );
}

#[test]
fn nothing_is_removed_while_an_update_waits_for_its_answer() {
    let mut source = Numbers::default().with(Kind::Cluster, "old", 1).with(Kind::Route, "r", 1);
    let mut stream = Stream::default();
    send(&mut stream, request(Kind::Cluster, &["old"], &[]));
    send(&mut stream, request(Kind::Route, &["r"], &[]));
    settle(&mut stream, &source);
    source.set(&mut stream, Kind::Cluster, "old", None);
    source.set(&mut stream, Kind::Route, "r", Some(2));
    let route = stream.poll(&source).unwrap();
    assert_eq!(words(&route), "rds +r");
    assert!(stream.poll(&source).is_none());
    ack(&mut stream, &route);
    assert_eq!(settle(&mut stream, &source), ["cds -old"]);
}

#[test]
fn endpoints_follow_their_changed_cluster_though_unchanged() {
    let mut source = Numbers::default().with(Kind::Cluster, "a", 1).with(Kind::Endpoints, "a", 1);
    let mut stream = Stream::default();
    send(&mut stream, request(Kind::Cluster, &["a"], &[]));
    send(&mut stream, request(Kind::Endpoints, &["a"], &[]));
    settle(&mut stream, &source);
    source.set(&mut stream, Kind::Cluster, "a", Some(2));
    let cluster = stream.poll(&source).unwrap();
    let endpoints = stream.poll(&source).unwrap();
    assert_eq!((words(&cluster).as_str(), words(&endpoints).as_str()), ("cds +a", "eds +a"));
}

#[test]
fn a_large_wildcard_is_sent_in_parts_and_whole() {
    let names: Vec<_> = (0..2 * RESPONSE_NAMES + 1).map(|n| format!("w{n}")).collect();
    let source = names.iter().fold(Numbers::default(), |all, name| all.with(Kind::Cluster, name, 1));
    let mut stream = Stream::default();
    send(&mut stream, request(Kind::Cluster, &["*"], &[]));
    let sizes: Vec<_> = std::iter::from_fn(|| {
        let response = stream.poll(&source)?;
        ack(&mut stream, &response);
        Some(response.resources.len())
    })
    .collect();
    assert_eq!(sizes, [RESPONSE_NAMES, RESPONSE_NAMES, 1]);
}

#[test]
fn a_stream_that_asks_for_too_much_is_refused() {
    let names: Vec<_> = (0..=MAX_NAMES).map(|n| n.to_string()).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let refusal = Stream::default().on_request(&request(Kind::Cluster, &names, &[]), Timestamp::UNIX_EPOCH);
    assert_eq!(refusal, Err(TooManyNames(Kind::Cluster)));
}

#[test]
fn a_type_that_is_not_served_has_no_resources_and_disturbs_no_other() {
    let (mut stream, source) = (Stream::default(), Numbers::default().with(Kind::Cluster, "a", 1));
    let unknown = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/x".into(),
        resource_names_subscribe: vec!["s".into()],
        ..Default::default()
    };
    assert_eq!(send(&mut stream, unknown), Interest::default());
    send(&mut stream, request(Kind::Cluster, &["a"], &[]));
    let cluster = stream.poll(&source).unwrap();
    assert_eq!(words(&cluster), "cds +a");
    let absent = stream.poll(&source).unwrap();
    assert_eq!((absent.removed_resources, absent.nonce), (vec!["s".to_owned()], "2".to_owned()));
    ack(&mut stream, &cluster);
    assert!(stream.poll(&source).is_none());
}
