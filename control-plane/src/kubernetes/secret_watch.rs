//! Lists and watches the Secrets with API keys that policies refer to, and no others.
//!
//! Each is selected by its name and its label, so that RBAC can permit single names (`resourceNames`), and without such policies no
//! permission is needed. A Secret that this account may not list is reported as unreadable, and attempted again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::runtime::Handle;
use tokio::sync::mpsc::WeakSender;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::reflector::{FIRST_PAUSE, LONGEST_PAUSE, WATCH_SECONDS, explain, status_code};
use crate::model::resource::{API_KEYS, Kind, ResourceId};
use crate::source::sync::SyncStatus;

/// What is known of a Secret.
#[derive(Debug)]
pub(super) enum SecretReport {
    /// Its current version.
    Current(Box<DynamicObject>),
    /// There is none with this name and the label.
    Missing,
    /// It was never read, because this account may not.
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
    failures: Mutex<BTreeMap<ResourceId, String>>,
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
        let watch = Watch { client, sync, reports, convert, failures: Mutex::default() };
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
            self.watch.set_failure(id, None);
        }
        for id in wanted {
            if !self.watched.contains_key(id) {
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
        let api = Api::<DynamicObject>::namespaced_with(
            self.client.clone(),
            &id.namespace,
            &ApiResource::erase::<Secret>(&()),
        );
        let config = watcher::Config::default()
            .timeout(WATCH_SECONDS)
            .fields(&format!("metadata.name={}", id.name))
            .labels(&format!("{API_KEYS}=true"));
        let (mut pause, mut listed) = (FIRST_PAUSE, false);
        loop {
            let mut stream = std::pin::pin!(watcher(api.clone(), config.clone()).default_backoff());
            let mut present = false;
            while let Some(next) = stream.next().await {
                match next {
                    Ok(Event::Init) => present = false,
                    Ok(Event::InitApply(object) | Event::Apply(object)) => {
                        present = true;
                        self.report(id, SecretReport::Current(object.into())).await?;
                    }
                    Ok(Event::Delete(_)) => self.report(id, SecretReport::Missing).await?,
                    Ok(Event::InitDone) => {
                        if !present {
                            self.report(id, SecretReport::Missing).await?;
                        }
                        (pause, listed) = (FIRST_PAUSE, true);
                        self.set_failure(id, None);
                    }
                    // The connection ended. The next attempt follows within a second, and fails if the API server is away.
                    Err(watcher::Error::WatchFailed(error)) if !matches!(error, kube::Error::Api(_)) => {}
                    // The watch has expired.
                    Err(error) if status_code(&error) == Some(410) => break,
                    Err(error) => {
                        let reason = explain(&error);
                        if status_code(&error) == Some(403) && !listed {
                            self.report(id, SecretReport::Unreadable(reason.clone())).await?;
                        }
                        self.set_failure(id, Some(reason));
                        break;
                    }
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn report(&self, id: &ResourceId, report: SecretReport) -> Result<(), Closed> {
        let reports = self.reports.upgrade().ok_or(Closed)?;
        reports.send((self.convert)(id.clone(), report)).await.map_err(|_| Closed)
    }

    /// Records whether a Secret can be read now. Logs what is new.
    fn set_failure(&self, id: &ResourceId, failure: Option<String>) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let old = match &failure {
            Some(reason) => failures.insert(id.clone(), reason.clone()),
            None => failures.remove(id),
        };
        match (&failure, &old) {
            (Some(reason), _) if failure != old => tracing::warn!(%id, reason, "a Secret cannot be read now"),
            (None, Some(_)) => tracing::info!(%id, "the Secret is read again, or no longer needed"),
            _ => {}
        }
        let first = failures.iter().next().map(|(id, reason)| format!("{id}: {reason}"));
        self.sync.set_failure(Kind::Secret.name(), first);
    }
}
