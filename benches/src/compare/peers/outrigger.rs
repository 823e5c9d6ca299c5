//! Outrigger as a user gets it: a control plane with the mesh's CA, sidecars that join with tokens, every default, no access log. The
//! control plane runs beside the load; its CPU is not the proxy's.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use outrigger::ports;
use outrigger::process::Process;

use super::{Members, Paths, Protocol, Running, Setup, Shape, With};
use crate::compare::client_tls;
use crate::connection::Credential;
use crate::heartbeats::client::join;
use crate::mesh::{Mesh, USED};

/// Rules of one HTTPRoute: Gateway API permits 16.
const RULES: usize = 10;
/// Endpoints of one EndpointSlice, as in Kubernetes.
const OF_SLICE: usize = 1_000;
/// The namespace of all services.
const NAMESPACE: &str = "mesh";

pub(super) async fn start(program: &Path, setup: &Setup, with: &With<'_>) -> Result<Running, String> {
    let mut mesh = Mesh::new(program, with.directory)?;
    mesh.app = setup.backend;
    let protocol = match setup.protocol {
        Protocol::Http1 => "http",
        Protocol::Http2 => "kubernetes.io/h2c",
        Protocol::Tcp => "tcp",
    };
    let service = match setup.shape {
        Shape::One => {
            match setup.endpoints {
                0 => mesh.write_plain("app", protocol, setup.backend)?,
                _ => {
                    mesh.write_file("app", &service("app", protocol))?;
                    for (number, slice) in setup.addresses().chunks(OF_SLICE).enumerate() {
                        mesh.write_file(&slice_name(number), &endpoints(number, slice))?;
                    }
                }
            }
            for service in 0..setup.services {
                mesh.write(USED + service, 0)?;
            }
            "app"
        }
        // The server's sidecar registers them.
        Shape::Pair | Shape::Inbound => {
            for number in 0..USED {
                mesh.write_file(&format!("s{number}"), &service(&format!("s{number}"), protocol))?;
            }
            "s0"
        }
    };
    if setup.protocol != Protocol::Tcp {
        mesh.write_file("routes", &routes(service, setup))?;
    }
    let control_plane = mesh.control_plane().await?;
    // Also while they get ready: a process is started between two waits.
    let pinned = with.cores.on_proxy_core()?;
    let mut sidecars = Vec::new();
    if setup.shape != Shape::One {
        sidecars.push(mesh.server().await?);
    }
    let [bound] = ports::free()?;
    if setup.shape != Shape::Inbound {
        let bind = format!("{bound}={service}.{NAMESPACE}:80");
        let mut more: Vec<(&str, OsString)> = Vec::new();
        if setup.protocol == Protocol::Tcp {
            more.push(("--bind", bind.into()));
        }
        if setup.telemetry.access_log {
            more.push(("--access-log", "/dev/null".into()));
        }
        let tracing = setup.telemetry.tracing.map(|to| (f64::from(to.percent) / 100.0, to.collector));
        sidecars.push(mesh.client(&more, tracing).await?);
    }
    drop(pinned);
    let (address, tls) = match (setup.shape, setup.protocol) {
        (Shape::Inbound, _) => {
            let Credential { chain, key } = join(&mesh).await?;
            let server = format!("{service}.{NAMESPACE}.mtls.outrigger.internal");
            (mesh.inbound, Some(client_tls::client(chain, key, &server)?))
        }
        (_, Protocol::Tcp) => (bound, None),
        (_, Protocol::Http1 | Protocol::Http2) => (mesh.outbound, None),
    };
    Ok(Running {
        processes: sidecars.iter().filter_map(Process::id).collect(),
        address,
        tls,
        authority: format!("{service}.{NAMESPACE}"),
        members: match (setup.endpoints, setup.services) {
            (0, 0) => None,
            (0, services) => Some(Members::other_services(&mesh, services)),
            _ => Some(Members::outrigger(&mesh, setup, OF_SLICE, |number, left| {
                (slice_name(number), endpoints(number, left))
            })),
        },
        keep: Box::new((sidecars, control_plane)),
    })
}

/// A service without endpoints of its own, which are registered by their sidecars or in slices.
fn service(name: &str, protocol: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec: {{ports: [{{name: main, port: 80, appProtocol: {protocol}}}]}}
"
    )
}

fn slice_name(number: usize) -> String {
    format!("app-{number}")
}

/// The slice of this number, with these endpoints of the service.
fn endpoints(number: usize, addresses: &[SocketAddr]) -> String {
    let (name, port) = (slice_name(number), addresses.first().map_or(0, SocketAddr::port));
    let mut yaml = format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}
  namespace: {NAMESPACE}
  labels: {{kubernetes.io/service-name: app}}
addressType: IPv4
ports: [{{name: main, port: {port}, protocol: TCP}}]
endpoints:
"
    );
    for address in addresses {
        let _ = writeln!(yaml, "- {{addresses: [\"{}\"]}}", address.ip());
    }
    yaml
}

/// HTTPRoutes that route `/r0`, `/r1` and so on to `service`.
fn routes(service: &str, setup: &Setup) -> String {
    let (kind, end) = match setup.paths {
        Paths::Prefix => ("PathPrefix", ""),
        Paths::Exact => ("Exact", "/items"),
    };
    let mut yaml = String::new();
    for route in 0..setup.routes {
        if route % RULES == 0 {
            let _ = write!(
                yaml,
                "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {service}-{}, namespace: {NAMESPACE}}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: {service}, port: 80}}]
  rules:
",
                route / RULES
            );
        }
        let _ = writeln!(
            yaml,
            "  - {{matches: [{{path: {{type: {kind}, value: /r{route}{end}}}}}], backendRefs: [{{name: {service}, port: 80}}]}}"
        );
    }
    yaml
}

#[cfg(test)]
mod tests {
    use super::super::testing::setup;
    use super::*;

    #[test]
    fn a_route_holds_at_most_as_many_rules_as_gateway_api_permits() {
        let yaml = routes("app", &Setup { routes: 21, ..setup() });
        assert_eq!((yaml.matches("kind: HTTPRoute").count(), yaml.matches("/r").count()), (3, 21));
    }

    #[test]
    fn an_exact_route_has_the_path_of_requests() {
        let yaml = routes("app", &Setup { paths: Paths::Exact, ..setup() });
        assert!(yaml.contains("{type: Exact, value: /r1/items}"), "{yaml}");
    }

    #[test]
    fn a_service_has_the_endpoints_that_are_left() {
        let addresses = Setup { endpoints: 3, ..setup() }.addresses();
        let yaml = endpoints(0, &addresses[1..]);
        assert!(yaml.contains("\"127.1.0.3\"") && !yaml.contains("\"127.1.0.1\""), "{yaml}");
    }
}
