//! The relay of this program, which parses nothing: about the least that a proxy costs which reads and writes every byte.

use std::path::{Path, PathBuf};

use outrigger::ports;

use super::daemon::Daemon;
use super::{Running, Setup, With};

/// Returns this program.
pub(super) fn find() -> Option<PathBuf> {
    std::env::current_exe().ok()
}

pub(super) async fn start(program: &Path, setup: &Setup, with: &With<'_>) -> Result<Running, String> {
    let [address] = ports::free()?;
    let (listen, to) = (address.to_string(), setup.backend.to_string());
    let args = ["relay", "--listen", &listen, "--to", &to];
    let mut daemon = Daemon::start(with.cores, program, "relay", with.directory, &args)?;
    daemon.accepts(address).await?;
    super::running(vec![daemon], address, setup, with)
}
