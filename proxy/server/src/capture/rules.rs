//! Which connections are redirected to the sidecar: the chains of the table `inet outrigger`.
//!
//! A connection keeps its way if it was open before the rules, is not TCP (nor a DNS query over UDP), or is excluded. Loopback traffic is not seen by
//! `prerouting`, since connection tracking knows it from `output` already.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use clap::{Args as _, Command, FromArgMatches as _, value_parser};
use ipnet::IpNet;
use outrigger_dataplane::ORIGINAL_DESTINATION_PRIORITY;

use super::nftables::{Chain, Hook, Rule};

/// The name of the table. No other program has one of this name.
pub(super) const TABLE: &str = "outrigger";

/// Ports of the sidecar itself, beside those of redirected connections: admin endpoint, metrics and probes, DNS.
const PROXY_PORTS: [u16; 3] = [15000, 15020, 15053];

const DNS_PORT: u16 = 53;

const RAW: Chain = Chain { name: "raw", hook: Some(Hook::RawOutput) };
const PREROUTING: Chain = Chain { name: "prerouting", hook: Some(Hook::Prerouting) };
const OUTPUT: Chain = Chain { name: "output", hook: Some(Hook::Output) };
const INBOUND: Chain = Chain { name: "inbound", hook: None };
const OUTBOUND: Chain = Chain { name: "outbound", hook: None };
const PROXY: Chain = Chain { name: "proxy", hook: None };
pub(super) const CHAINS: [Chain; 6] = [INBOUND, OUTBOUND, PROXY, RAW, PREROUTING, OUTPUT];
/// The chains of [`cgroup_rules`].
pub(super) const CGROUP_CHAINS: [Chain; 3] = [OUTBOUND, RAW, OUTPUT];

/// What is redirected, and where.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Redirection")]
pub(crate) struct Redirection {
    /// Port of the sidecar for inbound connections
    #[arg(long, value_name = "PORT", default_value_t = 15006, value_parser = value_parser!(u16).range(1..))]
    pub(super) inbound_port: u16,

    /// Port of the sidecar for outbound connections
    #[arg(long, value_name = "PORT", default_value_t = 15001, value_parser = value_parser!(u16).range(1..))]
    pub(super) outbound_port: u16,

    /// Port of the sidecar's DNS answerer, for queries to the name servers of /etc/resolv.conf; without it, they are not redirected
    #[arg(long, value_name = "PORT", value_parser = value_parser!(u16).range(1..))]
    pub(super) dns_port: Option<u16>,

    /// User ID of the sidecar, whose own connections are not redirected
    #[arg(long, value_name = "UID", default_value_t = 1500)]
    pub(super) proxy_uid: u32,

    /// Ports whose inbound connections are not redirected; the sidecar's own never are
    #[arg(long, value_name = "PORT,...", value_delimiter = ',', value_parser = value_parser!(u16).range(1..))]
    pub(crate) exclude_inbound_ports: Vec<u16>,

    #[command(flatten)]
    pub(super) exclusions: OutboundExclusions,
}

/// Outbound connections that are not redirected.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Redirection")]
pub struct OutboundExclusions {
    /// Destination ports of outbound connections that are not redirected
    #[arg(long, value_name = "PORT,...", value_delimiter = ',', value_parser = value_parser!(u16).range(1..))]
    exclude_outbound_ports: Vec<u16>,

    /// Destination addresses of outbound connections that are not redirected, as in 10.0.0.0/8,fd00::/8
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',')]
    exclude_outbound_cidrs: Vec<IpNet>,
}

impl OutboundExclusions {
    /// Returns whether DNS queries are not redirected.
    pub fn excludes_dns(&self) -> bool {
        self.exclude_outbound_ports.contains(&DNS_PORT)
    }
}

