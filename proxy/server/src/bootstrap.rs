//! What the flags define: the proxy's static listeners, its sockets, and the ports that it registers.
//!
//! All sockets are bound here, before any thread runs, so that an address in use is a start-up error. Inbound listeners come
//! over xDS after registration; their sockets are bound already.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::http_manager::HttpSettings;
use outrigger_config::listener::{
    ChainMatcher, DestinationBy, DestinationFinder, FilterChain, Listener, NetworkFilter, UnknownDestination,
};
use outrigger_core::Name;
use outrigger_core::inbound_name::inbound_name;
use outrigger_core::record::Direction;
use outrigger_dataplane::ListenerGroup;
use outrigger_discovery::WorkloadPort;
use socket2::Type;

use crate::args::{self, Args, ServicePort};
use crate::dns::DnsSocket;
use crate::error::Error;
use crate::inherited::InheritedSockets;

/// Time limit for the first bytes of a connection, where they decide how it is handled.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything that is created from the flags.
#[derive(Debug)]
pub(crate) struct Bootstrap {
    /// The admin endpoint's socket.
    pub(crate) admin: TcpListener,
    /// The socket for scrapers and probes.
    pub(crate) public: Option<TcpListener>,
    /// The sockets of the DNS answerer.
    pub(crate) dns: Vec<DnsSocket>,
    /// The static listeners, with the actual ports.
    pub(crate) listeners: Vec<Arc<Listener>>,
    /// All listening sockets: those of the static listeners, and those for this workload's xDS listeners.
    pub(crate) sockets: Vec<ListenerGroup>,
    /// The ports to register.
    pub(crate) ports: Vec<WorkloadPort>,
    /// The addresses that need a listener before the workload can be reached.
    pub(crate) inbound: Vec<SocketAddr>,
}

impl Bootstrap {
    /// Binds every address in `args` of which no socket is inherited. Returns the first error.
    pub(crate) fn new(args: &Args, inherited: InheritedSockets) -> Result<Self, Error> {
        args.check()?;
        let mut binder = Binder { workers: args.workers.get(), inherited, sockets: Vec::new() };
        let admin = bind("--admin", args.admin.get())?;
        let public = args.metrics_listen.map(|address| bind("--metrics-listen", address)).transpose()?;
        let mut dns = Vec::new();
        for (number, address) in args.dns.iter().map(|address| address.get()).enumerate() {
            match binder.dns(address) {
                Err(source) if number > 0 && address.is_ipv6() && is_without_ipv6(&source) => {
                    tracing::info!(%address, "not listening: there is no IPv6 here");
                }
                Err(source) => {
                    return Err(Error::Listen { flag: "--dns", address: address.to_string(), source });
                }
                Ok(socket) => dns.push(socket),
            }
        }
        let mut listeners = Vec::new();
        if let Some(address) = args.outbound {
            let outbound = binder.bind("--outbound", |_| "outbound".into(), address)?;
            listeners.push(finding(args, "outbound".into(), outbound, DestinationBy::Authority));
        }
        for bound in &args.bind {
            let name = |address| format!("bind|{address}").into();
            let address = binder.bind("--bind", name, bound.local)?;
            let by = DestinationBy::Name(bound.destination.as_str().into());
            listeners.push(finding(args, name(address), address, by));
        }
        for (number, &address) in args.transparent_outbound.iter().enumerate() {
            let name: Name = match number {
                0 => "transparent-outbound".into(),
                _ => format!("transparent-outbound|{address}").into(),
            };
            let address = match binder.bind("--transparent-outbound", |_| name.clone(), address) {
                Err(Error::Listen { source, .. })
                    if number > 0 && address.is_ipv6() && is_without_ipv6(&source) =>
                {
                    tracing::info!(%address, "not listening: there is no IPv6 here");
                    continue;
                }
                bound => bound?,
            };
            listeners.push(finding(args, name, address, DestinationBy::OriginalDestination));
        }
        let redirected = match args.transparent_inbound {
            Some(address) => Some(binder.bind("--transparent-inbound", inbound_name, address)?),
            None => None,
        };
        let (ports, inbound) = binder.services(&args.service, redirected)?;
        Ok(Self { admin, public, dns, listeners, sockets: binder.sockets, ports, inbound })
    }
}

