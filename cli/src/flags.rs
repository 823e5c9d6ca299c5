//! The flags that several commands have, with their environment variables.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use outrigger_control_plane::admin_client::AdminAddress;

/// The admin endpoint of a running control plane.
#[derive(Debug, Args)]
pub(crate) struct ControlPlaneArgs {
    /// Admin address of the control plane.
    #[arg(long, value_name = "IP:PORT", env = "OUTRIGGER_ADMIN", default_value = "127.0.0.1:15011")]
    #[arg(help_heading = "Control plane")]
    pub(crate) admin: SocketAddr,
}

impl ControlPlaneArgs {
    /// Returns the address for requests.
    pub(crate) fn address(&self) -> AdminAddress {
        AdminAddress::Tcp(self.admin)
    }
}

/// The files of a control plane on this machine.
#[derive(Debug, Args)]
pub(crate) struct StateDirArgs {
    /// State directory of the control plane.
    #[arg(long, value_name = "DIR", env = "OUTRIGGER_STATE_DIR", help_heading = "Control plane")]
    pub(crate) state_dir: PathBuf,
}

/// The admin endpoint of a proxy on this machine.
#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    /// Admin address of the proxy.
    #[arg(long, value_name = "IP:PORT", env = "OUTRIGGER_PROXY_ADMIN", default_value = "127.0.0.1:15000")]
    #[arg(help_heading = "Proxy")]
    pub(crate) admin: SocketAddr,
}

/// A filter by namespace.
#[derive(Debug, Args)]
pub(crate) struct NamespaceArgs {
    /// Only this namespace.
    #[arg(short, long, env = "OUTRIGGER_NAMESPACE", help_heading = "Filters")]
    namespace: Option<String>,
}

impl NamespaceArgs {
    /// Returns true if `namespace` passes the filter.
    pub(crate) fn includes(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|only| only == namespace)
    }
}
