use serde_json::json;

use super::*;

fn service(name: &str, version: u32, port: u16) -> DynamicObject {
    let object = json!({
        "apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": port}]},
        "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": version.to_string(),
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
            "managedFields": [{"manager": "kubectl", "operation": "Apply"}]},
    });
    serde_json::from_value(object).unwrap()
}

fn apply_event(objects: &mut Objects, kind: Kind, event: Event<DynamicObject>) {
    objects.apply(kind, Report::Event(event));
}

/// Applies events, and returns the changed resources, `-` before those that are removed.
fn apply(objects: &mut Objects, events: Vec<Event<DynamicObject>>) -> Vec<String> {
    events.into_iter().for_each(|event| apply_event(objects, Kind::Service, event));
    let changes = objects.update().map(|update| update.changes).unwrap_or_default();
    let text = |change: ResourceChange| {
        format!("{}{}", if change.resource.is_none() { "-" } else { "" }, change.id.name)
    };
    changes.into_iter().map(text).collect()
}

fn listed(objects: Vec<DynamicObject>) -> Vec<Event<DynamicObject>> {
    let listed = objects.into_iter().map(Event::InitApply);
    [Event::Init].into_iter().chain(listed).chain([Event::InitDone]).collect()
}

#[test]
fn a_list_replaces_what_was_known_and_repeats_nothing() {
    let mut objects = Objects::default();
    let both = || listed(vec![service("a", 1, 80), service("b", 1, 80)]);
    assert_eq!(apply(&mut objects, both()), ["a", "b"]);
    assert_eq!(apply(&mut objects, both()), [""; 0]);
    assert_eq!(apply(&mut objects, listed(vec![service("b", 2, 81)])), ["b", "-a"]);
    assert_eq!(apply(&mut objects, listed(Vec::new())), ["-b"]);
}

#[test]
fn nothing_is_removed_before_a_list_is_complete() {
    let mut objects = Objects::default();
    apply(&mut objects, listed(vec![service("a", 1, 80), service("b", 1, 80)]));
    let half = vec![Event::Init, Event::InitApply(service("b", 2, 81))];
    assert_eq!(apply(&mut objects, half), ["b"]);
    // The list failed, and starts again.
    assert_eq!(apply(&mut objects, listed(vec![service("a", 1, 80)])), ["-b"]);
}

#[test]
fn a_new_version_with_the_same_content_is_no_change() {
    let mut objects = Objects::default();
    apply(&mut objects, listed(vec![service("a", 1, 80)]));
    assert_eq!(apply(&mut objects, vec![Event::Apply(service("a", 2, 80))]), [""; 0]);
    assert_eq!(apply(&mut objects, vec![Event::Apply(service("a", 3, 81))]), ["a"]);
    assert_eq!(apply(&mut objects, vec![Event::Delete(service("a", 4, 81))]), ["-a"]);
}

#[test]
fn a_refused_object_keeps_its_last_good_version_and_is_reported_until_it_is_corrected_or_gone() {
    let mut objects = Objects::default();
    apply(&mut objects, listed(vec![service("a", 1, 80)]));
    let mut refused = service("a", 2, 80);
    refused.data["spec"]["type"] = json!("Later");
    apply_event(&mut objects, Kind::Service, Event::Apply(refused.clone()));
    let update = objects.update().unwrap();
    assert!(update.changes.is_empty());
    assert_eq!(
        update.refusals[0].to_string(),
        "object shop/a at version 2, Service shop/a, spec.type: unknown type \"Later\" [invalid-value]"
    );
    // As after its status was written.
    refused.metadata.resource_version = Some("3".into());
    apply_event(&mut objects, Kind::Service, Event::Apply(refused.clone()));
    assert_eq!(objects.update().unwrap().refusals, update.refusals);
    apply_event(&mut objects, Kind::Service, Event::Delete(refused));
    let update = objects.update().unwrap();
    assert!(update.refusals.is_empty() && update.changes[0].resource.is_none());
    assert!(objects.update().is_none());
}

fn route(version: &str, rule: Value) -> DynamicObject {
    let object = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "status": {"parents": []},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "a"}], "rules": [rule]},
        "metadata": {"name": "r", "namespace": "shop", "uid": "u1", "resourceVersion": version},
    });
    serde_json::from_value(object).unwrap()
}

fn good(version: &str) -> DynamicObject {
    route(version, json!({"backendRefs": [{"name": "a", "port": 80}]}))
}

fn refused() -> DynamicObject {
    route("2", json!({"filters": [{"type": "Teleport"}]}))
}

/// Returns the UID of the refused route, and the version that it falls back to.
fn fallback(objects: &Objects) -> Option<(String, Option<Arc<str>>)> {
    let route = objects.routes().borrow().all.values().next().cloned()?;
    route.refused().map(|(uid, text)| (uid.to_owned(), text.cloned()))
}

