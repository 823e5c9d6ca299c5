//! Outrigger as a user gets it: a control plane with the mesh's CA, sidecars that join with tokens, every default, no access log. The
//! control plane runs beside the load; its CPU is not the proxy's.

use std::fmt::Write as _;
use std::path::Path;

use outrigger::ports;
use outrigger::process::Process;

use super::{Protocol, Running, Setup, Shape, With};
use crate::compare::client_tls;
use crate::heartbeats::client::Identity;
use crate::mesh::Mesh;

/// Rules of one HTTPRoute: Gateway API permits 16.
const RULES: usize = 10;
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
            mesh.write_plain("app", protocol, setup.backend)?;
            "app"
        }
        // The server's sidecar registers them.
        Shape::Pair | Shape::Inbound => {
            for service in 0..5 {
                mesh.write_file(&format!("s{service}"), &registered(service, protocol))?;
            }
            "s0"
        }
    };
    if setup.protocol != Protocol::Tcp {
        mesh.write_file("routes", &routes(service, setup.routes))?;
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
        let more = [("--bind", bind.into())];
        sidecars.push(mesh.client_with(if setup.protocol == Protocol::Tcp { &more } else { &[] }).await?);
    }
    drop(pinned);
    let (address, tls) = match (setup.shape, setup.protocol) {
        (Shape::Inbound, _) => {
            let (chain, key) = Identity::join(&mesh).await?.into_parts();
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
        keep: Box::new((sidecars, control_plane)),
    })
}

/// A service whose endpoints are registered by their sidecars.
fn registered(service: usize, protocol: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: s{service}, namespace: {NAMESPACE}}}
spec: {{ports: [{{name: main, port: 80, appProtocol: {protocol}}}]}}
"
    )
}

/// HTTPRoutes that route `/r0`, `/r1` and so on to `service`.
fn routes(service: &str, count: usize) -> String {
    let mut yaml = String::new();
    for route in 0..count {
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
            "  - {{matches: [{{path: {{type: PathPrefix, value: /r{route}}}}}], backendRefs: [{{name: {service}, port: 80}}]}}"
        );
    }
    yaml
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_holds_at_most_as_many_rules_as_gateway_api_permits() {
        let yaml = routes("app", 21);
        assert_eq!((yaml.matches("kind: HTTPRoute").count(), yaml.matches("/r").count()), (3, 21));
    }
}
