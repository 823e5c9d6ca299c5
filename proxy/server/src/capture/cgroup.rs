//! The redirection of one cgroup's outbound connections, for a program that shares its network namespace with others.
//!
//! Used by `outrigger run`. Each program has a table of its own, which belongs to a netlink socket: the kernel removes it when the
//! process ends, however it ends, and lets no other program change it (`nft flush ruleset` leaves it in place).

use std::os::fd::{AsFd, BorrowedFd};

use socket2::Socket;

use super::rules::{CGROUP_CHAINS, OutboundExclusions, TABLE, cgroup_rules};
use super::{CaptureError, netlink, nftables, unless_unroutable, verify};

/// Redirects the TCP connections of one cgroup, and its DNS queries, until it is dropped or this process ends. If another process has a duplicate of
/// its descriptor, until that is closed too.
#[derive(Debug)]
pub struct CgroupCapture {
    owner: Socket,
}

impl CgroupCapture {
    /// Redirects what processes of the cgroup `id` (its inode number in cgroup v2) connect to, except loopback addresses and the
    /// exclusions, to `port` of a loopback address, and their DNS queries to `dns_port`. `level` is the number of names in the path of the cgroup, from the root of the
    /// cgroup namespace. Sockets that were opened before their process joined the cgroup are not redirected.
    ///
    /// Returns an error, without any redirection, if the process may not do so or the kernel cannot.
    pub fn start(
        id: u64,
        level: u32,
        exclusions: &OutboundExclusions,
        port: u16,
        dns_port: Option<u16>,
    ) -> Result<Self, CaptureError> {
        let rules = cgroup_rules(level, id, exclusions, port, dns_port);
        // The inode number is unique on the machine.
        let messages = nftables::add_owned(&format!("{TABLE}-run-{id}"), &CGROUP_CHAINS, rules);
        Ok(Self { owner: netlink::exchange(&messages)? })
    }

    /// Proves, in a process of the cgroup, that its connections are redirected to `port`. Returns an error if they are not.
    pub fn verify(port: u16) -> Result<(), CaptureError> {
        unless_unroutable(verify::outbound(port))
    }
}

impl AsFd for CgroupCapture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.owner.as_fd()
    }
}
