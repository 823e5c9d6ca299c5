use std::collections::BTreeMap;

use outrigger_proto::xds::protobuf::Any;

use super::*;

/// A mesh of names, each with a number as its content. `*` selects the names that begin with `w`.
#[derive(Debug, Default, Clone)]
pub(in crate::xds) struct Numbers(pub(in crate::xds) BTreeMap<(Kind, String), u8>);

impl Numbers {
    pub(in crate::xds) fn with(mut self, kind: Kind, name: &str, number: u8) -> Self {
        self.0.insert((kind, name.into()), number);
        self
    }

    pub(in crate::xds) fn put(&mut self, kind: Kind, name: &str, number: Option<u8>) {
        match number {
            Some(number) => self.0.insert((kind, name.into()), number),
            None => self.0.remove(&(kind, name.into())),
        };
    }

    fn set(&mut self, session: &mut Session, kind: Kind, name: &str, number: Option<u8>) {
        self.put(kind, name, number);
        session.on_change(kind, name.into());
    }
}

impl ResourceView for Numbers {
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

fn names(names: &[&str]) -> Vec<Name> {
    names.iter().map(|name| Name::from(*name)).collect()
}

fn request(kind: Kind, subscribe: &[&str], unsubscribe: &[&str]) -> Request {
    let (subscribe, unsubscribe) = (names(subscribe), names(unsubscribe));
    Request { kind, acknowledgement: None, subscribe, unsubscribe, kept: Vec::new() }
}

fn send(session: &mut Session, request: Request) -> SubscriptionChange {
    session.on_request(request, Timestamp::UNIX_EPOCH).unwrap()
}

fn ack(session: &mut Session, update: &Update) {
    answer(session, update, None);
}

fn nack(session: &mut Session, update: &Update, text: &str) {
    answer(session, update, Some(text));
}

fn answer(session: &mut Session, update: &Update, rejection: Option<&str>) {
    let answer = Acknowledgement { nonce: update.nonce, rejection: rejection.map(String::from) };
    send(session, Request { acknowledgement: Some(answer), ..request(update.kind, &[], &[]) });
}

/// Returns everything that may be sent, in order, such as `lds +a -b`. Each response is acknowledged at once.
fn settle(session: &mut Session, source: &Numbers) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(response) = session.poll(source) {
        told.push(words(&response));
        ack(session, &response);
    }
    told
}

fn words(update: &Update) -> String {
    let mut words = vec![update.kind.service().to_owned()];
    words.extend(update.resources.iter().map(|resource| format!("+{}", resource.name)));
    words.extend(update.removed.iter().map(|name| format!("-{name}")));
    words.join(" ")
}

#[test]
fn names_are_answered_and_what_does_not_exist_is_answered_as_removed() {
    let (mut session, source) = (Session::default(), Numbers::default().with(Kind::Listener, "a", 1));
    let interest = send(&mut session, request(Kind::Listener, &["a", "b"], &[]));
    assert_eq!(interest.added, [(Kind::Listener, "a".into()), (Kind::Listener, "b".into())]);
    assert_eq!(settle(&mut session, &source), ["lds +a -b"]);
    assert!(session.poll(&source).is_none());
}

#[test]
fn a_created_resource_is_sent_and_a_deleted_one_is_removed() {
    let (mut session, mut source) = (Session::default(), Numbers::default());
    send(&mut session, request(Kind::Listener, &["a"], &[]));
    assert_eq!(settle(&mut session, &source), ["lds -a"]);
    source.set(&mut session, Kind::Listener, "a", Some(1));
    assert_eq!(settle(&mut session, &source), ["lds +a"]);
    source.set(&mut session, Kind::Listener, "a", None);
    assert_eq!(settle(&mut session, &source), ["lds -a"]);
}

#[test]
fn an_empty_wildcard_is_answered_once_with_an_empty_response() {
    let (mut session, mut source) = (Session::default(), Numbers::default());
    send(&mut session, request(Kind::Cluster, &[], &[]));
    send(&mut session, request(Kind::Listener, &["*"], &[]));
    assert_eq!(settle(&mut session, &source), ["cds", "lds"]);
    source.set(&mut session, Kind::Cluster, "a", Some(1));
    assert_eq!(settle(&mut session, &source), Vec::<String>::new());
    send(&mut session, request(Kind::Listener, &["*"], &[]));
    assert_eq!(settle(&mut session, &source), ["lds"]);
}

