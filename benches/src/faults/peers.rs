//! Other proxies in front of the same endpoints, with retries, ejection and checks as their guides recommend. By default,
//! both have none of these.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::exchange::wait_listening;
use super::topology::{ENDPOINTS, TARGET, application};

/// Envoy's adaptive concurrency, as its documentation configures it.
const ADAPTIVE: &str = "          - name: envoy.filters.http.adaptive_concurrency
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency
              gradient_controller_config:
                sample_aggregate_percentile: {value: 90}
                concurrency_limit_params: {concurrency_update_interval: 0.1s}
                min_rtt_calc_params: {jitter: {value: 10}, interval: 60s, request_count: 50}
              enabled: {default_value: true, runtime_key: adaptive_concurrency.enabled}
";

/// Starts Envoy with two retries, outlier detection and a connect timeout of 1 s. Returns an error if it does not listen.
pub(super) async fn envoy(program: &Path, directory: &Path, adaptive: bool) -> Result<Child, String> {
    let adaptive = if adaptive { ADAPTIVE } else { "" };
    let endpoints: String = addresses()
        .map(|address| {
            format!(
                "        - endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}\n",
                address.ip(),
                address.port()
            )
        })
        .collect();
    let config = format!(
        r#"static_resources:
  listeners:
  - name: front
    address: {{socket_address: {{address: {}, port_value: {}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          http_filters:
{adaptive}          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:
            - name: shop
              domains: ["*"]
              routes:
              - match: {{prefix: "/"}}
                route:
                  cluster: shop
                  timeout: 0s
                  retry_policy:
                    retry_on: connect-failure,refused-stream,reset-before-request,gateway-error
                    num_retries: 2
                    retry_host_predicate:
                    - name: envoy.retry_host_predicates.previous_hosts
                      typed_config: {{"@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}
  clusters:
  - name: shop
    connect_timeout: 1s
    lb_policy: LEAST_REQUEST
    outlier_detection: {{max_ejection_percent: 50}}
    load_assignment:
      cluster_name: shop
      endpoints:
      - lb_endpoints:
{endpoints}"#,
        TARGET.ip(),
        TARGET.port(),
    );
    let path = directory.join("envoy.yaml");
    std::fs::write(&path, config).map_err(|error| format!("{}: {error}", path.display()))?;
    start(
        program,
        &[
            "-c",
            &path.to_string_lossy(),
            "--concurrency",
            "2",
            "--log-level",
            "error",
            "--use-dynamic-base-id",
        ],
    )
    .await
}

/// Starts HAProxy with three retries, redispatch and a check every 500 ms. Returns an error if it does not listen.
pub(super) async fn haproxy(program: &Path, directory: &Path) -> Result<Child, String> {
    let mut config = format!(
        "global
    nbthread 2
    log stdout local0 err
defaults
    mode http
    timeout connect 1s
    timeout client 60s
    timeout server 60s
    retries 3
    option redispatch 1
    retry-on conn-failure empty-response 503
frontend front
    bind {TARGET}
    default_backend shop
backend shop
    balance leastconn
    option httpchk GET /executed
"
    );
    for (number, address) in addresses().enumerate() {
        let _ = writeln!(config, "    server s{number} {address} check inter 500ms fall 2 rise 2");
    }
    let path = directory.join("haproxy.cfg");
    std::fs::write(&path, config).map_err(|error| format!("{}: {error}", path.display()))?;
    start(program, &["-db", "-f", &path.to_string_lossy()]).await
}

fn addresses() -> impl Iterator<Item = SocketAddr> {
    (1..=ENDPOINTS).map(application)
}

async fn start(program: &Path, args: &[&str]) -> Result<Child, String> {
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
    wait_listening(TARGET).await?;
    Ok(child)
}
