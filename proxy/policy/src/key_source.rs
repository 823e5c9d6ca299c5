//! Keys that are fetched from a URI (`RemoteJwks`): where they are, the newest set, and when they are fetched again.
//!
//! The data path fetches ([`RemoteKeys::question`], [`RemoteKeys::fetched`]) and requests wait for it. The state is the process's, known by what is
//! fetched, so that it outlives configurations. A set that was fetched once is used until a newer one is there, also through an outage.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Uri};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use outrigger_core::Name;
use outrigger_proto::xds::{core, jwt_authn};

use crate::field::{Unusable, non_empty, positive_duration, required, unsupported_any};
use crate::jose::{KeySet, Trust};
use crate::question::{Question, ServiceReply};

/// The longest set, in bytes.
const LONGEST: usize = 1024 * 1024;
/// Envoy's default of `cache_duration`.
const CACHED: Duration = Duration::from_secs(600);
/// Envoy's default of `failed_refetch_duration`.
const RETRY: Duration = Duration::from_secs(1);
/// The longest time between attempts, unless the configuration sets another.
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// The shortest time between a fetch and the next one because of an unknown key: tokens with made-up keys cost the issuer no more.
const UNKNOWN_KEY: Duration = Duration::from_secs(10);

static ALL: Mutex<Vec<Weak<RemoteKeys>>> = Mutex::new(Vec::new());

/// Keys that are fetched.
#[derive(Debug)]
pub struct RemoteKeys {
    source: Source,
    keys: ArcSwapOption<KeySet>,
    state: Mutex<State>,
}

/// What is fetched, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    cluster: Name,
    authority: Authority,
    path: PathAndQuery,
    timeout: Duration,
    cached: Duration,
    retry: (Duration, Duration),
}

#[derive(Debug, Default)]
struct State {
    /// A task fetches it.
    is_kept: bool,
    /// Fetches that have ended.
    fetches: u64,
    /// Fetches that failed since the last one that did not.
    failures: u32,
    /// When the last fetch ended.
    ended: Duration,
    /// A request has an unknown key.
    is_wanted: bool,
    waiting: Vec<Waker>,
}

impl RemoteKeys {
    /// Decodes a source. One that is known already is the same state.
    pub(crate) fn decode(wire: jwt_authn::RemoteJwks) -> Result<Arc<Self>, Unusable> {
        let source = Source::decode(wire)?;
        let mut all = locked(&ALL);
        all.retain(|known| known.strong_count() > 0);
        if let Some(known) = all.iter().filter_map(Weak::upgrade).find(|known| known.source == source) {
            return Ok(known);
        }
        let new = Arc::new(Self { source, keys: ArcSwapOption::empty(), state: Mutex::default() });
        all.push(Arc::downgrade(&new));
        Ok(new)
    }

    /// Returns whether no task fetches them yet. If so, the caller does from now on, until it calls [`Self::abandon`].
    pub fn adopt(&self) -> bool {
        !std::mem::replace(&mut locked(&self.state).is_kept, true)
    }

    /// The task that fetches them ends.
    pub fn abandon(&self) {
        locked(&self.state).is_kept = false;
    }

    /// Returns the cluster that they are fetched from.
    pub fn cluster(&self) -> &Name {
        &self.source.cluster
    }

    /// Returns where they are, for logs.
    pub fn uri(&self) -> String {
        format!("{}{}", self.source.authority, self.source.path)
    }

    /// Returns the request for them.
    pub fn question(&self) -> Question {
        let accept = HeaderValue::from_static("application/json, application/jwk-set+json");
        Question {
            cluster: self.source.cluster.clone(),
            timeout: self.source.timeout,
            longest_reply: LONGEST,
            is_grpc: false,
            method: Method::GET,
            authority: self.source.authority.clone(),
            path: self.source.path.clone(),
            fields: HeaderMap::from_iter([(header::ACCEPT, accept)]),
            body: Bytes::new(),
        }
    }

