//! Validates registrations: the result has only valid addresses and names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use outrigger_core::Name;
use outrigger_core::identity::SpiffeId;
use outrigger_proto::registration::{Address, Health, Port, RegisterRequest};
use thiserror::Error;

use crate::model::mesh::Mesh;
use crate::model::registration::{MtlsMode, WorkloadEntry, WorkloadKey, WorkloadPort};
use crate::model::service::{AppProtocol, ServiceKey};

const MAX_PORTS: usize = 64;
const MAX_SERVICES: usize = 64;
const MAX_LABELS: usize = 64;
/// Maximum size of an instance, a label or a service name: that of a DNS name.
const MAX_NAME: usize = 253;

/// The reason of a refusal because a Service does not list the workload's account.
pub(super) const ACCOUNT_NOT_ALLOWED: &str = "service-account";

/// Why a message is invalid as a whole; the error ends the stream.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum Malformed {
    #[error("the first message names no workload")]
    NoWorkload,
    #[error("the instance is not a name of 1 to {MAX_NAME} printable characters")]
    Instance,
    #[error("{0} ports, not 1 to {MAX_PORTS}")]
    Ports(usize),
    #[error("labels: more than {MAX_LABELS}, or one longer than {MAX_NAME} bytes")]
    Labels,
}

/// Why a port is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortRefusal {
    /// The port's index.
    pub(super) port: usize,
    /// The reason in metrics and logs.
    pub(super) reason: &'static str,
    /// The text for the client.
    pub(super) text: String,
}

/// Reads a complete registration: workload, health and draining.
pub(super) fn read(
    identity: &SpiffeId,
    cluster_domain: &str,
    request: &RegisterRequest,
) -> Result<Result<WorkloadEntry, Vec<PortRefusal>>, Malformed> {
    let RegisterRequest { workload, health, drain } = request;
    let workload = workload.as_ref().ok_or(Malformed::NoWorkload)?;
    if !is_name(&workload.instance) {
        return Err(Malformed::Instance);
    }
    if workload.ports.is_empty() || workload.ports.len() > MAX_PORTS {
        return Err(Malformed::Ports(workload.ports.len()));
    }
    let fits = |(key, value): (&String, &String)| is_name(key) && value.len() <= MAX_NAME;
    if workload.labels.len() > MAX_LABELS || !workload.labels.iter().all(fits) {
        return Err(Malformed::Labels);
    }
    let mut ports = Vec::new();
    let mut refusals = Vec::new();
    let mut advertised = BTreeMap::new();
    for (index, port) in workload.ports.iter().enumerate() {
        let mut refuse = |text| refusals.push(PortRefusal { port: index, reason: "malformed-port", text });
        match read_port((identity.namespace(), cluster_domain), port) {
            Err(text) => refuse(text),
            Ok(port) => match advertised.insert(port.advertised, index) {
                Some(first) => refuse(format!("port {first} advertises {} already", port.advertised)),
                None => ports.push(port),
            },
        }
    }
    if !refusals.is_empty() {
        return Ok(Err(refusals));
    }
    let name = |text: &String| Name::from(text.as_str());
    Ok(Ok(WorkloadEntry {
        key: WorkloadKey { identity: identity.clone(), instance: name(&workload.instance) },
        ports,
        labels: workload.labels.iter().map(|(key, value)| (name(key), name(value))).collect(),
        capture: None,
        mtls: MtlsMode::Strict,
        ready: Health::try_from(*health) != Ok(Health::NotReady),
        draining: *drain,
        pod: None,
    }))
}

