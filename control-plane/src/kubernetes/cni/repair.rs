//! Evicts pods that were started before the CNI plugin was on their node, for as long as it is polled.
//!
//! The plugin is called only when the network of a pod is created, so a pod without redirection must be replaced. The leader evicts it once
//! the plugin is ready on its node. A pod that was started later would fail again on that node, and is reported. A pod that no controller
//! would replace is left alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, Preconditions, Status};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use outrigger_core::Name;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::role::MissedPod;
use super::state::CniState;
use crate::kubernetes::lease::Leadership;
use crate::kubernetes::pod_name::PodKey;

/// How often pods are evicted.
const INTERVAL: Duration = Duration::from_secs(5);
/// Maximum number of pods that are evicted each time.
const AT_ONCE: usize = 10;
/// Maximum duration of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The pauses after which a pod is evicted again, and pods of an owner on a node whose plugin has become ready again.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// The number of pods and of owners that are remembered for this.
const REMEMBERED: usize = 4096;

/// Evicts pods while this replica leads.
pub(crate) async fn run(client: Client, mut leadership: Leadership, pods: watch::Receiver<Arc<CniState>>) {
    let (mut plan, mut failed, mut reported) = (Plan::default(), false, 0);
    loop {
        if leadership.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        let state = Arc::clone(&pods.borrow());
        let mut failure = None;
        for (key, uid) in plan.next(&state, Instant::now()) {
            let (namespace, name) = (&key.namespace, &key.name);
            let request = timeout(REQUEST_TIMEOUT, evict(&client, namespace, name, &uid)).await;
            match request {
                Ok(Ok(())) => {
                    tracing::info!(%namespace, pod = %name, "evicted a pod that was started without the CNI plugin");
                }
                Ok(Err(error)) => failure = Some(error.to_string()),
                Err(_) => failure = Some(format!("no response within {REQUEST_TIMEOUT:?}")),
            }
        }
        if let Some(error) = failure.as_ref().filter(|_| !failed) {
            tracing::warn!(error, "pods without redirection cannot be evicted now");
        }
        failed = failure.is_some();
        let missed = missed_again(&state);
        if let Some(PodKey { namespace, name }) = missed.first().filter(|_| missed.len() > reported) {
            let count = missed.len();
            tracing::warn!(count, %namespace, pod = %name, "the CNI plugin of their node has not redirected the connections of pods");
        }
        reported = missed.len();
        sleep(INTERVAL).await;
    }
}

/// Evicts one pod. One that is gone, or was replaced under the same name, is left alone.
async fn evict(client: &Client, namespace: &str, name: &str, uid: &str) -> Result<(), kube::Error> {
    let eviction = Eviction {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        delete_options: Some(DeleteOptions {
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), ..Preconditions::default() }),
            ..DeleteOptions::default()
        }),
    };
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    match api.create_subresource::<_, Status>("eviction", name, &PostParams::default(), &eviction).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        other => other.map(drop),
    }
}

/// Returns the pods that were started when the plugin was ready on their node, and have no redirection.
fn missed_again(state: &CniState) -> Vec<&PodKey> {
    let pods = state.missed().into_iter();
    pods.filter(|(_, pod, ready)| ready.is_some_and(|ready| pod.started >= ready))
        .map(|(key, ..)| key)
        .collect()
}

/// What was evicted when, so that neither a namespace nor an owner can keep others waiting.
#[derive(Debug, Default)]
struct Plan {
    /// By the UID of a pod.
    pods: HashMap<Name, Backoff>,
    /// By owner and node: the time at which the plugin became ready before the last eviction.
    owners: HashMap<(Name, Name), (Timestamp, Backoff)>,
    last_namespace: Option<Name>,
}

#[derive(Debug, Clone, Copy)]
struct Backoff {
    pause: Duration,
    until: Instant,
}

impl Backoff {
    fn after(last: Option<&Self>, now: Instant) -> Self {
        let pause = last.map_or(FIRST_PAUSE, |last| (last.pause * 2).min(LONGEST_PAUSE));
        Self { pause, until: now + pause }
    }
}

impl Plan {
    /// Returns the pods to be evicted now: one of each namespace in turn, from the one after the last on.
    fn next(&mut self, state: &CniState, now: Instant) -> Vec<(PodKey, Name)> {
        let mut namespaces: Vec<(&Name, Vec<_>)> = Vec::new();
        for (key, pod, ready) in state.missed() {
            let Some(ready) = ready.filter(|ready| pod.started < *ready && self.is_due(pod, *ready, now))
            else {
                continue;
            };
            match namespaces.last_mut().filter(|(namespace, _)| **namespace == key.namespace) {
                Some((_, pods)) => pods.push((key, pod, ready)),
                None => namespaces.push((&key.namespace, vec![(key, pod, ready)])),
            }
        }
        let first =
            namespaces.partition_point(|(namespace, _)| Some(*namespace) <= self.last_namespace.as_ref());
        namespaces.rotate_left(first);
        let longest = namespaces.iter().map(|(_, pods)| pods.len()).max().unwrap_or(0);
        let turns =
            (0..longest).flat_map(|turn| namespaces.iter().filter_map(move |(_, pods)| pods.get(turn)));
        let chosen: Vec<_> = turns.take(AT_ONCE).collect();
        self.last_namespace = chosen.last().map(|(key, ..)| key.namespace.clone());
        chosen.iter().for_each(|(_, pod, ready)| self.remember(pod, *ready, now));
        chosen.into_iter().map(|(key, pod, _)| ((*key).clone(), pod.uid.clone())).collect()
    }

    /// Returns true unless the pod was just evicted, or others of its owner were, when the plugin was ready before.
    fn is_due(&self, pod: &MissedPod, ready: Timestamp, now: Instant) -> bool {
        let owner = self.owners.get(&(pod.owner.clone(), pod.node.clone()));
        self.pods.get(&pod.uid).is_none_or(|backoff| backoff.until <= now)
            && owner.is_none_or(|(before, backoff)| *before == ready || backoff.until <= now)
    }

    fn remember(&mut self, pod: &MissedPod, ready: Timestamp, now: Instant) {
        let is_recent = |backoff: &Backoff| now < backoff.until + LONGEST_PAUSE;
        if self.pods.len() >= REMEMBERED {
            self.pods.clear();
        }
        if self.owners.len() >= REMEMBERED {
            self.owners.retain(|_, (_, backoff)| is_recent(backoff));
        }
        if self.owners.len() >= REMEMBERED {
            self.owners.clear();
        }
        let backoff = Backoff::after(self.pods.get(&pod.uid), now);
        self.pods.insert(pod.uid.clone(), backoff);
        let key = (pod.owner.clone(), pod.node.clone());
        let last = self.owners.get(&key).filter(|(_, backoff)| is_recent(backoff));
        let backoff = match last {
            // Pods of one owner that were started before the plugin are one eviction.
            Some((before, backoff)) if *before == ready => *backoff,
            last => Backoff::after(last.map(|(_, backoff)| backoff), now),
        };
        self.owners.insert(key, (ready, backoff));
    }
}

#[cfg(test)]
mod tests;
