//! Lookups in DNS, for clusters whose endpoints are the addresses of a name and for destinations outside the mesh.
//!
//! A lookup for a cluster is a task of its own: requests wait for it within their time limits, and its answer is there for later ones.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use outrigger_config::cluster::dns::{Answer, Awaited, DnsEndpoints, Lookup, Resolution};
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};

/// How long a lookup may take. Then it has failed.
const LONGEST: Duration = Duration::from_secs(30);

/// Resolves host names outside the mesh. Shared by all workers.
#[derive(Clone)]
pub struct Resolver(Arc<Resolve>);

/// The endpoints of a cluster, and how long they are waited for at most.
type Named = (Arc<DnsEndpoints>, Duration);

type Resolve = dyn Fn(String) -> Resolving + Send + Sync;
type Resolving = Pin<Box<dyn Future<Output = Result<Answer, String>> + Send>>;

impl Resolver {
    /// A resolver that calls `resolve` with a host name and gets its addresses, or why there are none.
    pub fn new<F>(resolve: impl Fn(String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Answer, String>> + Send + 'static,
    {
        Self(Arc::new(move |host| Box::pin(resolve(host))))
    }

    /// Returns the addresses of a name, or why there are none. Takes `longest` at most.
    pub(crate) async fn resolve(&self, host: &str, longest: Duration) -> Result<Answer, String> {
        timeout(longest, (self.0)(host.to_owned())).await.unwrap_or_else(|_| Err(LATE.into()))
    }

    /// Looks up the endpoints of a cluster, which `current` returns, if the last answer is no longer valid. Without endpoints, DNS is waited for
    /// as long as `current` says at most, and there is an error if it has none in time. Known endpoints are used in any case, after a wait that a
    /// user hardly notices. If the cluster has been updated meanwhile, its new endpoints are looked up, once.
    pub(crate) fn look_up(&self, current: impl Fn() -> Option<Named> + 'static) -> Waiting {
        let Some((dns, longest)) = current() else { return Waiting::NONE };
        let Waiting(Some(first)) = self.begin(&dns, longest) else { return Waiting::NONE };
        let resolver = self.clone();
        Waiting(Some(Box::pin(async move {
            let ended = first.await;
            match current() {
                Some((newer, _)) if Arc::ptr_eq(&newer, &dns) => ended,
                Some((newer, longest)) => resolver.begin(&newer, longest).await,
                None => Ok(()),
            }
        })))
    }

    fn begin(&self, dns: &Arc<DnsEndpoints>, longest: Duration) -> Waiting {
        let (resolution, lookup) = dns.resolve();
        if let Some(lookup) = lookup {
            tokio::task::spawn_local(make(self.clone(), lookup));
        }
        let dns = Arc::clone(dns);
        match resolution {
            Resolution::Known => Waiting::NONE,
            Resolution::Failed(why) => Waiting(Some(Box::pin(async move { Err(nowhere(&dns, &why)) }))),
            Resolution::Awaited(awaited) => Waiting(Some(Box::pin(wait(dns, awaited, longest)))),
        }
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

async fn make(resolver: Resolver, lookup: Lookup) {
    let answer = resolver.resolve(lookup.host(), LONGEST).await;
    let host = lookup.host().to_owned();
    match lookup.end(answer) {
        Some(Err(why)) => warn!(host, %why, "a name of a cluster cannot be resolved"),
        Some(Ok(())) => info!(host, "a name of a cluster can be resolved again"),
        None => {}
    }
}

async fn wait(dns: Arc<DnsEndpoints>, awaited: Awaited, longest: Duration) -> Result<(), Failure> {
    let known_until = awaited.until;
    // A time that overflows the clock never passes.
    let ended = match known_until.or_else(|| Instant::now().checked_add(longest)) {
        Some(until) => timeout_at(until, awaited.end()).await.unwrap_or_else(|_| Err(LATE.into())),
        None => awaited.end().await,
    };
    match ended {
        Err(why) if known_until.is_none() => Err(nowhere(&dns, &why)),
        _ => Ok(()),
    }
}

/// Why a name has no addresses if DNS is too slow.
const LATE: &str = "no answer of DNS in time";

fn nowhere(dns: &DnsEndpoints, why: &str) -> Failure {
    let why = format!("{}: {why}", dns.host());
    Failure::upstream(Reason::NoHealthyUpstream, Reached::NotWritten, why)
}

/// Waits for a lookup; for most clusters, for nothing. Boxed, because it is rare and would make every request larger.
pub(crate) struct Waiting(Option<LocalBoxFuture<'static, Result<(), Failure>>>);

impl Waiting {
    /// For nothing.
    pub(crate) const NONE: Self = Self(None);
}

impl Future for Waiting {
    type Output = Result<(), Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().map_or(Poll::Ready(Ok(())), |waiting| waiting.as_mut().poll(cx))
    }
}