    /// Takes the result of a fetch, and wakes the requests that wait. `now` is the time since a fixed point. Returns why the reply
    /// cannot be used; the keys stay as they are then.
    pub fn fetched(&self, reply: Result<ServiceReply, String>, now: Duration) -> Result<(), String> {
        let read = reply.and_then(|reply| match reply.status {
            StatusCode::OK => KeySet::read(&reply.body, Trust::Uri).map_err(|why| format!("the reply {why}")),
            status => Err(format!("the reply has status {}", status.as_u16())),
        });
        let outcome = read.map(|keys| self.keys.store(Some(Arc::new(keys))));
        let waiting = {
            let mut state = locked(&self.state);
            state.fetches += 1;
            state.failures = if outcome.is_ok() { 0 } else { state.failures.saturating_add(1) };
            state.ended = now;
            state.is_wanted = false;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
        outcome
    }

    /// Returns how long after the last fetch the next one begins. `random` is uniform over `u32`.
    ///
    /// Earlier than the keys expire by a random part, so that proxies do not ask at the same time. After a failure, twice as long each time.
    pub fn pause(&self, random: u32) -> Duration {
        let part = f64::from(random) / f64::from(u32::MAX);
        match locked(&self.state).failures {
            0 => self.source.cached.mul_f64(0.75 + 0.15 * part),
            failures => {
                let (first, longest) = self.source.retry;
                first.saturating_mul(1 << (failures - 1).min(16)).min(longest).mul_f64(0.5 + part)
            }
        }
    }

    /// Returns when a request needs a newer set than there is.
    pub async fn wanted(&self) {
        poll_fn(|cx| {
            let mut state = locked(&self.state);
            if state.is_wanted {
                return Poll::Ready(());
            }
            wait(&mut state.waiting, cx.waker());
            Poll::Pending
        })
        .await;
    }

    /// Returns when a fetch has ended after the first `fetches`.
    pub async fn after(&self, fetches: u64) {
        poll_fn(|cx| {
            let mut state = locked(&self.state);
            if state.fetches > fetches {
                return Poll::Ready(());
            }
            wait(&mut state.waiting, cx.waker());
            Poll::Pending
        })
        .await;
    }

    /// Returns the newest set.
    pub(crate) fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    /// Returns how many fetches have ended if a request should wait for the next one: the first is not over, or the set has not its key and
    /// is not quite new.
    pub(crate) fn worth_waiting(&self, now: Duration) -> Option<u64> {
        let mut state = locked(&self.state);
        if state.fetches == 0 || state.is_wanted {
            return Some(state.fetches);
        }
        let is_new = now.saturating_sub(state.ended) < UNKNOWN_KEY;
        if self.keys.load().is_none() || is_new {
            return None;
        }
        state.is_wanted = true;
        let fetches = state.fetches;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
        Some(fetches)
    }
}

impl Source {
    fn decode(wire: jwt_authn::RemoteJwks) -> Result<Self, Unusable> {
        use core::http_uri::HttpUpstreamType;
        let jwt_authn::RemoteJwks { http_uri, cache_duration, async_fetch, retry_policy } = wire;
        let core::HttpUri { uri, timeout, http_upstream_type } = required("http_uri", http_uri)?;
        let HttpUpstreamType::Cluster(cluster) = required("http_uri.cluster", http_upstream_type)?;
        let not_a_uri = || Unusable::new("http_uri.uri", "is not a URI of http or https");
        let parts = Uri::try_from(uri).map_err(|_| not_a_uri())?.into_parts();
        if !parts.scheme.is_some_and(|scheme| matches!(scheme.as_str(), "http" | "https")) {
            return Err(not_a_uri());
        }
        let jwt_authn::JwksAsyncFetch {
            fast_listener: _, // requests wait for keys, and listeners do not
            failed_refetch_duration,
        } = async_fetch.unwrap_or_default();
        let failed = positive_duration("async_fetch.failed_refetch_duration", failed_refetch_duration)?;
        let backoff = retry_policy.map(backoff).transpose().map_err(|bad| bad.within("retry_policy"))?;
        Ok(Self {
            cluster: non_empty("http_uri.cluster", cluster)?.into(),
            authority: parts.authority.ok_or_else(not_a_uri)?,
            path: parts.path_and_query.unwrap_or(PathAndQuery::from_static("/")),
            timeout: required("http_uri.timeout", positive_duration("http_uri.timeout", timeout)?)?,
            cached: positive_duration("cache_duration", cache_duration)?.unwrap_or(CACHED),
            retry: backoff.flatten().unwrap_or((failed.unwrap_or(RETRY), LONGEST_RETRY)),
        })
    }
}

/// Fetches are repeated until one succeeds, so that the number of retries does not matter.
fn backoff(wire: core::RetryPolicy) -> Result<Option<(Duration, Duration)>, Unusable> {
    let core::RetryPolicy {
        retry_back_off,
        num_retries: _,
        retry_on,
        retry_priority,
        retry_host_predicate,
        host_selection_retry_max_attempts,
    } = wire;
    unsupported_any(&[
        ("retry_on", !retry_on.is_empty()),
        ("retry_priority", retry_priority.is_some()),
        ("retry_host_predicate", !retry_host_predicate.is_empty()),
        ("host_selection_retry_max_attempts", host_selection_retry_max_attempts != 0),
    ])?;
    let Some(core::BackoffStrategy { base_interval, max_interval }) = retry_back_off else { return Ok(None) };
    let first = required("base_interval", positive_duration("retry_back_off.base_interval", base_interval)?)
        .map_err(|bad| bad.within("retry_back_off"))?;
    let longest = positive_duration("retry_back_off.max_interval", max_interval)?;
    Ok(Some((first, longest.unwrap_or(first.saturating_mul(10)).max(first))))
}

fn wait(waiting: &mut Vec<Waker>, waker: &Waker) {
    if !waiting.iter().any(|known| known.will_wake(waker)) {
        waiting.push(waker.clone());
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PartialEq for RemoteKeys {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for RemoteKeys {}

#[cfg(test)]
mod tests;
