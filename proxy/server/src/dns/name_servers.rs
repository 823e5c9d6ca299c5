//! The name servers of the machine: those of `/etc/resolv.conf` (resolv.conf(5)), or of `--dns-upstream`.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Where the machine's name servers are listed.
pub(crate) const RESOLV_CONF: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;
/// How many name servers of the file are used (MAXNS of resolv.conf(5)).
const MAX_SERVERS: usize = 3;
/// How often the file is read, at most.
const REREAD: Duration = Duration::from_secs(5);
/// How long a client waits for a response before it repeats its query, if `options timeout:` says nothing (RES_TIMEOUT), and at most.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_CLIENT_TIMEOUT: u64 = 30;

/// What a `resolv.conf` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResolvConf {
    /// The name servers, in order.
    pub(crate) servers: Vec<SocketAddr>,
    /// How long one may take until the next is asked. Two have been asked when the client repeats its query.
    pub(super) timeout: Duration,
}

/// The name servers that queries are forwarded to.
#[derive(Debug)]
pub(crate) struct NameServers {
    fixed: Vec<SocketAddr>,
    /// Where the answerer listens itself. It never forwards to these addresses.
    own: Vec<SocketAddr>,
    file: PathBuf,
    read: Mutex<Option<(Instant, ResolvConf)>>,
}

impl NameServers {
    /// Creates the name servers: `fixed` if there are any, else those of the file, which is read again when it has changed.
    pub(crate) fn new(fixed: Vec<SocketAddr>, own: Vec<SocketAddr>, file: PathBuf) -> Self {
        Self { fixed, own, file, read: Mutex::new(None) }
    }

    /// Returns the name servers and the time limit of each, which is always that of the file.
    pub(super) fn get(&self) -> ResolvConf {
        let mut conf = self.of_file();
        if !self.fixed.is_empty() {
            conf.servers.clone_from(&self.fixed);
        }
        conf.servers.retain(|server| !self.own.contains(server));
        conf
    }

    fn of_file(&self) -> ResolvConf {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match &*read {
            Some((at, conf)) if at.elapsed() < REREAD => conf.clone(),
            _ => {
                let conf = ResolvConf::read(&self.file);
                *read = Some((Instant::now(), conf.clone()));
                conf
            }
        }
    }
}

impl ResolvConf {
    /// Reads a file. Comments may have any encoding. The local machine is the name server if the file has none.
    pub(crate) fn read(file: &Path) -> Self {
        Self::parse(&String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()))
    }

    fn parse(text: &str) -> Self {
        let (mut servers, mut timeout) = (Vec::new(), CLIENT_TIMEOUT);
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") if servers.len() < MAX_SERVERS => {
                    servers.extend(words.next().and_then(address));
                }
                Some("options") => {
                    let stated = words.filter_map(|word| word.strip_prefix("timeout:")?.parse::<u64>().ok());
                    for seconds in stated {
                        timeout = Duration::from_secs(seconds.clamp(1, MAX_CLIENT_TIMEOUT));
                    }
                }
                _ => {}
            }
        }
        if servers.is_empty() {
            servers.push((Ipv4Addr::LOCALHOST, DNS_PORT).into());
        }
        Self { servers, timeout: timeout * 2 / 5 }
    }
}

/// Returns the address of a name server: an IP address, or a link-local one with its interface (`fe80::1%eth0`).
fn address(word: &str) -> Option<SocketAddr> {
    match word.split_once('%') {
        None => Some(SocketAddr::new(word.parse().ok()?, DNS_PORT)),
        Some((ip, scope)) => Some(SocketAddrV6::new(ip.parse().ok()?, DNS_PORT, 0, interface(scope)?).into()),
    }
}

/// Returns the index of an interface, by its number or its name.
fn interface(scope: &str) -> Option<u32> {
    let by_name = || {
        let file = Path::new("/sys/class/net").join(scope).join("ifindex");
        std::fs::read_to_string(file).ok()?.trim_end().parse().ok()
    };
    scope.parse().ok().or_else(|| if scope.contains('/') { None } else { by_name() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(text: &str) -> Vec<String> {
        ResolvConf::parse(text).servers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_first_three_name_servers_of_the_file_are_used() {
        let text = "# nameserver 10.0.0.9\nsearch shop.svc\nnameserver 10.0.0.1\n nameserver\tfd00::1 # two\nnameserver fe80::1%none
            options ndots:5\nnameserver 10.0.0.3\nnameserver 10.0.0.4\nnameservers 10.0.0.5\n";
        assert_eq!(servers(text), ["10.0.0.1:53", "[fd00::1]:53", "10.0.0.3:53"]);
        assert_eq!(servers("search example.com\n"), ["127.0.0.1:53"]);
    }

    #[test]
    fn a_link_local_name_server_is_asked_on_its_interface() {
        assert_eq!(servers("nameserver fe80::1%lo\n"), ["[fe80::1%1]:53"]);
        assert_eq!(servers("nameserver fe80::1%7\n"), ["[fe80::1%7]:53"]);
        assert_eq!(servers("nameserver fe80::1%../lo\nnameserver 10.0.0.1%lo\n"), ["127.0.0.1:53"]);
    }

    #[test]
    fn two_name_servers_have_been_asked_when_the_client_repeats_its_query() {
        for (text, expected) in [
            ("", 2000),
            ("options ndots:5 timeout:1\noptions attempts:3\n", 400),
            ("options timeout:10", 4000),
            ("options timeout:0", 400),
            ("options timeout:99999", 12_000),
            ("options timeout:x", 2000),
        ] {
            assert_eq!(ResolvConf::parse(text).timeout.as_millis(), expected, "{text}");
        }
    }

    #[test]
    fn a_file_with_a_comment_of_any_encoding_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("resolv.conf");
        std::fs::write(&file, b"# B\xfcro\nnameserver 10.0.0.1\n").unwrap();
        assert_eq!(ResolvConf::read(&file).servers, ["10.0.0.1:53".parse::<SocketAddr>().unwrap()]);
    }

    #[test]
    fn the_answerer_never_forwards_to_itself() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("resolv.conf");
        std::fs::write(&file, "nameserver 127.0.0.1\nnameserver 10.0.0.1\n").unwrap();
        let own = vec!["127.0.0.1:53".parse().unwrap()];
        let servers = NameServers::new(Vec::new(), own.clone(), file.clone());
        assert_eq!(servers.get().servers, ["10.0.0.1:53".parse::<SocketAddr>().unwrap()]);
        let fixed = NameServers::new(vec!["10.0.0.2:5353".parse().unwrap(), own[0]], own, file);
        assert_eq!(fixed.get().servers, ["10.0.0.2:5353".parse::<SocketAddr>().unwrap()]);
    }
}