/// Returns a listener that finds the destination of each connection or request by `by`.
fn finding(args: &Args, name: Name, address: SocketAddr, by: DestinationBy) -> Arc<Listener> {
    let original_dst = by == DestinationBy::OriginalDestination;
    let unknown = match args.unknown_destination {
        args::UnknownDestination::Passthrough => UnknownDestination::PassThrough,
        args::UnknownDestination::Refuse => UnknownDestination::Refuse,
    };
    let finder = DestinationFinder { by, unknown, http: Arc::new(HttpSettings::default()) };
    let chain = FilterChain {
        name: name.clone(),
        matcher: ChainMatcher::default(),
        tls: None,
        handshake_timeout: None,
        connection_filters: Box::default(),
        filter: NetworkFilter::Find(finder),
    };
    Arc::new(Listener {
        name,
        address,
        direction: Direction::Outbound,
        original_dst,
        first_bytes_timeout: FIRST_BYTES_TIMEOUT,
        continue_on_timeout: true,
        detects_http: false,
        chains: [chain].into(),
        default_chain: None,
    })
}

/// Binds a socket of the control thread.
fn bind(flag: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    let failed = |source| Error::Listen { flag, address: address.to_string(), source };
    let listener = probe(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Binds `address`; `[::]` is `0.0.0.0` on a kernel without IPv6.
fn probe(address: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(address) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && is_without_ipv6(&error) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
        }
        bound => bound,
    }
}

/// EAFNOSUPPORT: the kernel has no IPv6. EADDRNOTAVAIL: no interface has the address.
fn is_without_ipv6(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(97 | 99))
}

struct Binder {
    workers: usize,
    inherited: InheritedSockets,
    sockets: Vec<ListenerGroup>,
}

impl Binder {
    /// Binds one socket per worker. Returns `address` with the actual port; the group is named after it.
    fn bind(
        &mut self,
        flag: &'static str,
        name: impl FnOnce(SocketAddr) -> Name,
        address: SocketAddr,
    ) -> Result<SocketAddr, Error> {
        let failed = |source| Error::Listen { flag, address: address.to_string(), source };
        let inherited = self.inherited.take(Type::STREAM, address);
        let (named, group) = if let Some(socket) = inherited {
            (address, ListenerGroup::adopt(name(address), vec![socket.into()]).map_err(failed)?)
        } else {
            // SO_REUSEPORT would also let a second proxy of the same user share the port and receive half of the connections.
            // A probe socket without it detects an existing listener.
            let probe = probe(address).map_err(failed)?;
            let bound = probe.local_addr().map_err(failed)?;
            drop(probe);
            let named = SocketAddr::new(address.ip(), bound.port());
            let group = ListenerGroup::bind(name(named), bound, self.workers);
            (named, group.map_err(|error| failed(std::io::Error::other(error)))?)
        };
        tracing::info!(listener = %group.name(), address = %group.address(), "listening");
        self.sockets.push(group);
        Ok(named)
    }

    /// Binds the sockets of the DNS answerer.
    fn dns(&mut self, address: SocketAddr) -> std::io::Result<DnsSocket> {
        let mut inherited = |kind| self.inherited.take(kind, address);
        match (inherited(Type::DGRAM), inherited(Type::STREAM)) {
            (Some(udp), Some(tcp)) => DnsSocket::adopt(udp.into(), tcp.into()),
            _ => DnsSocket::bind(address),
        }
    }

