//! Free ports of loopback for processes that are started later.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// The first port given out. The ports below 30000 are neither in Linux's default `ip_local_port_range` (32768 to 60999), from
/// which the kernel takes the ports of outgoing connections and of listeners on port 0, nor NodePorts of Kubernetes.
const FIRST: u32 = 20_000;
const COUNT: u32 = 10_000;

/// Returns `N` addresses of loopback on which nothing listens, none of them twice in a process.
///
/// A process that is started later can listen there: the kernel does not give the port to a connection meanwhile, as it does
/// with a port that was found by listening on port 0.
///
/// # Errors
///
/// Returns a message if the machine has no free port.
pub fn free<const N: usize>() -> Result<[SocketAddr; N], String> {
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for address in &mut addresses {
        *address = next().ok_or("no free port on loopback")?;
    }
    Ok(addresses)
}

fn next() -> Option<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Processes that run at the same time begin at different ports.
    let start = std::process::id().wrapping_mul(97);
    (0..COUNT)
        .map(|_| FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT)
        .filter_map(|port| Some(SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(port).ok()?))))
        .find(|address| TcpListener::bind(address).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_out_once_and_lies_outside_the_kernels_range() {
        let [first] = free().unwrap();
        let _occupied = TcpListener::bind(first).unwrap();
        let ports = free::<100>().unwrap().map(|address| address.port());
        assert!(!ports.contains(&first.port()));
        assert!(ports.iter().all(|port| (20_000..30_000).contains(port)));
        let mut distinct = ports.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), ports.len());
    }
}