impl Redirection {
    /// Reads the flags of a redirection. The error is one line that names the flag.
    pub(crate) fn parse(flags: &[String]) -> Result<Self, String> {
        let command = Self::augment_args(Command::new("capture")).no_binary_name(true);
        let parsed = command.try_get_matches_from(flags).and_then(|matches| Self::from_arg_matches(&matches));
        parsed.map_err(|error| error.to_string().lines().next().unwrap_or_default().to_owned())
    }
}

/// Returns addresses that are redirected whatever is excluded, so that a connection to them proves the redirection. They are
/// reserved for documentation (RFC 5737, RFC 3849): no host has them.
pub(super) fn probe_addresses(outbound_port: u16) -> [SocketAddr; 2] {
    let addresses: [IpAddr; 2] =
        [Ipv4Addr::new(192, 0, 2, 1).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()];
    addresses.map(|address| SocketAddr::new(address, outbound_port))
}

/// Returns the rules, in order. Queries to `name_servers` alone are redirected: a resolver of the machine sends its own to others,
/// and the sidecar forwards to that resolver.
pub(super) fn rules(redirection: &Redirection, name_servers: &[IpAddr]) -> Vec<Rule> {
    let Redirection { inbound_port, outbound_port, proxy_uid, .. } = *redirection;
    let loopback = loopback();
    let mut rules = vec![
        Rule::of(PREROUTING).tcp_syn().fib_daddr_local().goto(INBOUND),
        Rule::of(OUTPUT).tcp_syn().skuid(proxy_uid).goto(PROXY),
        Rule::of(OUTPUT).tcp_syn().goto(OUTBOUND),
    ];

    // Connections of the sidecar. One to an address of its own pod is a call to a service that the pod itself serves, unless it
    // is the inbound side's to the application.
    rules.push(Rule::of(PROXY).priority(ORIGINAL_DESTINATION_PRIORITY).accept());
    rules.extend(loopback.map(|range| Rule::of(PROXY).daddr(range).accept()));
    rules.push(Rule::of(PROXY).oif_loopback().goto(INBOUND));

    // A connection from outside to a loopback address is dropped by the kernel, unless it is redirected first.
    rules.push(Rule::of(INBOUND).daddr(loopback[0]).accept());
    let own = [inbound_port, outbound_port].into_iter().chain(PROXY_PORTS);
    for port in own.chain(redirection.exclude_inbound_ports.iter().copied()) {
        rules.push(Rule::of(INBOUND).tcp_dport(port).accept());
    }
    rules.push(Rule::of(INBOUND).redirect(inbound_port));

    if let Some(port) = redirection.dns_port {
        for chain in [RAW, OUTPUT] {
            rules.push(Rule::of(chain).udp_dport(DNS_PORT).skuid(proxy_uid).accept());
        }
        for &server in name_servers {
            let query = |chain| Rule::of(chain).daddr(server.into()).udp_dport(DNS_PORT);
            rules.extend(redirect_query(query, port));
            rules.push(Rule::of(OUTBOUND).daddr(server.into()).tcp_dport(DNS_PORT).redirect(port));
        }
    }

    // Connections of the application. Those to its own pod's addresses need no sidecar.
    rules.push(Rule::of(OUTBOUND).oif_loopback().accept());
    rules.extend(outbound(&redirection.exclusions, outbound_port));
    rules
}

/// Returns the rules for the connections of one cgroup, in order. Other services of the machine have addresses of the machine,
/// so that only connections to loopback addresses are left alone. With a `dns_port`, all DNS queries are redirected to it: name servers of
/// the machine are in other cgroups.
pub(super) fn cgroup_rules(
    level: u32,
    id: u64,
    exclusions: &OutboundExclusions,
    port: u16,
    dns_port: Option<u16>,
) -> Vec<Rule> {
    let mut rules = vec![Rule::of(OUTPUT).tcp_syn().cgroup(level, id).goto(OUTBOUND)];
    if let Some(port) = dns_port {
        let query = |chain| Rule::of(chain).udp_dport(DNS_PORT).cgroup(level, id);
        rules.extend(redirect_query(query, port));
        rules.push(Rule::of(OUTBOUND).tcp_dport(DNS_PORT).redirect(port));
    }
    rules.extend(loopback().map(|range| Rule::of(OUTBOUND).daddr(range).accept()));
    rules.extend(outbound(exclusions, port));
    rules
}