#[test]
fn a_client_that_reconnects_with_unchanged_resources_gets_nothing() {
    let source = Numbers::default().with(Kind::Cluster, "w", 1);
    let kept = vec![("w".into(), Some(source.resource(Kind::Cluster, "w").unwrap().version))];
    let mut session = Session::default();
    send(&mut session, Request { kept, ..request(Kind::Cluster, &["*"], &[]) });
    assert_eq!(settle(&mut session, &source), Vec::<String>::new());
}

#[test]
fn unchanged_and_unsubscribed_resources_are_not_sent() {
    let (mut session, mut source) = (Session::default(), Numbers::default().with(Kind::Cluster, "a", 1));
    send(&mut session, request(Kind::Cluster, &["a"], &[]));
    settle(&mut session, &source);
    source.set(&mut session, Kind::Cluster, "a", Some(1));
    source.set(&mut session, Kind::Cluster, "other", Some(1));
    assert_eq!(settle(&mut session, &source), Vec::<String>::new());
}

#[test]
fn subscribing_again_sends_again() {
    let (mut session, source) = (Session::default(), Numbers::default().with(Kind::Cluster, "wa", 1));
    send(&mut session, request(Kind::Cluster, &["wa", "*"], &[]));
    assert_eq!(settle(&mut session, &source), ["cds +wa"]);
    send(&mut session, request(Kind::Cluster, &["wa"], &[]));
    assert_eq!(settle(&mut session, &source), ["cds +wa"]);
    send(&mut session, request(Kind::Cluster, &["*"], &[]));
    assert_eq!(settle(&mut session, &source), ["cds +wa"]);
}

#[test]
fn an_empty_first_request_is_a_wildcard_until_the_first_name() {
    let mut source = Numbers::default().with(Kind::Listener, "wa", 1).with(Kind::Listener, "b", 1);
    let mut session = Session::default();
    let interest = send(&mut session, request(Kind::Listener, &[], &[]));
    assert_eq!(interest.added, [(Kind::Listener, "*".into())]);
    assert_eq!(settle(&mut session, &source), ["lds +wa"]);
    let interest = send(&mut session, request(Kind::Listener, &["b"], &[]));
    assert_eq!(interest.dropped, [(Kind::Listener, "*".into())]);
    assert_eq!(settle(&mut session, &source), ["lds +b"]);
    source.set(&mut session, Kind::Listener, "wa", Some(2));
    assert_eq!(settle(&mut session, &source), Vec::<String>::new());
}

#[test]
fn routes_and_endpoints_have_no_wildcard() {
    let source = Numbers::default().with(Kind::Route, "wa", 1);
    let mut session = Session::default();
    assert_eq!(send(&mut session, request(Kind::Route, &[], &[])), SubscriptionChange::default());
    assert_eq!(settle(&mut session, &source), Vec::<String>::new());
    send(&mut session, request(Kind::Route, &["*"], &[]));
    assert_eq!(settle(&mut session, &source), ["rds -*"]);
}

#[test]
fn an_unsubscribed_name_under_a_wildcard_is_answered() {
    let source = Numbers::default().with(Kind::Cluster, "wa", 1).with(Kind::Cluster, "b", 1);
    let mut session = Session::default();
    send(&mut session, request(Kind::Cluster, &["*", "wa", "b"], &[]));
    assert_eq!(settle(&mut session, &source), ["cds +b +wa"]);
    send(&mut session, request(Kind::Cluster, &[], &["wa", "b"]));
    assert_eq!(settle(&mut session, &source), ["cds +wa -b"]);
}

#[test]
fn unsubscribing_the_wildcard_keeps_the_names() {
    let mut source = Numbers::default().with(Kind::Cluster, "wa", 1).with(Kind::Cluster, "b", 1);
    let mut session = Session::default();
    send(&mut session, request(Kind::Cluster, &["*", "b"], &[]));
    settle(&mut session, &source);
    send(&mut session, request(Kind::Cluster, &[], &["*"]));
    source.set(&mut session, Kind::Cluster, "wa", Some(2));
    source.set(&mut session, Kind::Cluster, "b", Some(2));
    assert_eq!(settle(&mut session, &source), ["cds +b"]);
}

