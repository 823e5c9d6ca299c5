//! Service, v1.
//!
//! Fields that only concern a cluster's nodes are accepted and ignored. Unsupported fields that affect where requests go are refused
//! by name. On plain Linux, clients have no node and no zone, so that a preference for their own has no effect.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use outrigger_core::Name;

use super::metadata::{Metadata, OVERLOAD, SERVICE_ACCOUNTS, names};
use super::value::{is_label, is_subdomain};
use crate::model::diagnostic::Problem;
use crate::model::service::{
    AppProtocol, Overload, Service, ServiceKey, ServicePort, ServiceType, TargetPort, TrafficPolicy,
};

const SESSION_AFFINITY: &str = "spec.sessionAffinity";
const SESSION_AFFINITY_CONFIG: &str = "spec.sessionAffinityConfig";
/// Fields that are not supported, and are ignored in an object that an API server has admitted: the service is reachable without them.
pub(super) const PREFERENCES: [&str; 2] = [SESSION_AFFINITY, SESSION_AFFINITY_CONFIG];

/// Validates a service.
pub(super) fn decode(metadata: &Metadata, service: api::Service) -> Result<Service, Problem> {
    let spec = service.spec.ok_or_else(|| Problem::new("spec", "is missing"))?;
    let api::ServiceSpec {
        cluster_ip,
        cluster_ips,
        external_name,
        internal_traffic_policy,
        ports,
        publish_not_ready_addresses,
        selector,
        session_affinity,
        session_affinity_config,
        external_ips,
        ip_families,
        traffic_distribution,
        type_,
        // For nodes and load balancers.
        allocate_load_balancer_node_ports: _,
        external_traffic_policy: _,
        health_check_node_port: _,
        load_balancer_class: _,
        load_balancer_ip: _,
        load_balancer_source_ranges: _,
        // The families of the addresses say it.
        ip_family_policy: _,
    } = spec;
    if session_affinity.is_some_and(|affinity| affinity != "None") {
        return Err(Problem::new(SESSION_AFFINITY, "is not supported yet"));
    }
    if session_affinity_config.is_some() {
        return Err(Problem::new(SESSION_AFFINITY_CONFIG, "is not supported yet"));
    }
    let traffic = traffic_policy(internal_traffic_policy.as_deref(), traffic_distribution.as_deref())?;
    let load_balancer = service.status.and_then(|status| status.load_balancer).unwrap_or_default();
    let service_type = service_type(type_.as_deref(), cluster_ip, cluster_ips, external_name)?;
    let ports = ports.unwrap_or_default();
    // A service with only UDP or SCTP ports is valid, but has no ports in the mesh.
    if ports.is_empty() && matches!(service_type, ServiceType::ClusterIps(_)) {
        return Err(Problem::new("spec.ports", "is empty"));
    }
    let ports = decode_ports(ports)?;
    Ok(Service {
        key: ServiceKey { namespace: metadata.id.namespace.clone(), name: metadata.id.name.clone() },
        service_type,
        ports,
        service_accounts: service_accounts(metadata)?,
        overload: overload(metadata)?,
        publish_not_ready: publish_not_ready_addresses.unwrap_or(false),
        selector: names(selector),
        external_ips: addresses(external_ips.unwrap_or_default(), load_balancer),
        ipv6_first: ip_families.is_some_and(|families| families.first().is_some_and(|one| one == "IPv6")),
        traffic,
    })
}

/// `trafficDistribution` is a preference: one that is not known is ignored.
fn traffic_policy(internal: Option<&str>, distribution: Option<&str>) -> Result<TrafficPolicy, Problem> {
    match (internal, distribution) {
        (Some("Local"), _) => Ok(TrafficPolicy::SameNode),
        (None | Some("Cluster"), Some("PreferClose" | "PreferSameZone")) => Ok(TrafficPolicy::PreferSameZone),
        (None | Some("Cluster"), Some("PreferSameNode")) => Ok(TrafficPolicy::PreferSameNode),
        (None | Some("Cluster"), _) => Ok(TrafficPolicy::Cluster),
        (Some(other), _) => {
            Err(Problem::new("spec.internalTrafficPolicy", format!("unknown policy {other:?}")))
        }
    }
}