/// Redirects queries over UDP. Connection tracking takes a query for one more of an earlier client, for half a minute, if that had the
/// same address and port: it would be redirected as the earlier one was, or not at all. So redirected queries have a zone of their own.
fn redirect_query(query: impl Fn(Chain) -> Rule, port: u16) -> [Rule; 2] {
    [query(RAW).ct_original_zone_set(port), query(OUTPUT).redirect(port)]
}

/// Returns the rules for connections to other addresses.
fn outbound(exclusions: &OutboundExclusions, port: u16) -> Vec<Rule> {
    let mut rules: Vec<_> = probe_addresses(port)
        .map(|probe| Rule::of(OUTBOUND).daddr(probe.ip().into()).tcp_dport(probe.port()).redirect(port))
        .into();
    for &port in &exclusions.exclude_outbound_ports {
        rules.push(Rule::of(OUTBOUND).tcp_dport(port).accept());
    }
    for &range in &exclusions.exclude_outbound_cidrs {
        rules.push(Rule::of(OUTBOUND).daddr(range).accept());
    }
    rules.push(Rule::of(OUTBOUND).redirect(port));
    rules
}

fn loopback() -> [IpNet; 2] {
    [
        IpNet::new_assert(Ipv4Addr::new(127, 0, 0, 0).into(), 8),
        IpNet::new_assert(Ipv6Addr::LOCALHOST.into(), 128),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirection(flags: &[&str]) -> Result<Redirection, String> {
        let words: Vec<_> = flags.iter().map(|&flag| flag.to_owned()).collect();
        Redirection::parse(&words)
    }

    fn lines(flags: &[&str], chain: Chain) -> Vec<String> {
        let prefix = format!("{}: ", chain.name);
        let servers = ["127.0.0.53", "fd00::53"].map(|ip| ip.parse().unwrap());
        let rules = rules(&redirection(flags).unwrap(), &servers).into_iter().map(|rule| rule.to_string());
        rules.filter_map(|line| line.strip_prefix(&prefix).map(str::to_owned)).collect()
    }

    #[test]
    fn inbound_connections_are_redirected_except_to_excluded_ports_and_the_sidecars_own() {
        assert_eq!(lines(&[], PREROUTING), ["tcp flags syn fib daddr type local goto inbound"]);
        let excluded =
            [15006, 15001, 15000, 15020, 15053, 22, 9090].map(|port| format!("tcp dport {port} accept"));
        let inbound = lines(&["--exclude-inbound-ports", "22,9090"], INBOUND);
        let loopback = ["daddr 127.0.0.0/8 accept".into()];
        assert_eq!(inbound, [&loopback[..], &excluded[..], &["redirect to :15006".into()]].concat());
    }

    #[test]
    fn outbound_connections_are_redirected_except_to_excluded_ports_and_addresses() {
        let flags = ["--exclude-outbound-ports", "25", "--exclude-outbound-cidrs", "10.1.2.3/8,fd00::/8"];
        assert_eq!(
            lines(&flags, OUTBOUND),
            [
                "oif lo accept",
                "daddr 192.0.2.1/32 tcp dport 15001 redirect to :15001",
                "daddr 2001:db8::1/128 tcp dport 15001 redirect to :15001",
                "tcp dport 25 accept",
                "daddr 10.0.0.0/8 accept",
                "daddr fd00::/8 accept",
                "redirect to :15001",
            ]
        );
    }

    #[test]
    fn the_sidecars_connections_are_redirected_only_to_itself() {
        assert_eq!(
            lines(&["--proxy-uid", "7"], OUTPUT),
            ["tcp flags syn meta skuid 7 goto proxy", "tcp flags syn goto outbound"]
        );
        assert_eq!(
            lines(&[], PROXY),
            [
                "meta priority 4 accept",
                "daddr 127.0.0.0/8 accept",
                "daddr ::1/128 accept",
                "oif lo goto inbound",
            ]
        );
    }

    #[test]
    fn only_connections_of_the_cgroup_are_redirected_and_not_those_to_loopback_addresses() {
        let exclusions = OutboundExclusions { exclude_outbound_ports: vec![25], ..Default::default() };
        let lines = cgroup_rules(2, 77, &exclusions, 15001, None).into_iter().map(|rule| rule.to_string());
        assert_eq!(
            lines.collect::<Vec<_>>(),
            [
                "output: tcp flags syn socket cgroupv2 level 2 77 goto outbound",
                "outbound: daddr 127.0.0.0/8 accept",
                "outbound: daddr ::1/128 accept",
                "outbound: daddr 192.0.2.1/32 tcp dport 15001 redirect to :15001",
                "outbound: daddr 2001:db8::1/128 tcp dport 15001 redirect to :15001",
                "outbound: tcp dport 25 accept",
                "outbound: redirect to :15001",
            ]
        );
    }

    #[test]
    fn all_queries_of_the_cgroup_are_redirected_in_a_zone_of_their_own_before_anything_is_left_alone() {
        let lines = cgroup_rules(2, 77, &OutboundExclusions::default(), 15001, Some(15053));
        let lines: Vec<_> = lines.iter().map(Rule::to_string).collect();
        assert_eq!(
            lines[..5],
            [
                "output: tcp flags syn socket cgroupv2 level 2 77 goto outbound",
                "raw: udp dport 53 socket cgroupv2 level 2 77 ct original zone set 15053",
                "output: udp dport 53 socket cgroupv2 level 2 77 redirect to :15053",
                "outbound: tcp dport 53 redirect to :15053",
                "outbound: daddr 127.0.0.0/8 accept",
            ]
        );
    }

    #[test]
    fn queries_of_the_application_to_its_name_servers_are_redirected_before_anything_else() {
        let flags = ["--dns-port", "15053", "--exclude-outbound-ports", "53"];
        assert_eq!(
            lines(&flags, OUTPUT)[2..],
            [
                "udp dport 53 meta skuid 1500 accept",
                "daddr 127.0.0.53/32 udp dport 53 redirect to :15053",
                "daddr fd00::53/128 udp dport 53 redirect to :15053",
            ]
        );
        assert_eq!(
            lines(&flags, RAW),
            [
                "udp dport 53 meta skuid 1500 accept",
                "daddr 127.0.0.53/32 udp dport 53 ct original zone set 15053",
                "daddr fd00::53/128 udp dport 53 ct original zone set 15053",
            ]
        );
        assert_eq!(
            lines(&flags, OUTBOUND)[..3],
            [
                "daddr 127.0.0.53/32 tcp dport 53 redirect to :15053",
                "daddr fd00::53/128 tcp dport 53 redirect to :15053",
                "oif lo accept",
            ]
        );
    }

    #[test]
    fn nothing_but_ports_and_address_ranges_becomes_a_rule() {
        for flags in [
            ["--exclude-inbound-ports", "22;accept"],
            ["--exclude-inbound-ports", "0"],
            ["--exclude-inbound-ports", "65536"],
            ["--exclude-outbound-ports", "1-65535"],
            ["--exclude-outbound-ports", ""],
            ["--exclude-outbound-cidrs", "10.0.0.0"],
            ["--exclude-outbound-cidrs", "10.0.0.0/33"],
            ["--exclude-outbound-cidrs", "example.com/8"],
        ] {
            assert!(redirection(&flags).is_err(), "{flags:?}");
        }
    }
}