#[test]
fn a_name_unsubscribed_and_subscribed_in_one_request_is_subscribed() {
    let source = Numbers::default().with(Kind::Cluster, "a", 1);
    let mut session = Session::default();
    send(&mut session, request(Kind::Cluster, &["a"], &[]));
    settle(&mut session, &source);
    let interest = send(&mut session, request(Kind::Cluster, &["a"], &["a"]));
    assert_eq!((interest.dropped.len(), interest.added.len()), (1, 1));
    assert_eq!(settle(&mut session, &source), ["cds +a"]);
}

#[test]
fn one_response_is_outstanding_and_changes_meanwhile_are_merged() {
    let (mut session, mut source) = (Session::default(), Numbers::default().with(Kind::Cluster, "a", 1));
    send(&mut session, request(Kind::Cluster, &["a"], &[]));
    let first = session.poll(&source).unwrap();
    for number in 2..50 {
        source.set(&mut session, Kind::Cluster, "a", Some(number));
        assert!(session.poll(&source).is_none());
    }
    ack(&mut session, &first);
    let second = session.poll(&source).unwrap();
    assert_eq!(words(&second), "cds +a");
    ack(&mut session, &second);
    assert!(session.poll(&source).is_none());
}

#[test]
fn a_stale_nonce_acknowledges_nothing_but_its_subscriptions_count() {
    let source = Numbers::default().with(Kind::Cluster, "a", 1).with(Kind::Cluster, "b", 1);
    let mut session = Session::default();
    send(&mut session, request(Kind::Cluster, &["a"], &[]));
    let first = session.poll(&source).unwrap();
    let answer = Some(Acknowledgement { nonce: 0, rejection: Some("no".into()) });
    let stale = Request { acknowledgement: answer, ..request(Kind::Cluster, &["b"], &[]) };
    let interest = send(&mut session, stale);
    assert_eq!(interest.added, [(Kind::Cluster, "b".into())]);
    assert!(session.poll(&source).is_none(), "the first response still waits");
    assert!(session.kinds()[0].nacks.is_empty());
    ack(&mut session, &first);
    assert_eq!(settle(&mut session, &source), ["cds +b"]);
}

#[test]
fn a_rejected_resource_is_recorded_by_name_and_sent_again_only_when_changed() {
    let mut source = Numbers::default().with(Kind::Cluster, "a", 1).with(Kind::Cluster, "b", 1);
    let mut session = Session::default();
    send(&mut session, request(Kind::Cluster, &["a", "b"], &[]));
    let response = session.poll(&source).unwrap();
    nack(&mut session, &response, "cluster b: no such thing");
    let state = &session.kinds()[0];
    assert_eq!(state.nacks.keys().map(|name| name.as_ref()).collect::<Vec<_>>(), ["b"]);
    assert!(state.acked.contains_key("a") && !state.acked.contains_key("b"));
    assert_eq!(settle(&mut session, &source), Vec::<String>::new());
    source.set(&mut session, Kind::Cluster, "b", Some(2));
    assert_eq!(settle(&mut session, &source), ["cds +b"]);
    assert!(session.kinds()[0].nacks.is_empty());
}

#[test]
fn a_rejection_without_names_is_recorded_for_the_whole_response() {
    let source = Numbers::default().with(Kind::Cluster, "aa", 1).with(Kind::Cluster, "bb", 1);
    let mut session = Session::default();
    send(&mut session, request(Kind::Cluster, &["aa", "bb"], &[]));
    let response = session.poll(&source).unwrap();
    nack(&mut session, &response, "no memory");
    assert_eq!(session.refused(), 2);
}

#[test]
fn a_client_that_reconnects_gets_the_difference() {
    let source = Numbers::default().with(Kind::Cluster, "same", 1).with(Kind::Cluster, "wsame", 1).with(
        Kind::Cluster,
        "other",
        2,
    );
    let version = |name| Some(source.resource(Kind::Cluster, name).unwrap().version);
    let mut session = Session::default();
    let kept = vec![
        ("same".into(), version("same")),
        ("wsame".into(), version("wsame")),
        ("other".into(), None),
        ("removals".into(), version("same")),
        ("wgone".into(), version("same")),
    ];
    let resumed = request(Kind::Cluster, &["*", "same", "other", "removals", "new"], &[]);
    send(&mut session, Request { kept, ..resumed });
    assert_eq!(settle(&mut session, &source), ["cds +other -new", "cds -removals -wgone"]);
}

