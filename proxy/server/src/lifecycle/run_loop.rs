//! The running phase: readiness, sockets that follow the snapshot, reopening of the log file.
//!
//! One loop on the control thread. It ends with the first shutdown request, or when a worker ends unexpectedly.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use outrigger_config::binding::BindRequests;
use outrigger_config::publish::Published;
use outrigger_config::secrets::SecretStore;
use outrigger_core::Name;
use outrigger_discovery::status::Status;
use outrigger_discovery::{Handle, Kind};
use tokio::signal::unix::Signal;
use tokio::sync::watch;

use super::application::Problems;
use super::memory_trim::MemoryTrim;
use super::shutdown::ShutdownSignals;
use super::workers::Workers;
use crate::error::Error;
use crate::readiness::{Latch, Readiness};
use crate::sockets::Sockets;
use crate::telemetry::access_log::AccessLogThread;

/// How often to check for the first configuration; an empty one sends no notification.
const CONFIGURATION_CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// How often to check for memory that can be returned to the system.
const TRIM_CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Readiness conditions, by their names on `/ready`.
pub(crate) struct Latches {
    identity: Option<Latch>,
    configuration: Option<Latch>,
    listeners: Option<Latch>,
}

impl Latches {
    /// Creates the latches, all closed.
    pub(crate) fn new(readiness: &Readiness) -> Self {
        Self {
            identity: Some(readiness.latch("identity")),
            configuration: Some(readiness.latch("configuration")),
            listeners: Some(readiness.latch("listeners")),
        }
    }
}

impl Latches {
    fn all_open(&self) -> bool {
        self.identity.is_none() && self.configuration.is_none() && self.listeners.is_none()
    }

    /// Shows why there is no identity, and which ports the control plane refused.
    fn explain(&self, status: &Status) {
        if let (Some(latch), Some(why)) = (&self.identity, &status.identity.last_failure) {
            latch.explain(why.clone());
        }
        if let (Some(latch), Some((_, why))) = (&self.listeners, status.registration.refused.first()) {
            latch.explain(format!("the control plane refused a --service: {why}"));
        }
    }
}

/// The state of the loop.
pub(crate) struct RunLoop<'a> {
    pub(crate) latches: Latches,
    pub(crate) published: Published,
    /// Subscribed before `sockets` read the first snapshot.
    pub(crate) snapshots: watch::Receiver<u64>,
    /// Bind requests of discovery.
    pub(crate) binds: BindRequests,
    pub(crate) secrets: SecretStore,
    pub(crate) namespace: Arc<OnceLock<Name>>,
    pub(crate) discovery: &'a Handle,
    pub(crate) sockets: Sockets,
    /// Addresses that must be served before the workload is registered as ready.
    pub(crate) inbound: Vec<SocketAddr>,
    /// What the applications must do for that.
    pub(crate) applications: Problems,
    pub(crate) readiness: Readiness,
    pub(crate) log: Option<&'a AccessLogThread>,
    pub(crate) memory_trim: MemoryTrim,
}

impl RunLoop<'_> {
    /// Runs until a shutdown is requested, and returns its source.
    ///
    /// Returns the sockets too, because they keep serving during the drain.
    pub(crate) async fn until_shutdown(
        mut self,
        signals: &mut ShutdownSignals,
        workers: &mut Workers,
        hangup: &mut Signal,
    ) -> Result<(&'static str, Sockets), Error> {
        let mut configuration_check = tokio::time::interval(CONFIGURATION_CHECK_INTERVAL);
        let mut trim_check = tokio::time::interval(TRIM_CHECK_INTERVAL);
        self.applications.mark_changed();
        loop {
            tokio::select! {
                by = signals.first() => return Ok((by, self.sockets)),
                ended = workers.ended() => return Err(ended),
                _ = hangup.recv() => self.log.iter().for_each(|log| log.reopen()),
                changed = self.snapshots.changed() => {
                    // The sender is dropped only with `published`.
                    if changed.is_ok() { self.sockets.follow(&self.published.load()); }
                }
                request = self.binds.next() => {
                    let unbound = self.sockets.prepare(&request.wanted);
                    request.reply(unbound);
                }
                secrets = self.secrets.ready(), if self.latches.identity.is_some() => {
                    let _ = self.namespace.set(secrets.identity.id.namespace().into());
                    open(&mut self.latches.identity);
                }
                _ = configuration_check.tick(), if !self.latches.all_open() => {
                    let status = self.discovery.status();
                    self.latches.explain(&status);
                    match &self.latches.configuration {
                        Some(latch) if !self.configured(&status) => latch.explain(unconfigured(&status)),
                        _ => open(&mut self.latches.configuration),
                    }
                }
                _ = trim_check.tick() => self.memory_trim.check(),
                Ok(()) = self.applications.changed() => {
                    self.readiness.warn(self.applications.borrow_and_update().clone());
                }
            }
            if self.latches.listeners.is_some() && self.sockets.serves_all(&self.inbound) {
                open(&mut self.latches.listeners);
            }
            // No effect if it is not a change.
            self.discovery
                .set_ready(self.latches.listeners.is_none() && self.applications.borrow().is_empty());
        }
    }

    /// Returns true if there is a configuration, which may be the saved one. A workload that serves nothing and has requested
    /// nothing never receives one; for it, a connected control plane is enough.
    fn configured(&self, status: &Status) -> bool {
        let answered = status.kinds.get(&Kind::Listener).is_some_and(|kind| kind.acknowledged > 0);
        let serves = !self.inbound.is_empty();
        status.published.is_some() || answered || (!serves && status.stream.connected_since.is_some())
    }
}

/// Returns why there is no configuration.
fn unconfigured(status: &Status) -> String {
    let saved = status.saved_not_used.as_ref().map(|reason| format!("the saved one is not used: {reason}"));
    let stream = &status.stream;
    let control_plane = match (stream.connected_since, &stream.last_failure) {
        (Some(_), _) => "the control plane has not responded yet".to_owned(),
        (None, Some(failure)) => format!("no control plane: {failure}"),
        (None, None) => "no control plane is connected yet".to_owned(),
    };
    saved.into_iter().chain([control_plane]).collect::<Vec<_>>().join("; ")
}

fn open(latch: &mut Option<Latch>) {
    if let Some(latch) = latch.take() {
        latch.open();
    }
}
