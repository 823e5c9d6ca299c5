//! The end: signals, and the order in which a proxy leaves.
//!
//! Leave discovery first, keep serving while the news travels, then finish what others asked for, then what the application
//! asks for, which it could do until then, then flush what is known of it all. A second signal ends the process at once.

use std::time::Duration;

use outrigger_discovery::Left;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::error::Error;

/// How long new requests are still served after the workload left discovery: other sidecars hear of it within
/// milliseconds, and one that reconnects to its control plane right then within its first back-off of 0.5 s.
const PROPAGATION: Duration = Duration::from_secs(1);

/// How long telemetry may take to deliver what it has, once the last request is through.
pub(crate) const FLUSH: Duration = Duration::from_secs(3);

/// How long the news that the workload `left` travels. There is none where it was never offered to others, and where no
/// control plane was told: then the peers' own retries must do.
pub(crate) fn propagation(left: Left, offered: bool) -> Duration {
    match left {
        Left::Confirmed if offered => PROPAGATION,
        Left::Confirmed | Left::Unconfirmed => Duration::ZERO,
    }
}

/// Why the process is told to end; each further order makes the end more abrupt.
#[derive(Debug)]
pub(crate) struct Orders {
    interrupt: Signal,
    terminate: Signal,
    embedder: Option<watch::Receiver<bool>>,
    drain: watch::Receiver<bool>,
}

impl Orders {
    /// Listens to SIGTERM, SIGINT, `/drain` and whoever embeds the proxy. Call it inside the control runtime, before
    /// anything is announced.
    pub(crate) fn new(
        embedder: Option<watch::Receiver<bool>>,
        drain: watch::Receiver<bool>,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Start { what: "signal handling", source };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            embedder,
            drain,
        })
    }

    /// The first order, by its source. Cancel-safe.
    pub(crate) async fn first(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            () = told(Some(&mut self.drain)) => "/drain",
            () = told(self.embedder.as_mut()) => "embedder",
        }
    }

    /// A further signal. Cancel-safe.
    pub(crate) async fn again(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// Resolves when the value is true; an order-giver that is gone gives none.
async fn told(by: Option<&mut watch::Receiver<bool>>) {
    if let Some(by) = by
        && by.wait_for(|told| *told).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_news_that_somebody_hears_is_waited_for() {
        assert_eq!(propagation(Left::Confirmed, true), PROPAGATION);
        assert_eq!(propagation(Left::Unconfirmed, true), Duration::ZERO);
        assert_eq!(propagation(Left::Confirmed, false), Duration::ZERO);
    }

    #[tokio::test]
    async fn an_order_is_heard_and_a_giver_that_is_gone_gives_none() {
        let (drain, drained) = watch::channel(false);
        let (embedder, embedded) = watch::channel(false);
        let mut orders = Orders::new(Some(embedded), drained).unwrap();
        drop(embedder);
        drain.send_replace(true);
        assert_eq!(orders.first().await, "/drain");
    }
}
