//! How the assembler merges the resources of a directory and of a cluster.

use std::sync::mpsc::{Receiver, channel};

use futures_util::FutureExt;
use serde_json::{Value, json};

use super::*;
use crate::model::service::ServiceKey;
use crate::source::object;

fn service(name: &str, port: u16) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": port}]},
           "metadata": {"name": name, "namespace": "shop", "uid": "u", "resourceVersion": port.to_string()}})
}

/// The update of a source that reads files.
fn file(path: &str, object: Value) -> Update {
    let mut update = object::read(object);
    for change in &mut update.changes {
        change.origin = Origin::File { path: path.into(), document: 1 };
    }
    update
}

fn gone(object: Value) -> Update {
    let mut update = object::read(object);
    update.changes.iter_mut().for_each(|change| change.resource = None);
    update
}

fn refused(origin: &Origin, reason: &str) -> Update {
    let (origin, problem) = (origin.clone(), Problem::new("", reason));
    let refusal = Diagnostic { origin, resource: Some("Service shop/cart".into()), problem };
    Update { refusals: vec![refusal], ..Update::default() }
}

/// Two sources, and the events of the log.
struct Two {
    assembler: Assembler,
    files: SourceHandle,
    cluster: SourceHandle,
    log: Receiver<Vec<String>>,
}

fn two() -> Two {
    let (sender, log) = channel();
    let text = |event: &ChangeEvent| {
        let what = match &event.change {
            Change::Refused(refusal) => format!("refused: {}", refusal.problem.message),
            change => format!("{change:?}"),
        };
        format!("{} {what} ({})", event.resource.as_deref().unwrap_or("?"), event.origin)
    };
    let tell = move |events: &[ChangeEvent]| drop(sender.send(events.iter().map(text).collect()));
    let mut assembler = Assembler::new(tell);
    let (files, cluster) = (assembler.add_source(), assembler.add_source());
    Two { assembler, files, cluster, log }
}

/// Two sources that are synced, with nothing in them.
fn synced() -> (SourceHandle, SourceHandle, Receiver<Vec<String>>, watch::Receiver<View>) {
    let Two { assembler, files, cluster, log } = two();
    files.synced();
    cluster.synced();
    let view = assembler.synced().now_or_never().unwrap().unwrap();
    assert_eq!(log.try_recv().unwrap(), [""; 0]);
    (files, cluster, log, view)
}

fn port(view: &watch::Receiver<View>) -> Option<u16> {
    let view = view.borrow();
    view.mesh.service(&ServiceKey::new("shop", "cart")).map(|entry| entry.service.ports[0].number)
}

#[test]
fn nothing_is_published_or_logged_before_every_source_is_synced() {
    let Two { assembler, files, cluster, log } = two();
    files.apply(file("a.yaml", service("cart", 80)));
    files.synced();
    let mut view = Box::pin(assembler.synced());
    cluster.apply(object::read(service("stock", 80)));
    assert!(view.as_mut().now_or_never().is_none() && log.try_recv().is_err());
    cluster.synced();
    let view = view.now_or_never().unwrap().unwrap();
    assert_eq!(view.borrow().mesh.len(), 2);
    let first = [
        "Service shop/cart Added (a.yaml, document 1)",
        "Service shop/stock Added (object shop/stock at version 80)",
    ];
    assert_eq!(log.try_recv().unwrap(), first);
}

#[test]
fn a_source_that_may_yet_be_added_is_waited_for() {
    let mut assembler = Assembler::new(|_| {});
    let first = assembler.add_source();
    first.synced();
    let second = assembler.add_source();
    let mut view = Box::pin(assembler.synced());
    assert!(view.as_mut().now_or_never().is_none());
    second.synced();
    assert!(view.now_or_never().unwrap().is_some());
}

#[test]
fn a_source_that_ends_before_it_is_synced_ends_the_wait() {
    let Two { assembler, files, cluster, log: _ } = two();
    drop((files, cluster));
    assert!(assembler.synced().now_or_never().unwrap().is_none());
}

#[test]
fn a_resource_of_two_sources_is_the_first_sources_and_the_others_is_refused() {
    let (files, cluster, log, view) = synced();
    cluster.apply(object::read(service("cart", 81)));
    assert_eq!(port(&view), Some(81));
    files.apply(file("a.yaml", service("cart", 80)));
    assert_eq!(port(&view), Some(80));
    let refusals: Vec<_> = view.borrow().refusals.iter().map(ToString::to_string).collect();
    assert_eq!(
        refusals,
        [
            "object shop/cart at version 81, Service shop/cart, metadata.name: is already defined in a.yaml, document 1 [duplicate-resource]"
        ]
    );
    // Another version of a resource that is not active changes nothing.
    cluster.apply(object::read(service("cart", 82)));
    assert_eq!(port(&view), Some(80));
    files.apply(gone(service("cart", 80)));
    assert_eq!((port(&view), view.borrow().refusals.len()), (Some(82), 0));
    cluster.apply(gone(service("cart", 82)));
    assert_eq!(port(&view), None);
    let logged: Vec<_> = log.try_iter().flatten().filter(|line| !line.contains("refused")).collect();
    assert_eq!(
        logged,
        [
            "Service shop/cart Added (object shop/cart at version 81)",
            "Service shop/cart Changed (a.yaml, document 1)",
            "Service shop/cart Changed (object shop/cart at version 82)",
            "Service shop/cart Removed (object shop/cart at version 82)",
        ]
    );
}

#[test]
fn a_refusal_is_logged_once_and_stays_until_its_source_withdraws_it() {
    let (files, cluster, log, mut view) = synced();
    let origin = Origin::file("a.yaml");
    files.apply(refused(&origin, "is no list"));
    files.apply(refused(&origin, "is no list"));
    cluster.apply(object::read(service("stock", 80)));
    let logged: Vec<_> = log.try_iter().flatten().collect();
    assert_eq!(logged[0], "Service shop/cart refused: is no list (a.yaml)");
    assert_eq!(logged.len(), 2, "{logged:?}");
    assert_eq!(view.borrow_and_update().refusals.len(), 1);
    files.apply(Update::default());
    assert!(view.has_changed().unwrap() && view.borrow_and_update().refusals.is_empty());
    files.apply(Update::default());
    assert!(!view.has_changed().unwrap(), "nothing new is nothing to publish");
}

#[test]
fn ignored_fields_are_in_the_view() {
    let (_files, cluster, _log, view) = synced();
    let mut cart = service("cart", 80);
    cart["spec"]["later"] = json!(true);
    cluster.apply(object::read(cart));
    assert_eq!(port(&view), Some(80));
    assert_eq!(view.borrow().ignored[0].field, "spec.later");
}
