//! Lists and watches the objects of one kind, for as long as the process runs.
//!
//! A watch that ended continues at its resource version, or lists again if that has expired (410). While the API server is
//! away, lists are attempted with backoff, and nothing that was reported is withdrawn. An optional kind that the API server does not have,
//! or that this account may not list, is reported as unavailable, and looked up until it appears.

use std::fmt::Debug;
use std::time::Duration;

use futures_util::StreamExt;
use kube::api::ApiResource;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::discovery::{WatchedKind, discover, served_versions};
use crate::source::sync::SyncStatus;

/// The time after which the API server ends a watch, which then continues. It bounds how long a connection that is dead, but was
/// not closed, can hide changes.
pub(super) const WATCH_SECONDS: u32 = 60;
/// How often a missing kind is looked up.
const LOOK_UP: Duration = Duration::from_secs(10);

/// The pauses after failures. Then the objects are listed again: a watch that has begun says nothing until there is an event, so
/// that only a list shows that the kind is read again.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What a reflector reports.
#[derive(Debug, Clone)]
pub(super) enum Report<K> {
    Event(Event<K>),
    /// An optional kind cannot be listed. If it could before, the API server no longer has it.
    Unavailable,
}

impl<K> Report<K> {
    /// Returns true once everything that can be known of the kind was reported.
    pub(super) fn is_complete(&self) -> bool {
        matches!(self, Self::Event(Event::InitDone) | Self::Unavailable)
    }
}

/// The reflector of one kind. It passes reports on as `convert` returns them.
pub(super) struct Reflector<K, T> {
    pub(super) client: Client,
    pub(super) kind: WatchedKind,
    /// Has the reason why the kind is not listed yet, or not read now.
    pub(super) sync: SyncStatus,
    pub(super) reports: mpsc::Sender<T>,
    pub(super) convert: Box<dyn Fn(Report<K>) -> T + Send + Sync>,
}

/// Why a watch ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// It is older than the history of the API server.
    Expired,
    /// The API server is away, or refuses it.
    Failed,
    /// The API server may no longer have the kind.
    Missing,
}

/// The receiver of the reports was dropped.
struct Closed;

impl<K, T> Reflector<K, T>
where
    K: Resource<DynamicType = ApiResource> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    /// Runs until the receiver of the reports is dropped.
    pub(super) async fn run(self) {
        let mut listed = false;
        loop {
            let round = match discover(&self.client, self.kind).await {
                Ok(Some(resource)) => self.watch(&resource, &mut listed).await,
                Ok(None) => self.report_missing(&mut listed).await,
                Err(error) => {
                    self.failed(error.to_string());
                    Ok(())
                }
            };
            if let Err(Closed) = round {
                return;
            }
            sleep(LOOK_UP).await;
        }
    }

    /// Lists and watches until the API server no longer has the kind.
    async fn watch(&self, resource: &ApiResource, listed: &mut bool) -> Result<(), Closed> {
        let mut pause = FIRST_PAUSE;
        loop {
            let began = Instant::now();
            match self.list_and_watch(resource, listed).await? {
                End::Missing => return Ok(()),
                End::Expired => {
                    tracing::info!(kind = self.kind.name, "the watch has expired: listing again");
                    // Lists that expire at once must not follow each other without a pause.
                    sleep(FIRST_PAUSE.saturating_sub(began.elapsed())).await;
                }
                End::Failed => {
                    if began.elapsed() > LONGEST_PAUSE {
                        pause = FIRST_PAUSE;
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Lists the objects, then watches them until that fails.
    async fn list_and_watch(&self, resource: &ApiResource, listed: &mut bool) -> Result<End, Closed> {
        let config = watcher::Config::default().timeout(WATCH_SECONDS);
        let api = Api::<K>::all_with(self.client.clone(), resource);
        let mut stream = std::pin::pin!(watcher(api, config).default_backoff());
        while let Some(next) = stream.next().await {
            match next {
                Ok(event) => {
                    let complete = matches!(event, Event::InitDone);
                    self.send(Report::Event(event)).await?;
                    if complete {
                        *listed = true;
                        self.sync.synced(self.kind.name);
                        self.recovered();
                    }
                }
                // The answer of the API server is a text: it may no longer have the kind.
                Err(watcher::Error::WatchFailed(kube::Error::SerdeError(_))) => break,
                // The connection ended. The next attempt follows within a second, and fails if the API server is away.
                Err(watcher::Error::WatchFailed(_)) => {}
                Err(error) => match status_code(&error) {
                    Some(404) => break,
                    Some(410) => return Ok(End::Expired),
                    code => {
                        self.failed(explain(&error));
                        if code == Some(403) && self.kind.may_be_forbidden() && !*listed {
                            self.report_unavailable(listed).await?;
                        }
                        return Ok(End::Failed);
                    }
                },
            }
        }
        Ok(End::Missing)
    }

    /// The API server does not have the kind in a version that can be read.
    async fn report_missing(&self, listed: &mut bool) -> Result<(), Closed> {
        let WatchedKind { name, group, versions, optional } = self.kind;
        let served = match served_versions(&self.client, self.kind).await {
            Ok(served) => served,
            Err(error) => {
                self.failed(error.to_string());
                return Ok(());
            }
        };
        let why = match served.is_empty() {
            // Few clusters have the kinds of Gateway API's experimental channel.
            true if group.ends_with(".x-k8s.io") => None,
            true => Some(format!("the API server does not have {name} of {group}")),
            false => Some(format!(
                "the API server has {name} of {group} in {}, not in {}",
                served.join(", "),
                versions.join(" or ")
            )),
        };
        match why {
            Some(why) => self.failed(why),
            None => self.recovered(),
        }
        // Objects that were read stay while they exist in another version.
        if optional && (served.is_empty() || !*listed) {
            self.report_unavailable(listed).await
        } else {
            Ok(())
        }
    }

    async fn report_unavailable(&self, listed: &mut bool) -> Result<(), Closed> {
        self.send(Report::Unavailable).await?;
        *listed = true;
        self.sync.synced(self.kind.name);
        Ok(())
    }

    async fn send(&self, report: Report<K>) -> Result<(), Closed> {
        self.reports.send((self.convert)(report)).await.map_err(|_| Closed)
    }

    /// Logs a failure once.
    fn failed(&self, reason: String) {
        if self.sync.set_failure(self.kind.name, Some(reason.clone())) {
            tracing::warn!(kind = self.kind.name, reason, "a kind cannot be read now");
        }
    }

    fn recovered(&self) {
        if self.sync.set_failure(self.kind.name, None) {
            tracing::info!(kind = self.kind.name, "the kind is read again");
        }
    }
}

/// Returns the status that the API server answered with.
pub(super) fn status_code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::WatchError(status) => Some(status.code),
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => match error {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        },
        watcher::Error::NoResourceVersion => None,
    }
}

/// Returns the message of the API server, which names the account and the permission, or the error with its causes.
pub(super) fn explain(error: &watcher::Error) -> String {
    match error {
        watcher::Error::WatchError(status) => status.message.clone(),
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => status.message.clone(),
        watcher::Error::InitialListFailed(other)
        | watcher::Error::WatchStartFailed(other)
        | watcher::Error::WatchFailed(other) => with_causes(other),
        watcher::Error::NoResourceVersion => error.to_string(),
    }
}

/// Returns an error with its causes, which kube's messages leave out.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
