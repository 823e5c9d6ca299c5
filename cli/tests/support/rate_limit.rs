//! `outrigger rate-limit` as a process, its client, and a mesh whose sidecars ask it.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use outrigger::ports;
use outrigger_proto::xds::common_ratelimit::RateLimitDescriptor;
use outrigger_proto::xds::common_ratelimit::rate_limit_descriptor::Entry;
use outrigger_proto::xds::ratelimit_service::rate_limit_service_client::RateLimitServiceClient;
use outrigger_proto::xds::ratelimit_service::{RateLimitRequest, RateLimitResponse};
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::Response;
use outrigger_test_support::wait::eventually;
use tonic::Status;
use tonic::transport::Channel;

use crate::support;

/// A running service, which is killed when it is dropped.
pub(crate) struct Service {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    metrics: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Service {
    /// Starts it with these limits, further flags, and variables of its environment.
    pub(crate) fn start(limits: &str, flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("limits.yaml");
        std::fs::write(&file, limits).unwrap();
        let [address, metrics] = ports::free().unwrap();
        let child = Command::new(support::OUTRIGGER)
            .args(["--exit-with-parent", "rate-limit", "--listen", &address.to_string()])
            .args(["--metrics", &metrics.to_string()])
            .args(flags)
            .arg(&file)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, address, metrics, _directory: directory }
    }

    /// Connects, as soon as it listens.
    pub(crate) async fn client(&self) -> RateLimitServiceClient<Channel> {
        let to = format!("http://{}", self.address);
        eventually("a service that listens", async || RateLimitServiceClient::connect(to.clone()).await.ok())
            .await
    }

    /// Returns the value of a series.
    pub(crate) async fn metric(&self, series: &str) -> u64 {
        let page = Client::connect(self.metrics).await.get("localhost", "/metrics").await;
        let line = page.body.lines().find_map(|line| line.strip_prefix(series));
        line.unwrap_or_else(|| panic!("{series} in {page:?}")).trim().parse().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks about a request of a caller in the domain `shop`.
pub(crate) async fn ask(
    client: &mut RateLimitServiceClient<Channel>,
    caller: &str,
) -> Result<RateLimitResponse, Status> {
    let entries = vec![Entry { key: "caller".into(), value: caller.into() }];
    let descriptors = vec![RateLimitDescriptor { entries, ..Default::default() }];
    let request = RateLimitRequest { domain: "shop".into(), descriptors, hits_addend: 0 };
    Ok(client.should_rate_limit(request).await?.into_inner())
}

/// Two instances of `cart`, whose sidecars ask the services about each request, and a sidecar of `web`.
pub(crate) struct Limited {
    _processes: support::Mesh,
    outbound: SocketAddr,
    carts: [SocketAddr; 2],
}

impl Limited {
    /// Starts them. The service `rate-limit` has these endpoints.
    pub(crate) fn start(limits: &[SocketAddr]) -> Self {
        let [listen, admin, app, web, outbound] = ports::free().unwrap();
        let [one, two, in_one, in_two, out_one, out_two] = ports::free().unwrap();
        let mut processes = support::Mesh::start(&[], listen, admin, &configuration(limits));
        processes.outrigger("app", &[], &["sample", "catalog", "--listen", &app.to_string()]);
        for (account, admin, inbound, outbound) in
            [("cart", one, in_one, out_one), ("cart-2", two, in_two, out_two)]
        {
            let (service, outbound) = (format!("cart={app},listen={inbound}"), outbound.to_string());
            processes.sidecar(&[], account, admin, &["--service", &service, "--outbound", &outbound]);
        }
        processes.sidecar(&[], "web", web, &["--outbound", &outbound.to_string()]);
        Self { _processes: processes, outbound, carts: [one, two] }
    }

    /// Sends a request from `web` to `cart`.
    pub(crate) async fn get(&self) -> Response {
        Client::connect(self.outbound).await.get("cart", "/items").await
    }

    /// Returns how many requests were admitted because the service did not answer.
    pub(crate) async fn failed_open(&self) -> f64 {
        let mut sum = 0.0;
        for cart in self.carts {
            let page = Client::connect(cart).await.get("localhost", "/metrics").await;
            let lines =
                page.body.lines().filter(|line| line.starts_with("outrigger_filters_failed_open_total"));
            sum += lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
        }
        sum
    }
}

fn configuration(limits: &[SocketAddr]) -> String {
    let slice = |(at, address): (usize, &SocketAddr)| {
        format!(
            "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: rate-limit-{at}, labels: {{kubernetes.io/service-name: rate-limit}}}}
addressType: IPv4
ports: [{{name: grpc, port: {}, protocol: TCP}}]
endpoints: [{{addresses: [\"{}\"]}}]
---
",
            address.port(),
            address.ip()
        )
    };
    let slices: String = limits.iter().enumerate().map(slice).collect();
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: cart, annotations: {{outrigger.dev/service-accounts: 'cart,cart-2'}}}}
spec: {{ports: [{{port: 80, appProtocol: http}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: rate-limit}}
spec: {{ports: [{{name: grpc, port: 8081, appProtocol: kubernetes.io/h2c}}]}}
---
{slices}apiVersion: outrigger.dev/v1alpha1
kind: RateLimitPolicy
metadata: {{name: cart}}
spec:
  targetRefs: [{{group: '', kind: Service, name: cart}}]
  global:
    service: {{name: rate-limit, port: 8081}}
    domain: shop
    timeout: 5s
    descriptors: [{{by: [{{caller: {{}}}}]}}]
"
    )
}
