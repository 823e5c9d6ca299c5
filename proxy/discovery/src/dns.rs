//! The DNS resolver of the process, with its cache.
//!
//! Used for the control plane's name and, through the server crate, by the data path for destinations outside the mesh. libc's
//! resolver is not used, because it does not work in a static binary.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::config::{LookupIpStrategy, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Resolver, TokioResolver};
use thiserror::Error;

/// Cache capacity; the least recently used entry is evicted. Made-up names must not grow the process.
const CACHED_ANSWERS: u64 = 512;

/// Upper bound of a negative answer's TTL, whatever its zone says: services can appear late.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(30);
/// Time limit for one server; a query is retried once.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The shared resolver. Cheap to clone.
#[derive(Clone)]
pub struct Dns(Arc<Inner>);

struct Inner {
    resolver: TokioResolver,
    /// The search domains.
    domains: Vec<Name>,
}

/// The addresses of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// Never empty; IPv4 before IPv6.
    pub addresses: Vec<IpAddr>,
    /// When the answer's TTL ends and the name should be resolved again. None for a literal address.
    pub valid_until: Option<Instant>,
}

impl Dns {
    /// Creates a resolver from `/etc/resolv.conf` and `/etc/hosts`. Without a configured server, it resolves only addresses and
    /// the hosts file.
    pub fn from_system() -> Result<Self, DnsError> {
        let (config, mut options) = read_system_conf().unwrap_or_else(|error| {
            tracing::info!(%error, "no DNS server is configured; only addresses and the hosts file will resolve");
            Default::default()
        });
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.cache_size = CACHED_ANSWERS;
        options.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
        options.timeout = options.timeout.min(RESPONSE_TIMEOUT);
        options.attempts = options.attempts.min(1);
        Self::new(config, options)
    }

    fn new(config: ResolverConfig, options: ResolverOpts) -> Result<Self, DnsError> {
        let domains = config.domain().into_iter().chain(config.search()).cloned().collect();
        let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let resolver = builder.build().map_err(|error| DnsError::Setup(error.to_string()))?;
        Ok(Self(Arc::new(Inner { resolver, domains })))
    }

    /// Returns a resolver that asks one server.
    #[cfg(test)]
    pub(crate) fn of_server(address: std::net::SocketAddr) -> Self {
        Self::searching(address, Vec::new())
    }

    #[cfg(test)]
    fn searching(address: std::net::SocketAddr, domains: Vec<Name>) -> Self {
        let mut server = hickory_resolver::config::NameServerConfig::udp(address.ip());
        server.connections[0].port = address.port();
        let config = ResolverConfig::from_parts(None, domains, vec![server]);
        Self::new(config, ResolverOpts::default()).unwrap()
    }

    /// Resolves a host. A literal address resolves to itself. Cancel-safe.
    pub async fn resolve(&self, host: &str) -> Result<Addresses, DnsError> {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse() {
            return Ok(Addresses { addresses: vec![address], valid_until: None });
        }
        let answer = match self.0.resolver.lookup_ip(host).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.checked(host, DnsError::of(host, error)).await),
        };
        let addresses: Vec<_> = answer.iter().collect();
        if addresses.is_empty() {
            return Err(DnsError::NotFound(host.into()));
        }
        Ok(Addresses { addresses, valid_until: Some(answer.valid_until()) })
    }

    /// Returns why a name was not resolved. The resolver's error is that of the last name with a search domain, and of one type of addresses; that
    /// a name does not exist is true only if no name server failed for another one.
    async fn checked(&self, host: &str, error: DnsError) -> DnsError {
        if !matches!(error, DnsError::NotFound(_)) {
            return error;
        }
        let Ok(name) = Name::from_utf8(host) else { return error };
        let mut names = vec![name.clone()];
        if !name.is_fqdn() {
            let domains = self.0.domains.iter();
            names.extend(domains.filter_map(|domain| name.clone().append_domain(domain).ok()));
        }
        for mut name in names {
            name.set_fqdn(true);
            for kind in [RecordType::A, RecordType::AAAA] {
                // What was found not to exist a moment ago is in the cache.
                if let Err(other) = self.0.resolver.lookup(name.clone(), kind).await {
                    let other = DnsError::of(host, other);
                    if !matches!(other, DnsError::NotFound(_)) {
                        return other;
                    }
                }
            }
        }
        error
    }
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dns")
    }
}