/// Returns the external addresses that lead to a service. A load balancer that is a proxy gets its traffic itself (`ipMode`).
fn addresses(external: Vec<String>, load_balancer: api::LoadBalancerStatus) -> Vec<IpAddr> {
    let ingress = load_balancer.ingress.unwrap_or_default().into_iter();
    let virtual_ips = ingress.filter(|one| one.ip_mode.as_deref() != Some("Proxy")).filter_map(|one| one.ip);
    let mut all: Vec<IpAddr> =
        external.into_iter().chain(virtual_ips).filter_map(|ip| ip.parse().ok()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn service_type(
    kind: Option<&str>,
    cluster_ip: Option<String>,
    cluster_ips: Option<Vec<String>>,
    external_name: Option<String>,
) -> Result<ServiceType, Problem> {
    match kind.unwrap_or("ClusterIP") {
        "ExternalName" => {
            let name = external_name.ok_or_else(|| Problem::new("spec.externalName", "is missing"))?;
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            if !is_subdomain(&name) {
                return Err(Problem::new("spec.externalName", format!("{name:?} is not a host name")));
            }
            Ok(ServiceType::ExternalName(name.into()))
        }
        "ClusterIP" | "NodePort" | "LoadBalancer" => cluster_ips_of(cluster_ip, cluster_ips),
        other => Err(Problem::new("spec.type", format!("unknown type {other:?}"))),
    }
}

fn cluster_ips_of(first: Option<String>, all: Option<Vec<String>>) -> Result<ServiceType, Problem> {
    let first = first.filter(|ip| !ip.is_empty());
    let all = all.unwrap_or_default();
    if let (Some(first), Some(same)) = (&first, all.first())
        && first != same
    {
        return Err(Problem::new("spec.clusterIPs[0]", format!("differs from clusterIP {first}")));
    }
    let all = if all.is_empty() { first.into_iter().collect() } else { all };
    if all.iter().any(|ip| ip == "None") {
        return if all.len() == 1 {
            Ok(ServiceType::Headless)
        } else {
            Err(Problem::new("spec.clusterIPs", "None excludes every other address"))
        };
    }
    let mut ips = Vec::new();
    for (at, text) in all.iter().enumerate() {
        let path = || format!("spec.clusterIPs[{at}]");
        let ip: IpAddr =
            text.parse().map_err(|_| Problem::new(path(), format!("{text:?} is not an IP address")))?;
        if ips.iter().any(|other: &IpAddr| other.is_ipv4() == ip.is_ipv4()) {
            return Err(Problem::new(path(), "a second address of one family"));
        }
        ips.push(ip);
    }
    Ok(ServiceType::ClusterIps(ips))
}

fn decode_ports(ports: Vec<api::ServicePort>) -> Result<Vec<ServicePort>, Problem> {
    let (several, mut all) = (ports.len() > 1, Vec::new());
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (at, port) in ports.into_iter().enumerate() {
        let api::ServicePort { app_protocol, name, node_port: _, port: number, protocol, target_port } = port;
        let error = |field: &str, reason: String| Problem::new(format!("spec.ports[{at}].{field}"), reason);
        let name: Name = name.unwrap_or_default().into();
        if several && name.is_empty() {
            return Err(error("name", "is required where there are several ports".into()));
        }
        if !name.is_empty() && !is_label(&name) {
            return Err(error("name", format!("{name:?} is not a DNS label")));
        }
        if !names.insert(name.clone()) {
            return Err(error("name", format!("{name:?} is duplicated")));
        }
        let number = port_number(number).ok_or_else(|| error("port", format!("{number} is not a port")))?;
        let protocol = protocol.unwrap_or_else(|| "TCP".into());
        if !["TCP", "UDP", "SCTP"].contains(&protocol.as_str()) {
            return Err(error("protocol", format!("unknown protocol {protocol:?}")));
        }
        if !numbers.insert((number, protocol.clone())) {
            return Err(error("port", format!("{number} is duplicated")));
        }
        let target = match target_port {
            None => TargetPort::Number(number),
            Some(IntOrString::Int(target)) => match port_number(target) {
                Some(target) => TargetPort::Number(target),
                None => return Err(error("targetPort", format!("{target} is not a port"))),
            },
            Some(IntOrString::String(target)) if matches!(target.len(), 1..=15) && is_label(&target) => {
                TargetPort::Name(target.into())
            }
            Some(IntOrString::String(target)) => {
                return Err(error("targetPort", format!("{target:?} is not the name of a port")));
            }
        };
        let app_protocol = AppProtocol::declared(app_protocol.as_deref(), &name);
        // The mesh carries only TCP. UDP and SCTP bypass it.
        if protocol == "TCP" {
            all.push(ServicePort { name, number, target, protocol: app_protocol });
        }
    }
    all.sort_by_key(|port| port.number);
    Ok(all)
}

/// Converts a port number of Kubernetes. Returns None if it is out of range.
pub(super) fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

fn overload(metadata: &Metadata) -> Result<Overload, Problem> {
    let Some(name) = metadata.annotations.get(OVERLOAD) else { return Ok(Overload::default()) };
    Overload::named(name).ok_or_else(|| {
        let path = format!("metadata.annotations.{OVERLOAD}");
        Problem::new(path, format!("{name:?} is none of enforce, observe and off"))
    })
}

fn service_accounts(metadata: &Metadata) -> Result<Vec<Name>, Problem> {
    let Some(list) = metadata.annotations.get(SERVICE_ACCOUNTS) else { return Ok(Vec::new()) };
    let account = |name: &str| match name.trim() {
        name if is_subdomain(name) => Ok(name.into()),
        name => {
            let path = format!("metadata.annotations.{SERVICE_ACCOUNTS}");
            Err(Problem::new(path, format!("{name:?} is not the name of a service account")))
        }
    };
    let mut accounts: Vec<Name> = list.split(',').map(account).collect::<Result<_, _>>()?;
    accounts.sort_unstable();
    accounts.dedup();
    Ok(accounts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::resource::Body;
    use crate::model::resource::testing::{check_table, read};

    const SERVICE: &str = "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: b}, spec: {@}}";

    #[test]
    fn what_the_api_server_would_refuse_is_refused() {
        check_table(
            SERVICE,
            &[
                "ports: [{port: 80}], selector: {app: a}, type: LoadBalancer, externalTrafficPolicy: Local",
                "ports: [{port: 53, protocol: UDP, name: u}, {port: 53, name: t}], clusterIP: 10.0.0.1",
                "ports: [{port: 53, protocol: UDP}]",
                "ports: [{port: 53, protocol: UDP, name: u}, {port: 132, protocol: SCTP, name: s}], clusterIP: 10.0.0.1",
                "clusterIP: None",
                "type: ExternalName, externalName: example.com",
                "ports: [{port: 80}], clusterIPs: [10.0.0.1, 'fd00::1'], ipFamilies: [IPv4, IPv6]",
            ],
            &[
                ("ports: []", "spec.ports", "is empty"),
                ("selector: {app: a}", "spec.ports", "is empty"),
                ("ports: [{port: 0, protocol: UDP}]", "spec.ports[0].port", "not a port"),
                ("ports: [{port: 0}]", "spec.ports[0].port", "not a port"),
                ("ports: [{port: 65536}]", "spec.ports[0].port", "not a port"),
                ("ports: [{port: '80'}]", "spec.ports[0].port", "invalid type"),
                ("ports: [{port: 80, protocol: tcp}]", "spec.ports[0].protocol", "unknown protocol"),
                ("ports: [{port: 80, targetPort: 0}]", "spec.ports[0].targetPort", "not a port"),
                ("ports: [{port: 80, targetPort: A_B}]", "spec.ports[0].targetPort", "name of a port"),
                ("ports: [{port: 80, appProtokoll: x}]", "spec.ports[0].appProtokoll", "unknown field"),
                ("ports: [{port: 80}, {port: 81}]", "spec.ports[0].name", "required"),
                ("ports: [{port: 80, name: a}, {port: 81, name: a}]", "spec.ports[1].name", "duplicated"),
                ("ports: [{port: 80, name: a}, {port: 80, name: b}]", "spec.ports[1].port", "duplicated"),
                ("ports: [{port: 80, name: A}]", "spec.ports[0].name", "not a DNS label"),
                ("ports: [{port: 80}], type: Clusterip", "spec.type", "unknown type"),
                ("ports: [{port: 80}], clusterIP: ten", "spec.clusterIPs[0]", "not an IP address"),
                ("ports: [{port: 80}], clusterIPs: [10.0.0.1, 10.0.0.2]", "spec.clusterIPs[1]", "one family"),
                (
                    "ports: [{port: 80}], clusterIP: 10.0.0.1, clusterIPs: [10.0.0.2]",
                    "spec.clusterIPs[0]",
                    "differs",
                ),
                ("ports: [{port: 80}], clusterIPs: [None, 10.0.0.2]", "spec.clusterIPs", "excludes"),
                ("type: ExternalName", "spec.externalName", "missing"),
                ("type: ExternalName, externalName: a_b", "spec.externalName", "not a host name"),
                ("ports: [{port: 80}], sessionAffinity: ClientIP", "spec.sessionAffinity", "not supported"),
                (
                    "ports: [{port: 80}], sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}}",
                    "spec.sessionAffinityConfig",
                    "not supported",
                ),
                (
                    "ports: [{port: 80}], internalTrafficPolicy: Global",
                    "spec.internalTrafficPolicy",
                    "unknown policy",
                ),
                ("ports: [{port: 80}], sessionAfinity: None", "spec.sessionAfinity", "unknown field"),
            ],
        );
    }

    fn service(yaml: &str) -> Service {
        let decoded = read(&SERVICE.replace('@', yaml)).remove(0);
        let resource = decoded.resource().unwrap();
        let Body::Service(service) = &resource.body else { panic!() };
        service.clone()
    }

    #[test]
    fn the_name_of_a_port_states_its_protocol_unless_app_protocol_does() {
        for (name, protocol) in [
            ("http", AppProtocol::Http),
            ("http-web", AppProtocol::Http),
            ("http2", AppProtocol::H2c),
            ("grpc-web", AppProtocol::Http),
            ("grpc-api", AppProtocol::Grpc),
            ("https", AppProtocol::Tcp),
            ("mysql-primary", AppProtocol::Tcp),
            ("web", AppProtocol::Detect),
            ("httpish", AppProtocol::Detect),
        ] {
            let found = service(&format!("ports: [{{port: 80, name: {name}}}]")).ports[0].protocol;
            assert_eq!(found, protocol, "{name}");
        }
        let both = service("ports: [{port: 80, name: http, appProtocol: tcp}]");
        assert_eq!(both.ports[0].protocol, AppProtocol::Tcp);
    }

    #[test]
    fn a_service_says_which_endpoints_a_client_calls() {
        for (spec, expected) in [
            ("internalTrafficPolicy: Cluster", TrafficPolicy::Cluster),
            ("internalTrafficPolicy: Local, trafficDistribution: PreferClose", TrafficPolicy::SameNode),
            ("trafficDistribution: PreferClose", TrafficPolicy::PreferSameZone),
            ("trafficDistribution: PreferSameZone", TrafficPolicy::PreferSameZone),
            ("trafficDistribution: PreferSameNode", TrafficPolicy::PreferSameNode),
            ("trafficDistribution: later", TrafficPolicy::Cluster),
        ] {
            assert_eq!(service(&format!("ports: [{{port: 80}}], {spec}")).traffic, expected, "{spec}");
        }
    }

    #[test]
    fn external_addresses_are_those_that_kube_proxy_would_serve() {
        let yaml = "ports: [{port: 80}], type: LoadBalancer, externalIPs: [192.0.2.1], ipFamilies: [IPv6, IPv4]}, status:
            {loadBalancer: {ingress: [{ip: 192.0.2.9, ipMode: VIP}, {ip: 192.0.2.8, ipMode: Proxy}, {hostname: lb.example}]}";
        let service = service(yaml);
        assert_eq!(service.external_ips, ["192.0.2.1", "192.0.2.9"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        assert!(service.ipv6_first);
    }

    #[test]
    fn ports_have_a_protocol_and_a_target() {
        let three = service(
            "clusterIP: 10.0.0.1, ports: [{port: 90, name: c, appProtocol: kubernetes.io/h2c},
               {port: 80, name: b, appProtocol: kubernetes.io/ws, targetPort: http}, {port: 1, name: u, protocol: UDP}]",
        );
        let ports: Vec<_> = three.ports.iter().map(|port| (port.number, port.protocol)).collect();
        assert_eq!(ports, [(80, AppProtocol::Http), (90, AppProtocol::H2c)]);
        assert_eq!(three.ports[0].target, TargetPort::Name("http".into()));
        assert_eq!(three.ports[1].target, TargetPort::Number(90));
        assert_eq!(service("ports: [{port: 53, protocol: UDP}]").ports, []);
        assert_eq!(service("clusterIP: None").service_type, ServiceType::Headless);
        assert_eq!(
            service("type: ExternalName, externalName: Example.COM.").service_type,
            ServiceType::ExternalName("example.com".into())
        );
        for (name, protocol) in [
            ("grpc", AppProtocol::Grpc),
            ("HTTP", AppProtocol::Http),
            ("https", AppProtocol::Tcp),
            ("kubernetes.io/wss", AppProtocol::Tcp),
            ("mysql", AppProtocol::Tcp),
            ("example.com/own", AppProtocol::Detect),
        ] {
            assert_eq!(AppProtocol::parse(name), protocol, "{name}");
        }
    }
}
