//! The history of routes as Events of the API server (`events.k8s.io/v1`), which `kubectl describe` prints, and Events about pods without
//! the sidecar that they are to have.
//!
//! The log has every change; Events are a bounded extract, which the leading replica writes. A route that was changed has one a
//! minute at most, and the same refusal is repeated after ten minutes at the earliest. Events that cannot be written are dropped.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::model::resource::Kind;
use crate::source::change::{Change, ChangeEvent};
use crate::source::origin::Origin;

/// The number of Events that wait to be written. Further ones are dropped.
const QUEUE: usize = 256;
/// The pause after each write: at most ten a second.
const PAUSE: Duration = Duration::from_millis(100);
/// Maximum duration of a write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// The time after which an Event of the same kind about the same object is written again.
const REPEAT_NORMAL: Duration = Duration::from_secs(60);
const REPEAT_WARNING: Duration = Duration::from_secs(600);
/// The number of Events that are remembered for this.
const REMEMBERED: usize = 4096;
/// The API's limit of a note, in bytes.
const MAX_NOTE: usize = 1024;
const CONTROLLER: &str = "outrigger.dev/controller";
const WARNING: &str = "Warning";

/// Returns a function for the change log, what reports pods, and the receiver of what they pass on.
pub(crate) fn channel() -> (impl Fn(&[ChangeEvent]) + Send + 'static, PodEvents, EventQueue) {
    let (queue, changes) = mpsc::channel(QUEUE);
    // What reports pods waits until each is written.
    let (pod_queue, pods) = mpsc::channel(1);
    let first_reading = Cell::new(true);
    let send = move |changes: &[ChangeEvent]| {
        let first = first_reading.replace(false);
        // Fails if the queue is full.
        changes
            .iter()
            .filter_map(|change| NewEvent::of(change, first))
            .for_each(|new| drop(queue.try_send(new)));
    };
    (send, PodEvents(pod_queue), EventQueue { changes, pods })
}

/// Reports pods.
#[derive(Debug)]
pub(crate) struct PodEvents(mpsc::Sender<NewEvent>);

impl PodEvents {
    /// Queues an Event about a pod that runs without the sidecar that it is to have. Waits while the queue is full.
    pub(super) async fn without_sidecar(&self, namespace: &str, name: &str, uid: &str) {
        let new = NewEvent {
            api_version: "v1".into(),
            kind: "Pod",
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            resource_version: String::new(),
            at: jiff::Timestamp::now(),
            severity: WARNING,
            action: "Inject",
            reason: "MissingSidecar",
            note: "it is to have a sidecar, and runs without one: restart it".into(),
        };
        // Fails if nothing is written any more.
        let _ = self.0.send(new).await;
    }
}

/// The Events to be written.
pub(crate) struct EventQueue {
    changes: mpsc::Receiver<NewEvent>,
    pods: mpsc::Receiver<NewEvent>,
}

impl EventQueue {
    /// Returns the next Event: those of changes first. Returns None if the change log is closed.
    async fn next(&mut self) -> Option<NewEvent> {
        tokio::select! {
            biased;
            change = self.changes.recv() => change,
            Some(pod) = self.pods.recv() => Some(pod),
        }
    }

    /// Returns the name in the next Event.
    #[cfg(test)]
    pub(super) async fn next_name(&mut self) -> Option<String> {
        Some(self.next().await?.name)
    }

    /// Writes Events while `leading` is true, and drops them otherwise. Runs until the change log is closed.
    pub(crate) async fn write(mut self, client: Client, instance: String, leading: watch::Receiver<bool>) {
        let mut written = Written::default();
        let mut failed = false;
        while let Some(new) = self.next().await {
            if !*leading.borrow() || !written.is_due(&new, Instant::now()) {
                continue;
            }
            let api = Api::<Event>::namespaced(client.clone(), &new.namespace);
            let event = new.into_event(&instance);
            let error = match timeout(WRITE_TIMEOUT, api.create(&PostParams::default(), &event)).await {
                Ok(result) => result.err().map(|error| error.to_string()),
                Err(_) => Some(format!("no response within {WRITE_TIMEOUT:?}")),
            };
            if let Some(error) = error.as_ref().filter(|_| !failed) {
                tracing::warn!(error, "cannot write Events: they are dropped");
            }
            failed = error.is_some();
            sleep(PAUSE).await;
        }
    }
}

/// What an Event says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NewEvent {
    api_version: String,
    kind: &'static str,
    namespace: String,
    name: String,
    uid: String,
    resource_version: String,
    at: jiff::Timestamp,
    /// `Normal` or `Warning`.
    severity: &'static str,
    action: &'static str,
    reason: &'static str,
    note: String,
}

impl NewEvent {
    /// Returns the Event for a change, or None if there is none: objects without a problem that exist at the start or are no
    /// routes, and objects that are gone.
    fn of(change: &ChangeEvent, first_reading: bool) -> Option<Self> {
        let ChangeEvent { at, origin, resource, version: _, change } = change;
        let Origin::Object { namespace, name, uid, resource_version } = origin else { return None };
        let kind = resource.as_deref()?.split(' ').next()?;
        let kind = Kind::all().find(|one| one.name() == kind)?;
        let is_route = kind.is_route() || kind.is_policy() || kind == Kind::ReferenceGrant;
        let (severity, reason, note) = match change {
            Change::Refused(refusal) => (WARNING, "Refused", refusal.problem.to_string()),
            Change::Added | Change::Changed if is_route && !first_reading => (
                "Normal",
                "Configured",
                format!("version {resource_version} was read; its status says where it is active"),
            ),
            Change::Added | Change::Changed | Change::Removed => return None,
        };
        Some(Self {
            api_version: kind.api_version(),
            kind: kind.name(),
            // Events about objects without a namespace are in this one.
            namespace: if namespace.is_empty() { "default".into() } else { namespace.clone() },
            name: name.clone(),
            uid: uid.clone(),
            resource_version: resource_version.clone(),
            at: *at,
            severity,
            action: "Configure",
            reason,
            note: note[..note.floor_char_boundary(MAX_NOTE)].into(),
        })
    }