    /// Returns the ports to register and the inbound addresses. Services that differ only in name share a port. `redirected`
    /// receives the connections of services without a socket.
    fn services(
        &mut self,
        services: &[ServicePort],
        redirected: Option<SocketAddr>,
    ) -> Result<(Vec<WorkloadPort>, Vec<SocketAddr>), Error> {
        let mut ports: Vec<WorkloadPort> = Vec::new();
        let mut bound: Vec<(SocketAddr, SocketAddr)> = Vec::new();
        for service in services {
            let (listen, original_destination) = match (service.listen, redirected) {
                (Some(requested), _) => match bound.iter().find(|(before, _)| *before == requested) {
                    Some((_, address)) => (*address, false),
                    None => {
                        let address = self.bind("--service", inbound_name, requested)?;
                        bound.push((requested, address));
                        (address, false)
                    }
                },
                (None, Some(redirected)) => (redirected, true),
                (None, None) => continue, // refused by Args::check
            };
            let port = WorkloadPort {
                services: vec![service.service.clone()],
                service_port: service.port,
                protocol: service.protocol.map(|protocol| protocol.app_protocol().to_owned()),
                advertised: advertised(
                    service,
                    if original_destination { service.application } else { listen },
                )?,
                listen,
                application: service.application,
                original_destination,
            };
            let same = |other: &&mut WorkloadPort| {
                WorkloadPort { services: port.services.clone(), ..(**other).clone() } == port
            };
            match ports.iter_mut().find(same) {
                Some(other) => other.services.extend(port.services),
                None => ports.push(port),
            }
        }
        // In a pod the control plane knows the ports, and all connections are redirected.
        let mut inbound: Vec<_> = ports.iter().map(|port| port.listen).chain(redirected).collect();
        inbound.sort_unstable();
        inbound.dedup();
        Ok((ports, inbound))
    }
}

/// Returns the address that peers connect to: the `advertise` option, else `address`. An unspecified IP is replaced by this
/// machine's address.
fn advertised(service: &ServicePort, address: SocketAddr) -> Result<SocketAddr, Error> {
    if let Some(advertise) = service.advertise {
        return Ok(advertise);
    }
    if !address.ip().is_unspecified() {
        return Ok(address);
    }
    match primary_address(address.is_ipv6()) {
        Some(ip) => Ok(SocketAddr::new(ip, address.port())),
        None => Err(Error::Flag {
            flag: "--service",
            value: service.to_string(),
            problem: "this machine's address is unknown; set `,advertise=IP:PORT`".to_owned(),
        }),
    }
}

