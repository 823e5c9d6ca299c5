//! A service: its name, type and ports.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use outrigger_core::Name;

/// The namespace and name of a service: what endpoints, routes and registrations refer to.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The namespace.
    pub namespace: Name,
    /// The name.
    pub name: Name,
}

impl ServiceKey {
    /// Creates a key.
    pub fn new(namespace: impl Into<Name>, name: impl Into<Name>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// `<name>.<namespace>`, as in DNS.
impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A service of the mesh. It has only the TCP ports: the mesh carries no UDP or SCTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its namespace and name.
    pub key: ServiceKey,
    /// How clients reach it.
    pub service_type: ServiceType,
    /// Its ports, by number.
    pub ports: Vec<ServicePort>,
    /// The service accounts that may register for it (annotation `outrigger.dev/service-accounts`); none named
    /// means any account of its namespace.
    pub service_accounts: Vec<Name>,
    /// What its sidecars do about overload of the application (annotation `outrigger.dev/overload`).
    pub overload: Overload,
    /// Endpoints that are not ready are served too (`spec.publishNotReadyAddresses`).
    pub publish_not_ready: bool,
    /// The labels of its pods; none if it selects no pod.
    pub selector: BTreeMap<Name, Name>,
    /// Addresses outside of the cluster that lead to it: `spec.externalIPs`, and those of its load balancer.
    pub external_ips: Vec<IpAddr>,
    /// Its endpoints with an IPv6 address are called, if it has both families. The first of `spec.ipFamilies`.
    pub ipv6_first: bool,
    /// Which of its endpoints a client calls.
    pub traffic: TrafficPolicy,
}

/// What sidecars do about overload of their application.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Overload {
    /// Requests wait, or are refused.
    #[default]
    Enforce,
    /// Requests that would have to wait are counted.
    Observe,
    /// Nothing.
    Off,
}

impl Overload {
    /// Returns its name, in annotations and in resources.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
            Self::Off => "off",
        }
    }

    /// Returns the one with this name, or `None` if there is none.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Enforce, Self::Observe, Self::Off].into_iter().find(|mode| mode.name() == name)
    }
}

/// Which endpoints a client calls, by where it runs (`internalTrafficPolicy` and `trafficDistribution`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// All.
    #[default]
    Cluster,
    /// Those of its zone, others if none of them is available.
    PreferSameZone,
    /// Those of its node, then of its zone, then others.
    PreferSameNode,
    /// Those of its node alone.
    SameNode,
}

impl Service {
    /// Returns the port of this number.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// Returns true if it selects the pods with these labels.
    pub fn selects(&self, labels: &BTreeMap<Name, Name>) -> bool {
        !self.selector.is_empty() && self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// Returns every address that leads to it: cluster IPs, then external IPs.
    pub fn ips(&self) -> impl Iterator<Item = &IpAddr> {
        self.cluster_ips().iter().chain(&self.external_ips)
    }

    /// Returns the cluster IPs; none for a headless or external service.
    pub fn cluster_ips(&self) -> &[IpAddr] {
        match &self.service_type {
            ServiceType::ClusterIps(ips) => ips,
            ServiceType::Headless | ServiceType::ExternalName(_) => &[],
        }
    }
}

#[cfg(test)]
impl Service {
    /// Returns a Service of the namespace `shop` without cluster IPs, whose port 80 is the port `target` of the application.
    pub(crate) fn of_shop(name: &str, target: u16, protocol: AppProtocol) -> Self {
        let target = TargetPort::Number(target);
        Self {
            key: ServiceKey::new("shop", name),
            service_type: ServiceType::ClusterIps(Vec::new()),
            ports: vec![ServicePort { name: "".into(), number: 80, target, protocol }],
            service_accounts: Vec::new(),
            overload: Overload::default(),
            publish_not_ready: false,
            selector: BTreeMap::new(),
            external_ips: Vec::new(),
            ipv6_first: false,
            traffic: TrafficPolicy::default(),
        }
    }
}

/// How clients reach a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceType {
    /// By cluster IP, at most one of each family. On Linux there may be none: then by name only.
    ClusterIps(Vec<IpAddr>),
    /// By the addresses of its endpoints (`clusterIP: None`).
    Headless,
    /// By another name, of a host outside the mesh (`type: ExternalName`).
    ExternalName(Name),
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty if it is the only port and has none.
    pub name: Name,
    /// The number that clients use.
    pub number: u16,
    /// The port of the application.
    pub target: TargetPort,
    /// Its protocol.
    pub protocol: AppProtocol,
}

