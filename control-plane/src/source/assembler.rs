//! Combines the resources of any number of sources, and publishes the resulting mesh.
//!
//! Each source applies its updates from its own thread or task. Nothing is published before every source is synced: an
//! incomplete mesh would remove resources from proxies that have them. If two sources hold the same resource, that of the
//! source that was added first is active, and the other is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{oneshot, watch};

use super::change::{Change, ChangeEvent, Diagnostic, IgnoredField, ResourceChange, Update};
use super::origin::Origin;
use crate::model::diagnostic::{Code, Problem};
use crate::model::mesh::Mesh;
use crate::model::mesh_builder::MeshBuilder;
use crate::model::resource::{Resource, ResourceId};
use crate::model::status::Statuses;

/// The state of the configuration.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The mesh of the accepted resources, without registrations.
    pub mesh: Arc<Mesh>,
    /// The refused resources, in order of origin.
    pub refusals: Arc<[Diagnostic]>,
    /// The ignored fields of accepted objects.
    pub ignored: Arc<[IgnoredField]>,
    /// The status of each route.
    pub statuses: Statuses,
}

/// The assembler while its sources are added.
pub struct Assembler {
    state: Arc<Mutex<AssemblerState>>,
    view: oneshot::Receiver<watch::Receiver<View>>,
}

/// Applies the updates of one source. Its resources stay when the handle is dropped.
pub struct SourceHandle {
    index: usize,
    state: Arc<Mutex<AssemblerState>>,
}

/// Writes the change log.
type Log = Box<dyn Fn(&[ChangeEvent]) + Send>;

struct AssemblerState {
    sources: Vec<SourceContents>,
    /// The active resources and the source of each.
    active: BTreeMap<ResourceId, usize>,
    /// Resources that several sources hold.
    conflicting: BTreeSet<ResourceId>,
    builder: MeshBuilder,
    refusals: BTreeSet<Diagnostic>,
    ignored: Arc<[IgnoredField]>,
    log: Log,
    publication: Publication,
}

/// The resources of one source.
#[derive(Default)]
struct SourceContents {
    synced: bool,
    resources: BTreeMap<ResourceId, SourceVersion>,
    refusals: Vec<Diagnostic>,
    ignored: Vec<IgnoredField>,
}

struct SourceVersion {
    origin: Origin,
    version: Option<String>,
    resource: Arc<Resource>,
}

/// The receivers of a new view.
enum Publication {
    /// Some source is not synced, or may still be added. Changes are logged when all are synced.
    Waiting {
        all_added: bool,
        first: oneshot::Sender<watch::Receiver<View>>,
        events: Vec<ChangeEvent>,
    },
    Published(watch::Sender<View>),
}

impl Assembler {
    /// Creates an assembler without sources.
    ///
    /// `log` is called with the changes of each update before they are published, on the thread of the source that
    /// applies it, and may block. The first call comes when every source is synced, with all changes until then, even if
    /// there are none.
    pub fn new(log: impl Fn(&[ChangeEvent]) + Send + 'static) -> Self {
        let (first, view) = oneshot::channel();
        let publication = Publication::Waiting { all_added: false, first, events: Vec::new() };
        let state = AssemblerState {
            sources: Vec::new(),
            active: BTreeMap::new(),
            conflicting: BTreeSet::new(),
            builder: MeshBuilder::default(),
            refusals: BTreeSet::new(),
            ignored: Arc::default(),
            log: Box::new(log),
            publication,
        };
        Self { state: Arc::new(Mutex::new(state)), view }
    }

    /// Adds a source. Sources that were added earlier take precedence.
    pub fn add_source(&mut self) -> SourceHandle {
        with(&self.state, |state| {
            state.sources.push(SourceContents::default());
            SourceHandle { index: state.sources.len() - 1, state: Arc::clone(&self.state) }
        })
    }

    /// Waits until every source is synced, and returns a receiver of the state of the configuration. Returns None if a source
    /// ends before.
    pub async fn synced(self) -> Option<watch::Receiver<View>> {
        let Self { state, view } = self;
        with(&state, |state| {
            if let Publication::Waiting { all_added, .. } = &mut state.publication {
                *all_added = true;
            }
            state.publish(Vec::new(), false);
        });
        drop(state);
        view.await.ok()
    }
}

impl SourceHandle {
    /// Applies an update. It is published when this returns, if every source is synced.
    pub fn apply(&self, update: Update) {
        with(&self.state, |state| {
            let (events, changed) = state.apply(self.index, update);
            state.publish(events, changed);
        });
    }

    /// Marks the source as synced: the updates applied so far are all that it has now.
    pub fn synced(&self) {
        with(&self.state, |state| {
            state.sources[self.index].synced = true;
            state.publish(Vec::new(), false);
        });
    }
}