#[test]
fn a_route_that_is_refused_falls_back_to_its_last_good_version_after_a_restart() {
    let mut objects = Objects::default();
    apply_event(&mut objects, Kind::HttpRoute, Event::Apply(good("1")));
    assert_eq!(fallback(&objects), None);
    let accepted = objects.update().unwrap().changes.remove(0);
    apply_event(&mut objects, Kind::HttpRoute, Event::Apply(refused()));
    let (uid, text) = fallback(&objects).map(|(uid, text)| (uid, text.unwrap())).unwrap();
    assert!(uid == "u1" && !text.contains("status"), "{text}");

    let saved = LastGood::from([(uid, serde_json::from_str(&text).unwrap())]);
    let mut restarted = Objects::default().with_saved(saved);
    apply_event(&mut restarted, Kind::HttpRoute, Event::Apply(refused()));
    let update = restarted.update().unwrap();
    assert_eq!((update.refusals.len(), &update.changes[0].resource), (1, &accepted.resource));
    assert_eq!(fallback(&restarted).unwrap().1, Some(text));
    apply_event(&mut restarted, Kind::HttpRoute, Event::Apply(good("3")));
    assert_eq!(fallback(&restarted), None);
}

#[test]
fn the_objects_of_routes_are_kept_for_their_status_until_they_are_deleted() {
    let mut objects = Objects::default();
    let routes = objects.routes();
    let route = |version: &str| -> DynamicObject {
        let object = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "spec": {},
            "metadata": {"name": "r", "namespace": "shop", "resourceVersion": version},
        });
        serde_json::from_value(object).unwrap()
    };
    apply_event(&mut objects, Kind::HttpRoute, Event::Apply(route("1")));
    apply_event(&mut objects, Kind::Service, Event::Apply(service("a", 1, 80)));
    let first = routes.borrow().all.values().next().cloned().unwrap();
    apply_event(&mut objects, Kind::HttpRoute, Event::Apply(route("2")));
    assert_eq!(routes.borrow().all.len(), 1);
    assert_ne!(routes.borrow().all.values().next(), Some(&first), "a new version is judged again");
    apply_event(&mut objects, Kind::HttpRoute, Event::Delete(route("2")));
    assert!(routes.borrow().all.is_empty());
}

#[test]
fn routes_of_a_kind_that_is_unavailable_are_not_known_and_fall_back_when_it_is_listed_again() {
    let mut objects = Objects::default();
    let routes = objects.routes();
    let listed = |objects: &mut Objects, route: DynamicObject| {
        listed(vec![route]).into_iter().for_each(|event| apply_event(objects, Kind::HttpRoute, event));
    };
    objects.apply(Kind::HttpRoute, Report::Unavailable);
    assert!(objects.update().is_none() && routes.borrow().listed.is_empty());
    listed(&mut objects, good("1"));
    assert!(routes.borrow().listed.contains(&Kind::HttpRoute));
    apply_event(&mut objects, Kind::HttpRoute, Event::Apply(refused()));
    let before = fallback(&objects);
    let accepted = objects.update().unwrap().changes.remove(0).resource;
    objects.apply(Kind::HttpRoute, Report::Unavailable);
    assert!(routes.borrow().all.is_empty() && routes.borrow().listed.is_empty());
    assert_eq!(objects.update().unwrap().changes.remove(0).resource, None);
    listed(&mut objects, refused());
    assert_eq!((fallback(&objects), before.is_some()), (before, true));
    assert_eq!(objects.update().unwrap().changes.remove(0).resource, accepted);
}

#[test]
fn a_route_that_was_deleted_and_created_again_does_not_fall_back_to_the_former_one() {
    let mut objects = Objects::default();
    apply_event(&mut objects, Kind::HttpRoute, Event::Apply(good("1")));
    objects.update().unwrap();
    let mut again = refused();
    again.metadata.uid = Some("u2".into());
    // The watch was interrupted, so that the deletion is not seen.
    for event in [Event::Init, Event::InitApply(again), Event::InitDone] {
        apply_event(&mut objects, Kind::HttpRoute, event);
    }
    let changes = objects.update().unwrap().changes;
    assert!(changes.len() == 1 && changes[0].resource.is_none(), "{changes:?}");
    assert_eq!(fallback(&objects), Some(("u2".into(), None)));
}

fn policy(version: u32, action: &str) -> DynamicObject {
    let object = json!({
        "apiVersion": "outrigger.dev/v1alpha1", "kind": "AuthorizationPolicy",
        "spec": {"action": action, "rules": [{}], "later": 1},
        "metadata": {"name": "p", "namespace": "shop", "uid": "u", "resourceVersion": version.to_string()},
    });
    let mut object: DynamicObject = serde_json::from_value(object).unwrap();
    if !action.contains("unknown") {
        object.data["spec"].as_object_mut().unwrap().remove("later");
    }
    object
}

