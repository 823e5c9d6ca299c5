//! Lists and watches the Secrets with API keys that policies refer to, and no others.
//!
//! Each is selected by its name and its label, so that RBAC can permit single names (`resourceNames`), and without such policies no
//! permission is needed.
//!
//! The configuration waits for the first list of each Secret, so that a policy never refuses requests because its keys are not read yet. The
//! wait is bounded: a Secret whose list fails, or takes too long, is reported as unreadable, and attempted again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::WeakSender;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::reflector::{FIRST_PAUSE, LONGEST_PAUSE, WATCH_SECONDS, explain, status_code};
use crate::model::resource::{API_KEYS, Kind, ResourceId};
use crate::source::sync::SyncStatus;

/// How long the configuration waits for the first list of a Secret.
const FIRST_LIST: Duration = Duration::from_secs(5);

/// The number of Secrets that are listed for the first time at once.
const CONCURRENT_LISTS: usize = 16;

/// What is known of a Secret.
#[derive(Debug)]
pub(super) enum SecretReport {
    /// Its current version.
    Current(Box<DynamicObject>),
    /// There is none with this name and the label.
    Missing,
    /// It was never read, for this reason.
    Unreadable(String),
}

/// The watches of the Secrets that policies refer to. Dropping it ends them.
pub(super) struct SecretWatches<T> {
    watch: Arc<Watch<T>>,
    runtime: Handle,
    tasks: JoinSet<()>,
    /// By Secret, with whether something is known of it.
    watched: BTreeMap<ResourceId, (AbortHandle, bool)>,
}

/// What the watches have in common.
struct Watch<T> {
    client: Client,
    sync: SyncStatus,
    /// Weak, so that the receiver sees the end of the reflectors.
    reports: WeakSender<T>,
    convert: fn(ResourceId, SecretReport) -> T,
    lists: Semaphore,
    /// By Secret that is watched, with why it cannot be read now.
    failures: Mutex<BTreeMap<ResourceId, Option<String>>>,
}

/// The receiver of the reports was dropped.
struct Closed;

impl<T: Send + 'static> SecretWatches<T> {
    /// Creates it without a watch. The watches run in the current runtime, and pass on reports as `convert` returns them.
    pub(super) fn new(
        client: Client,
        sync: SyncStatus,
        reports: WeakSender<T>,
        convert: fn(ResourceId, SecretReport) -> T,
    ) -> Self {
        let lists = Semaphore::new(CONCURRENT_LISTS);
        let watch = Watch { client, sync, reports, convert, lists, failures: Mutex::default() };
        Self {
            watch: watch.into(),
            runtime: Handle::current(),
            tasks: JoinSet::new(),
            watched: BTreeMap::new(),
        }
    }

    /// Watches these Secrets, and ends other watches. Returns the Secrets that are no longer watched.
    pub(super) fn follow(&mut self, wanted: &BTreeSet<ResourceId>) -> Vec<ResourceId> {
        let ended: Vec<_> = self.watched.keys().filter(|id| !wanted.contains(id)).cloned().collect();
        for id in &ended {
            if let Some((task, _)) = self.watched.remove(id) {
                task.abort();
            }
            self.watch.forget(id);
        }
        for id in wanted {
            if !self.watched.contains_key(id) {
                lock(&self.watch.failures).insert(id.clone(), None);
                let (watch, of) = (Arc::clone(&self.watch), id.clone());
                let task = self.tasks.spawn_on(async move { drop(watch.run(&of).await) }, &self.runtime);
                self.watched.insert(id.clone(), (task, false));
            }
        }
        while self.tasks.try_join_next().is_some() {}
        ended
    }

    /// Records a report. Returns false for one of a watch that was ended, which counts no more.
    pub(super) fn is_current(&mut self, id: &ResourceId) -> bool {
        let watched = self.watched.get_mut(id);
        watched.map(|(_, known)| *known = true).is_some()
    }

    /// Returns true if something is known of each Secret.
    pub(super) fn is_complete(&self) -> bool {
        self.watched.values().all(|(_, known)| *known)
    }
}

impl<T> Watch<T> {
    /// Lists and watches a Secret until the receiver of the reports is dropped.
    async fn run(&self, id: &ResourceId) -> Result<(), Closed> {
        let first = FirstList::new();
        let report_overdue = async {
            sleep_until(first.overdue).await;
            match first.missing() {
                Some(reason) => self.report_unreadable(id, reason).await,
                None => Ok(()),
            }
        };
        tokio::try_join!(self.list_and_watch(id, &first), report_overdue).map(drop)
    }