#[test]
fn updates_go_from_clusters_to_routes_and_removals_last_the_other_way() {
    let mut source = Kind::ALL.into_iter().fold(Numbers::default(), |all, kind| all.with(kind, "old", 1));
    let mut session = Session::default();
    for kind in Kind::ALL.into_iter().rev() {
        send(&mut session, request(kind, &["old", "new"], &[]));
    }
    assert_eq!(
        settle(&mut session, &source),
        ["cds -new +old", "eds -new +old", "lds -new +old", "rds -new +old"].map(|words| {
            let mut parts: Vec<_> = words.split(' ').collect();
            parts[1..].sort_unstable();
            parts.join(" ")
        })
    );
    for kind in Kind::ALL {
        source.set(&mut session, kind, "old", None);
        source.set(&mut session, kind, "new", Some(1));
    }
    let told = settle(&mut session, &source);
    assert_eq!(
        told,
        ["cds +new", "eds +new", "lds +new", "rds +new", "lds -old", "rds -old", "eds -old", "cds -old"]
    );
}

#[test]
fn nothing_is_removed_while_an_update_is_outstanding() {
    let mut source = Numbers::default().with(Kind::Cluster, "old", 1).with(Kind::Route, "r", 1);
    let mut session = Session::default();
    send(&mut session, request(Kind::Cluster, &["old"], &[]));
    send(&mut session, request(Kind::Route, &["r"], &[]));
    settle(&mut session, &source);
    source.set(&mut session, Kind::Cluster, "old", None);
    source.set(&mut session, Kind::Route, "r", Some(2));
    let route = session.poll(&source).unwrap();
    assert_eq!(words(&route), "rds +r");
    assert!(session.poll(&source).is_none());
    ack(&mut session, &route);
    assert_eq!(settle(&mut session, &source), ["cds -old"]);
}

#[test]
fn after_a_client_has_moved_only_endpoints_that_differ_are_sent() {
    let mut source = Numbers::default().with(Kind::Endpoints, "a", 1).with(Kind::Endpoints, "b", 1);
    let mut session = Session::default();
    send(&mut session, request(Kind::Endpoints, &["a", "b"], &[]));
    settle(&mut session, &source);
    source.put(Kind::Endpoints, "b", Some(2));
    session.on_change(Kind::Endpoints, WILDCARD.into());
    assert_eq!(settle(&mut session, &source), ["eds +b"]);
}

#[test]
fn endpoints_follow_their_changed_cluster_though_unchanged() {
    let mut source = Numbers::default().with(Kind::Cluster, "a", 1).with(Kind::Endpoints, "a", 1);
    let mut session = Session::default();
    send(&mut session, request(Kind::Cluster, &["a"], &[]));
    send(&mut session, request(Kind::Endpoints, &["a"], &[]));
    settle(&mut session, &source);
    source.set(&mut session, Kind::Cluster, "a", Some(2));
    let cluster = session.poll(&source).unwrap();
    let endpoints = session.poll(&source).unwrap();
    assert_eq!((words(&cluster).as_str(), words(&endpoints).as_str()), ("cds +a", "eds +a"));
}

#[test]
fn a_large_wildcard_is_sent_completely_in_parts() {
    let names: Vec<_> = (0..2 * UPDATE_NAMES + 1).map(|n| format!("w{n}")).collect();
    let source = names.iter().fold(Numbers::default(), |all, name| all.with(Kind::Cluster, name, 1));
    let mut session = Session::default();
    send(&mut session, request(Kind::Cluster, &["*"], &[]));
    let sizes: Vec<_> = std::iter::from_fn(|| {
        let response = session.poll(&source)?;
        ack(&mut session, &response);
        Some(response.resources.len())
    })
    .collect();
    assert_eq!(sizes, [UPDATE_NAMES, UPDATE_NAMES, 1]);
}

#[test]
fn a_stream_with_too_many_subscriptions_is_refused() {
    let names: Vec<_> = (0..=MAX_NAMES).map(|n| n.to_string()).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let rejection = Session::default().on_request(request(Kind::Cluster, &names, &[]), Timestamp::UNIX_EPOCH);
    assert_eq!(rejection, Err(TooManyNames(Kind::Cluster)));
}
