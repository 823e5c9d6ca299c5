//! The name servers of the machine: those of `/etc/resolv.conf` (resolv.conf(5)), or of `--dns-upstream`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Where the machine's name servers are listed.
pub(crate) const RESOLV_CONF: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;
/// How many name servers of the file are used (MAXNS of resolv.conf(5)).
const MAX_SERVERS: usize = 3;
/// How often the file is read, at most.
const REREAD: Duration = Duration::from_secs(5);

/// The name servers that queries are forwarded to.
#[derive(Debug)]
pub(crate) struct NameServers {
    fixed: Vec<SocketAddr>,
    /// Where the answerer listens itself. It never forwards to these addresses.
    own: Vec<SocketAddr>,
    file: PathBuf,
    read: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
}

impl NameServers {
    /// Creates the name servers: `fixed` if there are any, else those of the file, which is read again when it has changed.
    pub(crate) fn new(fixed: Vec<SocketAddr>, own: Vec<SocketAddr>, file: PathBuf) -> Self {
        Self { fixed, own, file, read: Mutex::new(None) }
    }

    /// Returns the name servers, in order.
    pub(super) fn get(&self) -> Vec<SocketAddr> {
        let mut servers = if self.fixed.is_empty() { self.of_file() } else { self.fixed.clone() };
        servers.retain(|server| !self.own.contains(server));
        servers
    }

    fn of_file(&self) -> Vec<SocketAddr> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match &*read {
            Some((at, servers)) if at.elapsed() < REREAD => servers.clone(),
            _ => {
                let text = std::fs::read_to_string(&self.file).unwrap_or_default();
                let servers: Vec<_> =
                    parse(&text).into_iter().map(|ip| SocketAddr::new(ip, DNS_PORT)).collect();
                *read = Some((Instant::now(), servers.clone()));
                servers
            }
        }
    }
}

/// Returns the name servers in the text of a `resolv.conf`; the local machine if there is none. Link-local addresses with an
/// interface are left out.
pub(crate) fn parse(text: &str) -> Vec<IpAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok()).flatten()
    });
    let servers: Vec<_> = servers.take(MAX_SERVERS).collect();
    if servers.is_empty() { vec![Ipv4Addr::LOCALHOST.into()] } else { servers }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_name_servers_of_the_file_are_used() {
        let text = "# nameserver 10.0.0.9\nsearch shop.svc\nnameserver 10.0.0.1\n nameserver\tfd00::1 # two\nnameserver fe80::1%eth0
            options ndots:5\nnameserver 10.0.0.3\nnameserver 10.0.0.4\nnameservers 10.0.0.5\n";
        let expected = ["10.0.0.1", "fd00::1", "10.0.0.3"].map(|ip| ip.parse::<IpAddr>().unwrap());
        assert_eq!(parse(text), expected);
        assert_eq!(parse("search example.com\n"), [IpAddr::from(Ipv4Addr::LOCALHOST)]);
    }

    #[test]
    fn the_answerer_never_forwards_to_itself() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("resolv.conf");
        std::fs::write(&file, "nameserver 127.0.0.1\nnameserver 10.0.0.1\n").unwrap();
        let own = vec!["127.0.0.1:53".parse().unwrap()];
        let servers = NameServers::new(Vec::new(), own.clone(), file.clone());
        assert_eq!(servers.get(), ["10.0.0.1:53".parse::<SocketAddr>().unwrap()]);
        let fixed = NameServers::new(vec!["10.0.0.2:5353".parse().unwrap(), own[0]], own, file);
        assert_eq!(fixed.get(), ["10.0.0.2:5353".parse::<SocketAddr>().unwrap()]);
    }
}