/// The application's port behind a service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// The name of a container port, which the EndpointSlice resolves.
    Name(Name),
}

/// The protocol of a port: the classes of `appProtocol` that are handled differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AppProtocol {
    /// HTTP/1.1, WebSocket included.
    Http,
    /// HTTP/2 without TLS.
    H2c,
    /// gRPC, and so HTTP/2 without TLS.
    Grpc,
    /// Opaque bytes, the application's own TLS included.
    Tcp,
    /// Unknown: detected from the first bytes of each connection.
    Detect,
}

impl AppProtocol {
    /// Parses `appProtocol` of a ServicePort or of a registered port.
    ///
    /// The field holds an IANA service name, one of Kubernetes' own (KEP-3726) or a prefixed name. The names here are those of
    /// HTTP, and of protocols that must not wait for detection since their server speaks first or that are TLS already. Any
    /// other name is [`AppProtocol::Detect`].
    pub fn parse(name: &str) -> Self {
        let is_name = |(_, names): &&(Self, &[&str])| names.iter().any(|one| one.eq_ignore_ascii_case(name));
        Self::NAMES.iter().find(is_name).map_or(Self::Detect, |(protocol, _)| *protocol)
    }

    /// Returns the protocol of a service port: that of its `appProtocol`, else of its name.
    pub(crate) fn declared(app_protocol: Option<&str>, port_name: &str) -> Self {
        app_protocol.map_or_else(|| Self::of_port_name(port_name), Self::parse)
    }

    /// Returns the protocol of an application's port that several service ports declare: HTTP/2 for `h2c` and `grpc`. Returns None if they
    /// contradict each other, or if there is none.
    pub(crate) fn common(declared: impl IntoIterator<Item = Self>) -> Option<Self> {
        let both = |one: Self, other: Self| match (one, other) {
            _ if one == other => Some(one),
            (Self::H2c, Self::Grpc) | (Self::Grpc, Self::H2c) => Some(Self::H2c),
            _ => None,
        };
        let mut declared = declared.into_iter();
        let first = declared.next()?;
        declared.try_fold(first, both)
    }

    /// Returns the protocol that the name of a service port states, as Istio reads it: `<protocol>` or `<protocol>-<suffix>`. Any
    /// other name is [`AppProtocol::Detect`].
    fn of_port_name(name: &str) -> Self {
        let prefix = name.split_once('-').map_or(name, |(prefix, _)| prefix);
        [name, prefix]
            .into_iter()
            .map(Self::parse)
            .find(|found| *found != Self::Detect)
            .unwrap_or(Self::Detect)
    }

    /// The names of each protocol.
    pub(super) const NAMES: [(Self, &'static [&'static str]); 4] = [
        (Self::Http, &["http", "http/1.1", "grpc-web", "ws", "kubernetes.io/ws"]),
        (Self::H2c, &["http2", "h2c", "kubernetes.io/h2c"]),
        (Self::Grpc, &["grpc"]),
        (
            Self::Tcp,
            &[
                "tcp",
                "tls",
                "https",
                "wss",
                "kubernetes.io/wss",
                "mysql",
                "postgresql",
                "redis",
                "mongo",
                "mongodb",
                "amqp",
                "amqps",
                "smtp",
                "imap",
                "imaps",
                "pop3",
                "ftp",
                "ssh",
                "ldap",
                "ldaps",
                "nats",
                "kafka",
            ],
        ),
    ];

    /// Returns the first of its names, or `detected`.
    pub(super) fn name(self) -> &'static str {
        let names = Self::NAMES.iter().find(|(protocol, _)| *protocol == self);
        names.and_then(|(_, names)| names.first()).unwrap_or(&"detected")
    }
}
