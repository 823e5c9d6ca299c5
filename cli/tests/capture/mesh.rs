//! A mesh in two captured network namespaces: a client and a server, each with its sidecar, and a Service of the server.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::chown;

use super::namespace::{Family, Namespace, Pair};
use super::support::{self, OUTRIGGER};

const PROXY_UID: u32 = 1500;
/// The port of the sidecars' DNS answerers.
pub(crate) const DNS_PORT: u16 = 15053;

pub(crate) struct Mesh {
    pub(crate) client: Namespace,
    pub(crate) server: Namespace,
    /// The address of the server's application, to which the Service leads.
    pub(crate) application: SocketAddr,
    /// An application of the server whose port is excluded from the capture.
    pub(crate) excluded_application: SocketAddr,
    /// An application of the server that listens on loopback alone.
    pub(crate) loopback_application: SocketAddr,
    virtual_address: IpAddr,
    _processes: support::Mesh,
}

impl Mesh {
    pub(crate) fn start(family: Family) -> Self {
        let Pair { client, server, addresses: [here, there] } = Pair::new(family, "mesh");
        let (loopback, any, virtual_address) = match family {
            Family::V4 => ("127.0.0.1", "0.0.0.0", "10.96.0.10"),
            Family::V6 => ("::1", "::", "fd96::10"),
        };
        let [loopback, any, virtual_address]: [IpAddr; 3] =
            [loopback, any, virtual_address].map(|address| address.parse().unwrap());
        let application = SocketAddr::new(there, 8080);
        let excluded_application = SocketAddr::new(there, 8081);
        let loopback_application = SocketAddr::new(loopback, 8082);

        let [in_client, in_server] = [&client, &server].map(Namespace::enter);
        let [in_client, in_server] =
            [&in_client, &in_server].map(|words| words.each_ref().map(String::as_str));
        let listen = SocketAddr::new(here, 15010);
        let mut processes = support::Mesh::start(
            &in_client,
            listen,
            "127.0.0.1:15011".parse().unwrap(),
            &service(virtual_address),
        );
        client.run(&[OUTRIGGER, "capture", "--exclude-inbound-ports", "15010"]);
        server.run(&[OUTRIGGER, "capture", "--exclude-inbound-ports", "8081"]);
        for address in [application, excluded_application, loopback_application] {
            processes.outrigger(
                "application",
                &in_server,
                &["sample", "catalog", "--listen", &address.to_string()],
            );
        }
        // As in a pod, a sidecar has a user of its own. Its explicit port is changed, so that it does not collide with the redirected one.
        let uid = PROXY_UID.to_string();
        let user = ["setpriv", "--reuid", &uid, "--regid", &uid, "--clear-groups"];
        let [inbound, metrics] = [15006, 15020].map(|port| SocketAddr::new(any, port).to_string());
        let outbound = SocketAddr::new(loopback, 15001).to_string();
        let flags = ["--transparent-outbound", &outbound, "--outbound", "127.0.0.1:15002"];
        let dns = SocketAddr::new(loopback, DNS_PORT).to_string();
        let name_server = name_server(application).to_string();
        let dns = ["--dns", &dns, "--dns-upstream", &name_server];
        let flags = [&flags[..], &["--metrics-listen", &metrics], &dns].concat();
        let [echo, plain] = ["echo", "plain"].map(|name| format!("{name}:80={application}"));
        // A sidecar is ready when every inbound address has its listener, and the client has no service.
        let serves = ["--transparent-inbound", &inbound, "--service", &echo, "--service", &plain];
        for (within, account, more) in [(in_server, "server", &serves[..]), (in_client, "client", &[])] {
            let state = processes.path(account);
            std::fs::create_dir(&state).unwrap();
            chown(&state, Some(PROXY_UID), Some(PROXY_UID)).unwrap();
            let admin = "127.0.0.1:15000".parse().unwrap();
            processes.sidecar(&[&within[..], &user].concat(), account, admin, &[&flags[..], more].concat());
        }
        Self {
            client,
            server,
            application,
            excluded_application,
            loopback_application,
            virtual_address,
            _processes: processes,
        }
    }

    /// Returns where the sidecars' name server is, if a test starts one.
    pub(crate) fn name_server(&self) -> SocketAddr {
        name_server(self.application)
    }

    pub(crate) fn service_url(&self) -> String {
        format!("http://{}/items", SocketAddr::new(self.virtual_address, 80))
    }

    /// Returns how many requests of `caller` the server's sidecar has passed to its application.
    pub(crate) fn served_to(&self, caller: &str) -> u32 {
        let metrics = self.server.get("http://127.0.0.1:15000/metrics").unwrap();
        let caller = format!("spiffe://cluster.local/ns/default/sa/{caller}");
        let series = metrics.lines().filter(|line| {
            line.starts_with("outrigger_requests_total") && line.contains("inbound") && line.contains(&caller)
        });
        series.map(|line| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap()).sum()
    }
}

fn name_server(application: SocketAddr) -> SocketAddr {
    SocketAddr::new(application.ip(), 5300)
}

/// The Services of the server. `plain` has no cluster IP.
fn service(address: IpAddr) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: echo, namespace: default}}
spec:
  clusterIP: \"{address}\"
  clusterIPs: [\"{address}\"]
  ports: [{{name: http, port: 80, targetPort: 8080, appProtocol: http}}]
---
apiVersion: v1
kind: Service
metadata: {{name: plain, namespace: default}}
spec: {{ports: [{{port: 80, appProtocol: http}}]}}
"
    )
}