/// Why a name was not resolved.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DnsError {
    /// The resolver could not be created.
    #[error("the resolver cannot be set up: {0}")]
    Setup(String),
    /// The name does not exist, or has no address.
    #[error("{0:?} does not resolve to an address")]
    NotFound(String),
    /// There was no answer; a later attempt may succeed.
    #[error("{host:?} cannot be resolved now: {reason}")]
    Unavailable {
        /// The requested name.
        host: String,
        /// The resolver's error.
        reason: String,
    },
}

impl DnsError {
    fn of(host: &str, error: hickory_resolver::net::NetError) -> Self {
        if error.is_nx_domain() || error.is_no_records_found() {
            return Self::NotFound(host.into());
        }
        Self::Unavailable { host: host.into(), reason: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_resolves_to_itself() {
        let dns = Dns::from_system().unwrap();
        for (host, address) in [("10.0.0.5", "10.0.0.5"), ("[fd00::1]", "fd00::1"), ("fd00::1", "fd00::1")] {
            let answer = dns.resolve(host).await.unwrap();
            assert_eq!(answer.addresses, [address.parse::<IpAddr>().unwrap()]);
        }
    }

    /// A resolver whose name server responds after `pause`, with this response code: to A with 10.0.0.1 and a TTL of 30 s, to others without a record.
    async fn answered(code: u8, pause: Duration) -> Dns {
        answered_by(move |_, _| code, pause, Vec::new()).await
    }

    /// The same, with the response code that `code` returns for a name in wire format and a type, and with search domains.
    async fn answered_by(
        code: impl Fn(&[u8], u8) -> u8 + Send + 'static,
        pause: Duration,
        domains: Vec<Name>,
    ) -> Dns {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let dns = Dns::searching(socket.local_addr().unwrap(), domains);
        tokio::spawn(async move {
            let mut query = [0; 512];
            loop {
                let (length, client) = socket.recv_from(&mut query).await.unwrap();
                let question = query[12..length].iter().position(|byte| *byte == 0).unwrap() + 17;
                let kind = query[question - 3];
                let code = code(&query[12..question - 4], kind);
                let is_answered = kind == 1 && code == 0;
                let header =
                    [query[0], query[1], 0x81, 0x80 | code, 0, 1, 0, u8::from(is_answered), 0, 0, 0, 0];
                let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 10, 0, 0, 1];
                let record = if is_answered { &record[..] } else { &[] };
                let response = [&header, &query[12..question], record].concat();
                tokio::time::sleep(pause).await;
                socket.send_to(&response, client).await.unwrap();
            }
        });
        dns
    }

    #[tokio::test]
    async fn an_answer_is_valid_for_its_ttl_and_may_be_late() {
        let dns = answered(0, Duration::from_millis(150)).await;
        let before = Instant::now();
        let found = dns.resolve("late.example.").await.unwrap();
        assert_eq!(found.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        let valid_until = found.valid_until.unwrap();
        let ttl = Duration::from_secs(30);
        assert!(before + ttl <= valid_until && valid_until <= Instant::now() + ttl);
    }

    #[tokio::test]
    async fn a_failure_of_the_name_server_is_temporary_and_a_name_that_does_not_exist_is_not() {
        let failing = answered(2, Duration::ZERO).await.resolve("app.example.").await;
        assert!(matches!(failing, Err(DnsError::Unavailable { .. })), "{failing:?}");
        let absent = answered(3, Duration::ZERO).await.resolve("app.example.").await;
        assert_eq!(absent, Err(DnsError::NotFound("app.example.".into())));
    }

    #[tokio::test]
    async fn a_name_may_exist_if_a_name_server_fails_for_one_of_the_queries() {
        let (a, fails, absent) = (1, 2, 3);
        let of_type = move |_: &[u8], kind| if kind == a { absent } else { fails };
        let dns = answered_by(of_type, Duration::ZERO, Vec::new()).await;
        let failing = dns.resolve("app.example.").await;
        assert!(matches!(failing, Err(DnsError::Unavailable { .. })), "{failing:?}");

        // The last query is for the name with the search domain.
        let searched = move |name: &[u8], _| if name.ends_with(b"\x04shop\0") { absent } else { fails };
        let dns = answered_by(searched, Duration::ZERO, vec![Name::from_ascii("shop.").unwrap()]).await;
        let failing = dns.resolve("app.example").await;
        assert!(matches!(failing, Err(DnsError::Unavailable { .. })), "{failing:?}");
        let found = dns.resolve("app.shop.").await;
        assert_eq!(found, Err(DnsError::NotFound("app.shop.".into())));
    }

    #[tokio::test]
    async fn what_is_no_name_is_an_error() {
        let dns = Dns::from_system().unwrap();
        assert!(dns.resolve("a name..with nothing right").await.is_err());
    }
}
