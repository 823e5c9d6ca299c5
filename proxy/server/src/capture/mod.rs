//! `outrigger-proxy capture`: redirects the TCP connections of this network namespace to the sidecar, with nftables.
//!
//! In a pod it runs in an init container with the capability NET_ADMIN, before all others. It needs no program of the image
//! and no configuration of the mesh. The redirection is one table, `inet outrigger`, which is replaced and removed as a whole:
//! after an error, the rules are those from before. [`capture`] returns only when a connection has proved the rules.

pub(crate) mod cgroup;
mod verify;
mod rules;
mod nftables;
mod netlink;

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use thiserror::Error;

use self::netlink::Refused;
pub use self::rules::OutboundExclusions;
pub(crate) use self::rules::Redirection;
use crate::dns::name_servers::{RESOLV_CONF, ResolvConf};

const MODE: &str = "Mode";

/// Flags of `outrigger-proxy capture`.
#[derive(Debug, Clone, clap::Args)]
pub struct CaptureArgs {
    #[command(flatten)]
    redirection: Redirection,

    /// Verify the redirection only, which needs no privilege
    ///
    /// Fails if connections are not redirected. For pods whose redirection the CNI plugin sets.
    #[arg(long, help_heading = MODE, conflicts_with = "remove")]
    verify: bool,

    /// Remove the redirection; redirected connections end
    #[arg(long, help_heading = MODE)]
    remove: bool,
}

/// Why connections are not redirected. Displayed as one line.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// The process may not configure the network.
    #[error(
        "the capability NET_ADMIN is missing: add it to the capture container (securityContext.capabilities.add) or let the \
         CNI plugin redirect connections"
    )]
    Permission,
    /// The kernel lacks nftables.
    #[error("this kernel has no nftables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET, module nf_tables): {0}")]
    NoNftables(io::Error),
    /// The kernel refuses a part of the rules.
    #[error(
        "the kernel refuses the {purpose}: {source}; it needs Linux 5.2 with the modules nft_chain_nat, nft_redir and nft_fib_inet, \
         for DNS nft_ct and CONFIG_NF_CONNTRACK_ZONES, for a program alone Linux 5.14 with nft_socket"
    )]
    Refused {
        /// The part.
        purpose: String,
        /// The system error.
        source: io::Error,
    },
    /// The kernel cannot be reached over netlink.
    #[error("netlink: {0}")]
    Netlink(io::Error),
    /// There are no rules.
    #[error("this network namespace has no redirection")]
    Missing,
    /// A connection was not redirected.
    #[error("connections are not redirected: the probe of {address} failed: {source}")]
    NotRedirected {
        /// The address that was dialled.
        address: SocketAddr,
        /// What happened.
        source: io::Error,
    },
    /// No connection can be opened.
    #[error("the redirection cannot be verified: this network namespace has no default route")]
    NoRoute,
    /// The sidecar's user is never redirected.
    #[error(
        "the redirection cannot be verified as user {0}, whose connections are not redirected: run as another user"
    )]
    ProxyUser(u32),
}

impl From<Refused> for CaptureError {
    fn from(Refused { purpose, source }: Refused) -> Self {
        const EPROTONOSUPPORT: i32 = 93;
        const EAFNOSUPPORT: i32 = 97;
        match (source.kind(), source.raw_os_error(), purpose) {
            (io::ErrorKind::PermissionDenied, ..) => Self::Permission,
            (io::ErrorKind::Unsupported, ..) | (_, Some(EPROTONOSUPPORT | EAFNOSUPPORT), _) => {
                Self::NoNftables(source)
            }
            (_, _, Some(purpose)) => Self::Refused { purpose, source },
            (_, _, None) => Self::Netlink(source),
        }
    }
}

/// Sets, verifies or removes the redirection of this network namespace.
pub fn capture(args: &CaptureArgs) -> Result<(), CaptureError> {
    if args.remove {
        netlink::exchange(&nftables::remove(rules::TABLE))?;
        return Ok(());
    }
    if args.verify {
        return verify::verify(&args.redirection);
    }
    args.redirection.set()?;
    unless_unroutable(verify::verify(&args.redirection))
}

/// The kernel has accepted the rules. Without a route, there is no connection that they could miss.
fn unless_unroutable(verified: Result<(), CaptureError>) -> Result<(), CaptureError> {
    if let Err(CaptureError::NoRoute) = verified { Ok(()) } else { verified }
}

impl Redirection {
    /// Replaces the redirection of this network namespace.
    pub(crate) fn set(&self) -> Result<(), CaptureError> {
        let mut name_servers = ResolvConf::read(Path::new(RESOLV_CONF)).servers;
        // A client sends a query to a link-local address by that interface, where the sidecar does not listen.
        name_servers.retain(|server| !matches!(server, SocketAddr::V6(server) if server.scope_id() != 0));
        let rules = rules::rules(self, &name_servers.iter().map(SocketAddr::ip).collect::<Vec<_>>());
        netlink::exchange(&nftables::replace(rules::TABLE, &rules::CHAINS, rules))?;
        Ok(())
    }

    /// Returns an error if this network namespace has no redirection.
    pub(crate) fn check() -> Result<(), CaptureError> {
        netlink::exchange(&nftables::get(rules::TABLE)).map(drop).map_err(|refused| {
            match refused.source.kind() {
                io::ErrorKind::NotFound => CaptureError::Missing,
                _ => refused.into(),
            }
        })
    }
}