impl AssemblerState {
    /// Returns the changes, and whether the view is different.
    fn apply(&mut self, source: usize, update: Update) -> (Vec<ChangeEvent>, bool) {
        let at = jiff::Timestamp::now();
        let Update { changes, refusals, ignored, stand_in: _ } = update;
        let (mut events, mut resources) = (Vec::new(), Vec::new());
        for change in changes {
            let (id, origin) = (change.id.clone(), change.origin.clone());
            self.sources[source].record(change);
            if let Some((change, version)) = self.select_active(&id, source) {
                let (origin, resource, version) = match version {
                    None => (origin, None, None),
                    Some(now) => (now.origin.clone(), Some(Arc::clone(&now.resource)), now.version.clone()),
                };
                events.push(ChangeEvent { at, origin, resource: Some(id.to_string()), version, change });
                resources.push((id, resource));
            }
        }
        let contents = &mut self.sources[source];
        (contents.refusals, contents.ignored) = (refusals, ignored);
        let changed = !resources.is_empty();
        self.builder.apply(resources);
        let refusals: BTreeSet<_> = self.refusals_now().collect();
        let news = refusals.difference(&self.refusals);
        events.extend(news.map(|refusal| ChangeEvent {
            at,
            origin: refusal.origin.clone(),
            resource: refusal.resource.clone(),
            version: None,
            change: Change::Refused(refusal.clone()),
        }));
        let ignored: Arc<[_]> = self.sources.iter().flat_map(|one| &one.ignored).cloned().collect();
        let changed = changed || refusals != self.refusals || ignored != self.ignored;
        (self.refusals, self.ignored) = (refusals, ignored);
        (events, changed)
    }

    /// Selects which source's version of a resource is active after the source `changed` changed its own. Returns the change,
    /// and the active version if there is one. Returns None if the active version did not change.
    fn select_active(&mut self, id: &ResourceId, changed: usize) -> Option<(Change, Option<&SourceVersion>)> {
        let mut holders = self.sources.iter().enumerate().filter(|(_, one)| one.resources.contains_key(id));
        let (best, others) = (holders.next().map(|(index, _)| index), holders.next().is_some());
        match others {
            true => self.conflicting.insert(id.clone()),
            false => self.conflicting.remove(id),
        };
        let Some(best) = best else {
            self.active.remove(id)?;
            return Some((Change::Removed, None));
        };
        let version = self.sources[best].resources.get(id);
        match self.active.insert(id.clone(), best) {
            None => Some((Change::Added, version)),
            // The active version is another source's, before and after.
            Some(old) if old == best && best != changed => None,
            Some(_) => Some((Change::Changed, version)),
        }
    }

    fn refusals_now(&self) -> impl Iterator<Item = Diagnostic> {
        let conflicts = self.conflicting.iter().flat_map(|id| {
            let mut versions = self.sources.iter().filter_map(|source| source.resources.get(id));
            let holder = versions.next();
            versions.map(move |loser| Diagnostic {
                origin: loser.origin.clone(),
                resource: Some(id.to_string()),
                problem: Problem::of(
                    Code::DuplicateResource,
                    "metadata.name",
                    holder.map_or_else(String::new, |one| format!("is already defined in {}", one.origin)),
                ),
            })
        });
        self.sources.iter().flat_map(|source| &source.refusals).cloned().chain(conflicts)
    }

    fn publish(&mut self, news: Vec<ChangeEvent>, changed: bool) {
        match &mut self.publication {
            Publication::Waiting { all_added, events, .. } => {
                events.extend(news);
                if !*all_added || self.sources.iter().any(|source| !source.synced) {
                    return;
                }
                (self.log)(events);
            }
            Publication::Published(_) => {
                if !news.is_empty() {
                    (self.log)(&news);
                }
                if !changed {
                    return;
                }
            }
        }
        let view = self.view();
        if let Publication::Published(publish) = &self.publication {
            publish.send_replace(view);
            return;
        }
        let (publish, receiver) = watch::channel(view);
        let waiting = std::mem::replace(&mut self.publication, Publication::Published(publish));
        if let Publication::Waiting { first, .. } = waiting {
            // Fails if the control plane is ending.
            let _ = first.send(receiver);
        }
    }

    fn view(&self) -> View {
        View {
            mesh: Arc::new(self.builder.mesh()),
            refusals: self.refusals.iter().cloned().collect(),
            ignored: Arc::clone(&self.ignored),
            statuses: self.builder.statuses(),
        }
    }
}

impl SourceContents {
    fn record(&mut self, change: ResourceChange) {
        let ResourceChange { id, origin, version, resource } = change;
        match resource {
            Some(resource) => drop(self.resources.insert(id, SourceVersion { origin, version, resource })),
            None => drop(self.resources.remove(&id)),
        }
    }
}

/// Runs `work` with the state locked. The lock cannot be poisoned halfway through an update.
fn with<T>(state: &Mutex<AssemblerState>, work: impl FnOnce(&mut AssemblerState) -> T) -> T {
    work(&mut state.lock().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests;