#[test]
fn a_refused_policy_falls_back_or_denies_and_is_not_withdrawn_while_it_cannot_be_listed() {
    let kind = Kind::AuthorizationPolicy;
    let mut objects = Objects::default();
    let mut next = |event| {
        apply_event(&mut objects, kind, event);
        let update = objects.update();
        let resource =
            update.and_then(|mut update| update.changes.pop()).map(|change| change.resource.unwrap());
        let refusals = objects.known.values().map(|known| known.refusals.len()).sum::<usize>();
        (resource.map(|resource| resource.stands_in()), refusals)
    };
    // A condition of a newer version is not ignored.
    assert_eq!(next(Event::Apply(policy(1, "Allow unknown"))), (Some(true), 3));
    assert_eq!(next(Event::Apply(policy(2, "Permit"))), (None, 2), "the same stands for it");
    assert_eq!(next(Event::Apply(policy(3, "Allow"))), (Some(false), 0));
    assert_eq!(next(Event::Apply(policy(4, "Permit"))), (None, 1), "the good version stays");
    objects.apply(kind, Report::Unavailable);
    assert!(objects.update().is_none());
}

fn secret(version: u32, key: &str) -> Box<DynamicObject> {
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": {"acme": key},
        "metadata": {"name": "s", "namespace": "keys", "uid": "u", "resourceVersion": version.to_string(),
            "labels": {"outrigger.dev/api-keys": "true"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "partner-key-of-acme"}},
    });
    Box::new(serde_json::from_value(object).unwrap())
}

#[test]
fn a_secret_of_a_policy_is_read_and_keeps_its_good_keys_while_it_is_refused() {
    let mut objects = Objects::default();
    let spec =
        json!({"apiKeys": {"secrets": [{"name": "s", "namespace": "keys"}], "from": [{"header": "x"}]}});
    let mut policy = policy(1, "Allow");
    (policy.data["kind"], policy.data["spec"]) = ("AuthenticationPolicy".into(), spec);
    apply_event(&mut objects, Kind::AuthenticationPolicy, Event::Apply(policy.clone()));
    objects.update().unwrap();
    // A Secret of another namespace is not read before its namespace permits that.
    for (version, to, permitted) in [(1, "t", false), (2, "s", true)] {
        let mut grant = service("g", version, 80);
        grant.metadata.namespace = Some("keys".into());
        let from = json!({"group": "outrigger.dev", "kind": "AuthenticationPolicy", "namespace": "shop"});
        let to = json!({"group": "", "kind": "Secret", "name": to});
        (grant.data["kind"], grant.data["spec"]) =
            ("ReferenceGrant".into(), json!({"from": [from], "to": [to]}));
        apply_event(&mut objects, Kind::ReferenceGrant, Event::Apply(grant));
        assert_eq!(!objects.secrets_of_policies().is_empty(), permitted);
    }
    objects.update().unwrap();
    let id = ResourceId { kind: Kind::Secret, namespace: "keys".into(), name: "s".into() };
    assert_eq!(objects.secrets_of_policies(), [id.clone()].into());
    let mut next = |report| {
        objects.apply_secret(&id, report);
        let update = objects.update()?;
        let shown = format!("{update:?} {:?}", objects.known);
        // Both as clear text and as Base64 of the object.
        assert!(!shown.contains("partner-key") && !shown.contains("cGFydG5lci1r"), "{shown}");
        let resource = update
            .changes
            .into_iter()
            .last()
            .map(|change| change.resource.as_deref().map(Resource::stands_in));
        Some((resource, update.refusals.len()))
    };
    let good = "cGFydG5lci1rZXktb2YtYWNtZQo=";
    assert_eq!(next(SecretReport::Unreadable("away".into())), Some((Some(Some(true)), 0)));
    assert_eq!(next(SecretReport::Unreadable("away".into())), None, "nothing is new");
    assert_eq!(next(SecretReport::Unreadable("forbidden".into())), Some((Some(Some(true)), 0)));
    assert_eq!(next(SecretReport::Current(secret(1, good))), Some((Some(Some(false)), 0)));
    assert_eq!(next(SecretReport::Unreadable("forbidden".into())), None, "what was read is used");
    assert_eq!(next(SecretReport::Current(secret(2, "!"))), Some((Some(Some(false)), 1)), "with the problem");
    assert_eq!(next(SecretReport::Current(secret(3, good))), Some((Some(Some(false)), 0)));
    assert_eq!(next(SecretReport::Missing), Some((Some(None), 0)));
    assert_eq!(next(SecretReport::Current(secret(4, "!"))), Some((Some(Some(true)), 2)));
    apply_event(&mut objects, Kind::AuthenticationPolicy, Event::Delete(policy));
    assert!(objects.secrets_of_policies().is_empty());
}