/// Returns this machine's source address towards other machines. Connecting a UDP socket only consults the routing table and
/// sends nothing. The target addresses are reserved for documentation (RFC 5737, RFC 3849).
fn primary_address(v6: bool) -> Option<IpAddr> {
    let (local, far) = if v6 { ("[::]:0", "[2001:db8::1]:9") } else { ("0.0.0.0:0", "192.0.2.1:9") };
    let socket = UdpSocket::bind(local).ok()?;
    socket.connect(far).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && ip != IpAddr::V4(Ipv4Addr::LOCALHOST)).then_some(ip)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn bootstrap(more: &[&str]) -> Result<Bootstrap, String> {
        inheriting(more, InheritedSockets::default())
    }

    fn inheriting(more: &[&str], inherited: InheritedSockets) -> Result<Bootstrap, String> {
        let needed = [
            "outrigger-proxy",
            "--control-plane",
            "127.0.0.1:1",
            "--control-plane-ca",
            "r",
            "--state-dir",
            "s",
        ];
        let free = ["--admin", "127.0.0.1:0", "--outbound", "127.0.0.1:0"];
        let command =
            Command::try_parse_from(needed.iter().chain(&free).chain(more)).map_err(|e| e.to_string())?;
        Bootstrap::new(&command.args, inherited).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_become_listeners() {
        let made =
            bootstrap(&["--bind", "127.0.0.1:0=Stock.Shop:9000", "--transparent-outbound", "127.0.0.1:0"])
                .unwrap();
        let kinds: Vec<_> = made
            .listeners
            .iter()
            .map(|listener| match &listener.chains[0].filter {
                NetworkFilter::Find(finder) => (finder.by.clone(), listener.original_dst),
                NetworkFilter::Handle(_) => panic!("flags handle nothing themselves"),
            })
            .collect();
        assert_eq!(
            kinds,
            [
                (DestinationBy::Authority, false),
                (DestinationBy::Name("stock.shop:9000".into()), false),
                (DestinationBy::OriginalDestination, true),
            ]
        );
        assert_eq!(made.sockets.len(), 3);
        assert!(made.listeners.iter().all(|listener| listener.address.port() != 0));
    }

    #[test]
    fn an_address_in_use_is_named_with_its_flag() {
        // SO_REUSEPORT, as the sockets of another proxy have.
        let other = ListenerGroup::bind("other".into(), "127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let bind = format!("{}=stock.shop:9000", other.address());
        let error = bootstrap(&["--bind", &bind]).unwrap_err();
        assert!(error.starts_with(&format!("--bind {}: cannot listen: ", other.address())), "{error}");
    }

    #[test]
    fn services_of_one_application_are_one_port() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let service = |name: &str| format!("{name}:80=127.0.0.1:8080,listen={free},protocol=http2");
        let made = bootstrap(&["--service", &service("cart"), "--service", &service("basket")]).unwrap();
        let [port] = &made.ports[..] else { panic!("{:?}", made.ports) };
        assert_eq!(port.services, ["cart", "basket"]);
        assert_eq!((port.listen, port.advertised, port.original_destination), (free, free, false));
        assert_eq!(port.protocol.as_deref(), Some("kubernetes.io/h2c"));
        assert_eq!(made.inbound, [free]);
    }

    #[test]
    fn a_redirected_service_is_advertised_at_its_applications_address() {
        let made = bootstrap(&["--transparent-inbound", "127.0.0.1:0", "--service", "cart:80=10.0.0.7:8080"])
            .unwrap();
        let port = &made.ports[0];
        assert!(port.original_destination);
        assert_eq!(port.advertised.to_string(), "10.0.0.7:8080");
        assert_eq!(made.inbound, [port.listen]);
    }

    #[test]
    fn redirected_connections_need_their_listener_without_registered_services() {
        let made = bootstrap(&["--transparent-inbound", "127.0.0.1:0"]).unwrap();
        let redirected = made.sockets.last().unwrap();
        assert_eq!((made.ports.len(), &made.inbound[..]), (0, &[redirected.address()][..]));
    }

    #[test]
    fn redirected_outbound_connections_of_both_families_have_a_listener_each() {
        let ports = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
        let [four, six] = [format!("127.0.0.1:{}", ports[0]), format!("[::1]:{}", ports[1])];
        let made = bootstrap(&["--transparent-outbound", &four, "--transparent-outbound", &six]).unwrap();
        let names: Vec<_> = made.sockets.iter().map(|group| group.name().to_string()).collect();
        assert!(names.contains(&"transparent-outbound".to_owned()), "{names:?}");
        let has_ipv6 = TcpListener::bind("[::1]:0").is_ok();
        assert_eq!(names.contains(&format!("transparent-outbound|{six}")), has_ipv6, "{names:?}");
    }

    #[test]
    fn an_inherited_socket_is_taken_by_the_flag_that_has_its_address() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        let flags = ["--transparent-outbound", &address.to_string()];
        assert!(bootstrap(&flags).is_err(), "it is in use");
        let sockets = InheritedSockets::new(vec![held.try_clone().unwrap().into()]);
        let made = inheriting(&flags, sockets).unwrap();
        assert!(made.sockets.iter().any(|group| group.address() == address));
    }

    #[test]
    fn an_unspecified_address_is_advertised_as_a_reachable_one() {
        let service =
            ServicePort::parse("cart=127.0.0.1:8080,listen=0.0.0.0:9080,advertise=10.1.1.1:80").unwrap();
        let address = service.listen.unwrap();
        assert_eq!(advertised(&service, address).unwrap().to_string(), "10.1.1.1:80");
    }
}