fn read_port(place: (&str, &str), port: &Port) -> Result<WorkloadPort, String> {
    let Port { services, service_port, app_protocol, advertised, listen, application, original_destination } =
        port;
    if services.is_empty() || services.len() > MAX_SERVICES {
        return Err(format!("{} services, not 1 to {MAX_SERVICES}", services.len()));
    }
    let services: BTreeSet<ServiceKey> =
        services.iter().map(|name| read_service(place, name)).collect::<Result<_, _>>()?;
    let service_port = u16::try_from(*service_port).ok().filter(|port| *port > 0);
    let service_port = service_port.ok_or("the service port is not 1 to 65535")?;
    let advertised = read_address("advertised", advertised.as_ref())?.ok_or("no advertised address")?;
    if advertised.ip().is_unspecified() || advertised.ip().is_multicast() {
        return Err(format!("the advertised address {advertised} is not a unicast address"));
    }
    let listen = read_address("listen", listen.as_ref())?.unwrap_or(advertised);
    let application = match read_address("application", application.as_ref())? {
        Some(application) => application,
        None if *original_destination => advertised,
        None => return Err("no application address".into()),
    };
    Ok(WorkloadPort {
        services: services.into_iter().collect(),
        service_port,
        protocol: (!app_protocol.is_empty()).then(|| AppProtocol::parse(app_protocol)),
        advertised,
        listen,
        application,
        original_destination: *original_destination,
        mtls: None,
    })
}

/// Reads the service that a workload names: `cart`, or with its own namespace like a destination (`cart.shop`,
/// `cart.shop.svc`, `cart.shop.svc.cluster.local`). The name of a Service has no dot.
fn read_service((namespace, cluster_domain): (&str, &str), text: &str) -> Result<ServiceKey, String> {
    let (name, of) = text.split_once('.').map_or((text, None), |(name, rest)| (name, Some(rest)));
    if !is_name(text) || name.is_empty() {
        return Err(format!("{text:?} is not the name of a service"));
    }
    let full = format!("{namespace}.svc.{cluster_domain}");
    let ours = |of: &str| of == namespace || of == full || of.strip_suffix(".svc") == Some(namespace);
    if of.is_some_and(|of| !ours(of)) {
        return Err(format!("{text:?} is not the name of a service of namespace {namespace}"));
    }
    Ok(ServiceKey::new(namespace, name))
}

fn read_address(which: &str, address: Option<&Address>) -> Result<Option<SocketAddr>, String> {
    let Some(Address { ip, port }) = address else { return Ok(None) };
    let parsed = ip.parse::<IpAddr>().map_err(|_| format!("{which} address: {ip:?} is not an IP address"))?;
    let port = u16::try_from(*port).ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| format!("{which} address: the port is not 1 to 65535"))?;
    Ok(Some(SocketAddr::new(parsed, port)))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Returns the ports whose services do not exist, or are not open to the workload's account.
pub(super) fn check_services(workload: &WorkloadEntry, mesh: &Mesh) -> Vec<PortRefusal> {
    let account = workload.key.identity.service_account();
    let mut refusals = Vec::new();
    for (index, port) in workload.ports.iter().enumerate() {
        for key in &port.services {
            let mut refuse = |reason, text| refusals.push(PortRefusal { port: index, reason, text });
            let Some(entry) = mesh.service(key) else {
                refuse("unknown-service", format!("there is no Service {key}"));
                continue;
            };
            let accounts = &entry.service.service_accounts;
            if !accounts.is_empty() && !accounts.iter().any(|allowed| **allowed == *account) {
                refuse(
                    ACCOUNT_NOT_ALLOWED,
                    format!(
                        "Service {key} is not open to service account {account} \
                         (annotation outrigger.dev/service-accounts)"
                    ),
                );
            } else if entry.service.port(port.service_port).is_none() {
                refuse("unknown-port", format!("Service {key} has no port {}", port.service_port));
            }
        }
    }
    refusals
}

#[cfg(test)]
pub(super) mod tests {
    use outrigger_proto::registration::Workload;

    use super::*;

    pub(in super::super) fn cart() -> SpiffeId {
        SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap()
    }

    pub(in super::super) fn address(port: u32) -> Option<Address> {
        Some(Address { ip: "127.0.0.1".into(), port })
    }

    /// Returns the registration of an instance of `cart` that serves `cart:80` at 127.0.0.1:`port`.
    pub(in super::super) fn request(instance: &str, port: u32) -> RegisterRequest {
        let port = Port {
            services: vec!["cart".into()],
            service_port: 80,
            advertised: address(port),
            application: address(8080),
            ..Default::default()
        };
        let workload = Workload { instance: instance.into(), ports: vec![port], ..Default::default() };
        RegisterRequest { workload: Some(workload), ..Default::default() }
    }