    fn into_event(self, instance: &str) -> Event {
        let Self { api_version, kind, namespace, name, uid, resource_version, at, .. } = self;
        let Self { severity, action, reason, note, .. } = self;
        Event {
            metadata: ObjectMeta {
                // A dot before the generated part is not valid.
                generate_name: Some(format!("{name}-")),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            regarding: Some(ObjectReference {
                api_version: Some(api_version),
                kind: Some(kind.into()),
                namespace: (kind != Kind::Namespace.name()).then_some(namespace),
                name: Some(name),
                uid: Some(uid),
                resource_version: Some(resource_version).filter(|version| !version.is_empty()),
                field_path: None,
            }),
            action: Some(action.into()),
            event_time: Some(MicroTime(at)),
            type_: Some(severity.into()),
            reason: Some(reason.into()),
            note: Some(note),
            reporting_controller: Some(CONTROLLER.into()),
            reporting_instance: Some(instance.into()),
            ..Event::default()
        }
    }
}

/// When Events were written, by object, reason and, for warnings, note.
#[derive(Debug, Default)]
struct Written(HashMap<(String, &'static str, String), Instant>);

impl Written {
    /// Returns true if an Event is to be written, and remembers it.
    fn is_due(&mut self, new: &NewEvent, now: Instant) -> bool {
        let warning = new.severity == WARNING;
        let (repeat, note) =
            if warning { (REPEAT_WARNING, new.note.clone()) } else { (REPEAT_NORMAL, String::new()) };
        let key = (new.uid.clone(), new.reason, note);
        if self.0.get(&key).is_some_and(|last| now.duration_since(*last) < repeat) {
            return false;
        }
        if self.0.len() >= REMEMBERED {
            self.0.retain(|_, last| now.duration_since(*last) < REPEAT_NORMAL);
        }
        if self.0.len() >= REMEMBERED {
            // Some are repeated early.
            self.0.clear();
        }
        self.0.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::diagnostic::Problem;
    use crate::source::change::Diagnostic;

    fn change(kind: &str, change: Change) -> ChangeEvent {
        let (namespace, name) = ("shop".into(), "cart".into());
        ChangeEvent {
            at: jiff::Timestamp::UNIX_EPOCH,
            origin: Origin::Object { namespace, name, uid: "u".into(), resource_version: "7".into() },
            resource: Some(format!("{kind} shop/cart")),
            version: None,
            change,
        }
    }

    fn refused(message: &str) -> ChangeEvent {
        let origin = change("", Change::Removed).origin;
        let problem = Problem::new("spec.rules", message);
        change("HTTPRoute", Change::Refused(Diagnostic { origin, resource: None, problem }))
    }

    #[test]
    fn refusals_and_later_changes_of_routes_have_events() {
        let note = |change: &ChangeEvent, first| NewEvent::of(change, first).map(|new| new.note);
        let reason = "spec.rules: is no list [invalid-value]";
        assert_eq!(note(&refused("is no list"), true).as_deref(), Some(reason));
        assert_eq!(
            note(&change("HTTPRoute", Change::Changed), false).as_deref(),
            Some("version 7 was read; its status says where it is active")
        );
        assert_eq!(note(&change("HTTPRoute", Change::Added), true), None);
        assert_eq!(note(&change("Service", Change::Changed), false), None);
        assert_eq!(note(&change("HTTPRoute", Change::Removed), false), None);
        let event = NewEvent::of(&refused("x"), false).unwrap().into_event("a-1");
        assert_eq!(event.metadata.generate_name.as_deref(), Some("cart-"));
        let regarding = event.regarding.unwrap();
        assert_eq!(regarding.api_version.as_deref(), Some("gateway.networking.k8s.io/v1"));
        assert_eq!((regarding.uid.as_deref(), regarding.namespace.as_deref()), (Some("u"), Some("shop")));
    }

    #[test]
    fn the_same_event_is_repeated_after_a_while_only() {
        let (mut written, start) = (Written::default(), Instant::now());
        let new = |change: &ChangeEvent| NewEvent::of(change, false).unwrap();
        let (a, b) = (new(&refused("a")), new(&refused("b")));
        let changed = new(&change("HTTPRoute", Change::Changed));
        for (event, seconds, due) in [
            (&a, 0, true),
            (&a, 599, false),
            (&b, 599, true),
            (&a, 600, true),
            (&changed, 600, true),
            (&changed, 659, false),
            (&changed, 660, true),
        ] {
            assert_eq!(
                written.is_due(event, start + Duration::from_secs(seconds)),
                due,
                "{event:?} {seconds}"
            );
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut written, now) = (Written::default(), Instant::now());
        for uid in 0..2 * REMEMBERED {
            let new = NewEvent { uid: uid.to_string(), ..NewEvent::of(&refused("a"), false).unwrap() };
            assert!(written.is_due(&new, now));
        }
        assert!(written.0.len() <= REMEMBERED);
    }

    #[tokio::test]
    async fn a_full_queue_drops_events_and_delays_nothing() {
        let (send, _, mut queue) = channel();
        let many: Vec<_> = (0..2 * QUEUE).map(|n| refused(&n.to_string())).collect();
        send(&many);
        assert_eq!(queue.changes.len(), QUEUE);
        assert!(queue.next().await.unwrap().note.contains("spec.rules: 0"));
    }
}
