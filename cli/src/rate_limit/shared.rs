//! Counters in a Redis or Valkey, for several instances of the service.
//!
//! The end of its window is part of a counter's key, so that instances agree on it, and a counter expires. All counters of a request are
//! counted in one round trip and in one transaction, so that none is left without its expiry. While the store is not connected, questions fail
//! at once.

use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::{Client, IntoConnectionInfo, Pipeline};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::link::{Link, keep_connected};
use super::window::{Hits, Window};

/// The most requests that one question counts, so that a counter cannot overflow.
const MOST: u64 = 1 << 32;

/// A store.
#[derive(Debug)]
pub(super) struct Shared {
    link: watch::Receiver<Link>,
    timeout: Duration,
    /// Connects, and ends when this is dropped.
    _connects: JoinSet<()>,
}

impl Shared {
    /// Connects to `address`: `HOST:PORT` or a URL (`redis://USER:PASSWORD@HOST:PORT/DATABASE`, `rediss://` for TLS). Returns after the first
    /// attempt, whether it succeeded or not; further ones follow. A question may take `timeout`.
    ///
    /// Returns an error for an address that is not understood. The error does not contain the address, which may have a password.
    pub(super) async fn connect(address: &str, timeout: Duration) -> Result<Self, String> {
        let url = if address.contains("://") { address.to_owned() } else { format!("redis://{address}") };
        let info = url.into_connection_info().map_err(|error| {
            format!("--redis: {error}; expected HOST:PORT, or a URL such as redis://:PASSWORD@HOST:PORT/0")
        })?;
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let client = Client::open(info).map_err(|error| format!("--redis: {error}"))?;
        let (to, mut link) = watch::channel(Link::Down("it is not connected yet".into()));
        let mut connects = JoinSet::new();
        connects.spawn(keep_connected(client, to));
        // The task lives as long as the receiver.
        let _ = link.changed().await;
        Ok(Self { link, timeout, _connects: connects })
    }

    /// Counts all of these at the time `now`, since the epoch. Returns the window of each, in order.
    ///
    /// Returns an error if the store does not answer in time, or if it is not connected. Some or all of them may have been counted then.
    pub(super) async fn count(&self, hits: &[Hits], now: Duration) -> Result<Vec<Window>, String> {
        if hits.is_empty() {
            return Ok(Vec::new());
        }
        let connection = self.link.borrow().connection()?;
        let counts = connection.ask(&commands(hits, now), self.timeout).await?;
        if counts.len() != hits.len() {
            return Err(format!("it answered {} counts instead of {}", counts.len(), hits.len()));
        }
        let window = |(one, count): (&Hits, u64)| Window { count, left: one.end(now).saturating_sub(now) };
        Ok(hits.iter().zip(counts).map(window).collect())
    }

    /// Returns whether the store is connected.
    pub(super) fn is_connected(&self) -> bool {
        self.link.borrow().connection().is_ok()
    }
}

/// Returns the transaction that counts all of these.
fn commands(hits: &[Hits], now: Duration) -> Pipeline {
    let mut commands = redis::pipe();
    commands.atomic();
    for one in hits {
        let key = format!("outrigger:{}:{}", one.end(now).as_secs(), one.key);
        commands.cmd("INCRBY").arg(&key).arg(one.count.min(MOST));
        // Longer than the window by its length: the clock of another instance may be late.
        commands.cmd("EXPIRE").arg(&key).arg(one.length.as_secs().saturating_mul(2)).ignore();
    }
    commands
}

#[cfg(test)]
mod tests;
