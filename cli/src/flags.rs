//! The flags that several commands have, with their environment variables.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use outrigger_control_plane::admin_client::AdminAddress;

/// Where a running control plane is asked.
#[derive(Debug, Args)]
pub(crate) struct ControlPlaneArgs {
    /// Admin address of the control plane.
    #[arg(long, value_name = "IP:PORT", env = "OUTRIGGER_ADMIN", default_value = "127.0.0.1:15011")]
    admin: SocketAddr,
}

impl ControlPlaneArgs {
    pub(crate) fn address(&self) -> AdminAddress {
        AdminAddress::Tcp(self.admin)
    }
}

/// The files of a control plane on this machine.
#[derive(Debug, Args)]
pub(crate) struct StateDirArgs {
    /// State directory of the control plane.
    #[arg(long, value_name = "DIR", env = "OUTRIGGER_STATE_DIR")]
    pub(crate) state_dir: PathBuf,
}