    async fn list_and_watch(&self, id: &ResourceId, first: &FirstList) -> Result<(), Closed> {
        let api = Api::<DynamicObject>::namespaced_with(
            self.client.clone(),
            &id.namespace,
            &ApiResource::erase::<Secret>(&()),
        );
        let config = watcher::Config::default()
            .timeout(WATCH_SECONDS)
            .fields(&format!("metadata.name={}", id.name))
            .labels(&format!("{API_KEYS}=true"));
        let mut pause = FIRST_PAUSE;
        loop {
            let mut permit = match first.missing() {
                Some(_) => self.lists.acquire().await.ok(),
                None => None,
            };
            // A list that is not answered does not hold up those of other Secrets.
            let release = Instant::now() + FIRST_LIST;
            let mut stream = std::pin::pin!(watcher(api.clone(), config.clone()).default_backoff());
            let mut present = false;
            loop {
                let next = tokio::select! {
                    next = stream.next() => next,
                    () = sleep_until(release), if permit.is_some() => {
                        permit = None;
                        continue;
                    }
                };
                match next {
                    None => break,
                    Some(Ok(Event::Init)) => present = false,
                    Some(Ok(Event::InitApply(object) | Event::Apply(object))) => {
                        present = true;
                        self.report(id, SecretReport::Current(object.into())).await?;
                    }
                    Some(Ok(Event::Delete(_))) => self.report(id, SecretReport::Missing).await?,
                    Some(Ok(Event::InitDone)) => {
                        if !present {
                            self.report(id, SecretReport::Missing).await?;
                        }
                        (pause, permit) = (FIRST_PAUSE, None);
                        first.set_missing(None);
                        self.set_failure(id, None);
                    }
                    // The connection ended. The next attempt follows within a second, and fails if the API server is away.
                    Some(Err(watcher::Error::WatchFailed(error)))
                        if !matches!(error, kube::Error::Api(_)) => {}
                    // The watch has expired.
                    Some(Err(error)) if status_code(&error) == Some(410) => break,
                    Some(Err(error)) => {
                        permit = None;
                        let reason = explain(&error);
                        if first.missing().is_some() {
                            first.set_missing(Some(reason.clone()));
                            // A permission is not given within a moment; what else is wrong may end with the next attempt.
                            if status_code(&error) == Some(403) || Instant::now() >= first.overdue {
                                self.report_unreadable(id, reason.clone()).await?;
                            }
                        }
                        self.set_failure(id, Some(reason));
                        break;
                    }
                }
            }
            drop(permit);
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn report_unreadable(&self, id: &ResourceId, reason: String) -> Result<(), Closed> {
        self.set_failure(id, Some(reason.clone()));
        self.report(id, SecretReport::Unreadable(reason)).await
    }

    async fn report(&self, id: &ResourceId, report: SecretReport) -> Result<(), Closed> {
        let reports = self.reports.upgrade().ok_or(Closed)?;
        reports.send((self.convert)(id.clone(), report)).await.map_err(|_| Closed)
    }

    /// Records whether a Secret can be read now. Logs what is new. A task whose Secret is no longer watched may still run: what it records is
    /// ignored.
    fn set_failure(&self, id: &ResourceId, failure: Option<String>) {
        let mut failures = lock(&self.failures);
        let Some(known) = failures.get_mut(id) else { return };
        let old = std::mem::replace(known, failure.clone());
        match (&failure, &old) {
            (Some(reason), _) if failure != old => tracing::warn!(%id, reason, "a Secret cannot be read now"),
            (None, Some(_)) => tracing::info!(%id, "the Secret is read again"),
            _ => {}
        }
        self.publish(&failures);
    }

    /// Forgets a Secret that is no longer watched.
    fn forget(&self, id: &ResourceId) {
        let mut failures = lock(&self.failures);
        failures.remove(id);
        self.publish(&failures);
    }

    fn publish(&self, failures: &BTreeMap<ResourceId, Option<String>>) {
        let mut all = failures.iter().filter_map(|(id, reason)| Some((id, reason.as_ref()?)));
        let first = all.next().map(|(id, reason)| format!("{id}: {reason}"));
        self.sync.set_failure(Kind::Secret.name(), first);
    }
}

/// The first list of a Secret, for which the configuration waits.
struct FirstList {
    /// When the configuration no longer waits.
    overdue: Instant,
    /// Why there was none yet. None once there was one.
    missing: Mutex<Option<String>>,
}

impl FirstList {
    fn new() -> Self {
        let missing = Some(format!("the API server has not answered within {FIRST_LIST:?}"));
        Self { overdue: Instant::now() + FIRST_LIST, missing: missing.into() }
    }

    fn missing(&self) -> Option<String> {
        lock(&self.missing).clone()
    }

    fn set_missing(&self, missing: Option<String>) {
        *lock(&self.missing) = missing;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