    #[test]
    fn absent_fields_have_their_defaults() {
        let entry = read(&cart(), "cluster.local", &request("a", 9000)).unwrap().unwrap();
        let port = &entry.ports[0];
        assert_eq!((port.listen, port.protocol, entry.ready), (port.advertised, None, true));
        assert_eq!(port.services, [ServiceKey::new("shop", "cart")]);
    }

    #[test]
    fn an_invalid_port_is_refused_by_its_index() {
        type Spoil = fn(&mut Port);
        let spoils: [(Spoil, &str); 9] = [
            (|port| port.services.clear(), "0 services"),
            (|port| port.services = vec!["a b".into()], "not the name"),
            (|port| port.service_port = 0, "service port"),
            (|port| port.service_port = 65_616, "service port"),
            (|port| port.advertised = None, "no advertised"),
            (
                |port| port.advertised = Some(Address { ip: "0.0.0.0".into(), port: 1 }),
                "not a unicast address",
            ),
            (|port| port.advertised = Some(Address { ip: "cart".into(), port: 1 }), "not an IP address"),
            (|port| port.listen = Some(Address { ip: "::1".into(), port: 70_000 }), "listen address"),
            (|port| port.application = None, "no application"),
        ];
        for (spoil, text) in spoils {
            let mut request = request("a", 9000);
            let ports = &mut request.workload.as_mut().unwrap().ports;
            ports.push(ports[0].clone());
            ports[0].advertised = address(9001);
            spoil(&mut ports[1]);
            let refusals = read(&cart(), "cluster.local", &request).unwrap().unwrap_err();
            assert!(refusals[0].port == 1 && refusals[0].text.contains(text), "{refusals:?}");
        }
    }

    #[test]
    fn a_service_is_named_alone_or_with_the_workloads_namespace() {
        let services = |names: &[&str]| {
            let mut request = request("a", 9000);
            request.workload.as_mut().unwrap().ports[0].services =
                names.iter().map(|name| (*name).into()).collect();
            let read = read(&cart(), "cluster.local", &request).unwrap();
            read.map(|entry| entry.ports[0].services.clone()).map_err(|refused| refused[0].text.clone())
        };
        for name in ["cart", "cart.shop", "cart.shop.svc", "cart.shop.svc.cluster.local"] {
            assert_eq!(services(&[name, "cart"]), Ok(vec![ServiceKey::new("shop", "cart")]), "{name}");
        }
        for name in [
            "cart.office",
            "cart.shop.office",
            "cart.shop.cluster.local",
            "cart.shop.svc.example.org",
            "cart.shopping",
            "cart.shop.svcs",
            "cart.",
            ".shop",
        ] {
            assert!(services(&[name]).unwrap_err().contains("is not the name of a service"), "{name}");
        }
    }

    #[test]
    fn a_duplicate_address_in_a_workload_is_refused() {
        let mut request = request("a", 9000);
        let ports = &mut request.workload.as_mut().unwrap().ports;
        ports.push(ports[0].clone());
        let refusals = read(&cart(), "cluster.local", &request).unwrap().unwrap_err();
        assert_eq!(refusals[0].text, "port 0 advertises 127.0.0.1:9000 already");
    }

    #[test]
    fn a_message_without_a_valid_workload_is_malformed() {
        let spoilt = |spoil: fn(&mut Workload)| {
            let mut request = request("a", 9000);
            spoil(request.workload.as_mut().unwrap());
            read(&cart(), "cluster.local", &request).unwrap_err()
        };
        assert_eq!(
            read(&cart(), "cluster.local", &RegisterRequest::default()).unwrap_err(),
            Malformed::NoWorkload
        );
        assert_eq!(spoilt(|workload| workload.instance.clear()), Malformed::Instance);
        assert_eq!(spoilt(|workload| workload.instance = "a\nb".into()), Malformed::Instance);
        assert_eq!(spoilt(|workload| workload.ports.clear()), Malformed::Ports(0));
        let long = |workload: &mut Workload| drop(workload.labels.insert("a".into(), "x".repeat(254)));
        assert_eq!(spoilt(long), Malformed::Labels);
    }
}
