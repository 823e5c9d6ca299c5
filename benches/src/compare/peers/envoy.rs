//! Envoy: `--concurrency 1`, static configuration, its statistics and admin port as by default.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use outrigger::ports;
use serde_json::{Value, json};

use super::daemon::Daemon;
use super::{Hop, Members, Paths, Protocol, Running, Setup, Telemetry, With};
use crate::compare::certificates::{Certificates, SPIFFE_ID};

const TYPES: &str = "type.googleapis.com/envoy.extensions";

pub(super) async fn start(program: &Path, setup: &Setup, with: &With<'_>) -> Result<Running, String> {
    let [address, link] = ports::free()?;
    let side = |h2, mtls| Side { h2, mtls };
    let sides = match setup.protocol {
        Protocol::Http1 => [side(false, false), side(true, true)],
        Protocol::Http2 => [side(true, false), side(true, true)],
        Protocol::Tcp => [side(false, false), side(false, true)],
    };
    let mut daemons = Vec::new();
    let mut members = None;
    for hop in super::chain(setup, address, link, sides) {
        let [admin] = ports::free()?;
        let eds = endpoints_file(with.directory);
        if setup.endpoints > 0 {
            let written = std::fs::create_dir_all(with.directory.join("eds"))
                .and_then(|()| std::fs::write(&eds, resource(&setup.addresses())));
            written.map_err(|error| format!("{}: {error}", eds.display()))?;
            members = Some(Members::envoy(eds.clone(), setup, admin, resource));
        }
        let config = bootstrap(admin, &hop, setup, with.certificates, &eds);
        let file = with.directory.join(format!("{}.json", hop.name));
        std::fs::write(&file, config.to_string()).map_err(|error| error.to_string())?;
        let file = file.display().to_string();
        let args = ["-c", &file, "--concurrency", "1", "--disable-hot-restart", "-l", "error"];
        let mut daemon = Daemon::start(with.cores, program, hop.name, with.directory, &args)?;
        daemon.accepts(hop.from.0).await?;
        daemons.push(daemon);
    }
    Ok(Running { members, ..super::running(daemons, address, setup, with)? })
}

/// In a folder of its own: each file that appears there is an update.
fn endpoints_file(directory: &Path) -> PathBuf {
    directory.join("eds/app.json")
}

/// The file of a cluster's endpoints.
fn resource(addresses: &[SocketAddr]) -> String {
    let mut assignment = assignment(addresses);
    assignment["@type"] = json!("type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment");
    json!({"resources": [assignment]}).to_string()
}

fn assignment(addresses: &[SocketAddr]) -> Value {
    let endpoints: Vec<_> =
        addresses.iter().map(|to| json!({"endpoint": {"address": address(*to)}})).collect();
    json!({"cluster_name": "app", "endpoints": [{"lb_endpoints": endpoints}]})
}

/// What is spoken on one side of a process.
#[derive(Debug, Clone, Copy)]
struct Side {
    /// HTTP/2, not HTTP/1.1 or bytes.
    h2: bool,
    mtls: bool,
}

fn bootstrap(
    admin: SocketAddr,
    hop: &Hop<Side>,
    setup: &Setup,
    certificates: &Certificates,
    eds: &Path,
) -> Value {
    let Hop { from: (from, downstream), to: (to, upstream), .. } = hop;
    let filter = match setup.protocol {
        Protocol::Tcp => json!({
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
                "stat_prefix": "in",
                "cluster": "app",
            },
        }),
        Protocol::Http1 | Protocol::Http2 => http(setup),
    };
    let mut chain = json!({"filters": [filter]});
    if downstream.mtls {
        chain["transport_socket"] = tls("DownstreamTlsContext", downstream.h2, certificates);
    }
    let mut cluster = json!({
        "name": "app",
        "type": "STATIC",
        "load_assignment": assignment(&[*to]),
    });
    if setup.endpoints > 0 {
        cluster = json!({
            "name": "app",
            "type": "EDS",
            "eds_cluster_config": {"eds_config": {
                "resource_api_version": "V3",
                "path_config_source": {"path": eds, "watched_directory": {"path": eds.parent()}},
            }},
        });
    }
    if upstream.h2 {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        });
    }
    if upstream.mtls {
        cluster["transport_socket"] = tls("UpstreamTlsContext", upstream.h2, certificates);
    }
    let mut clusters = vec![cluster];
    clusters.extend(setup.telemetry.tracing.map(|to| collector(to.collector)));
    json!({
        "node": {"id": "peer", "cluster": "peers"},
        "admin": {"address": address(admin)},
        "static_resources": {
            "listeners": [{"name": "in", "address": address(*from), "filter_chains": [chain]}],
            "clusters": clusters,
        },
        "layered_runtime": {"layers": [
            {"name": "tracing", "static_layer": batches(&setup.telemetry)},
            {"name": "admin", "admin_layer": {}},
        ]},
    })
}

/// Spans are sent in batches of 512 or after a second, as Outrigger does: by default, Envoy sends five at a time.
fn batches(telemetry: &Telemetry) -> Value {
    match telemetry.tracing {
        None => json!({}),
        Some(_) => json!({"tracing": {"opentelemetry": {"min_flush_spans": 512, "flush_interval_ms": 1000}}}),
    }
}

fn collector(to: SocketAddr) -> Value {
    json!({
        "name": "collector",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "collector",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(to)}}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        },
    })
}

fn http(setup: &Setup) -> Value {
    let routes: Vec<_> = (0..setup.routes)
        .map(|route| {
            let action = json!({"cluster": "app", "timeout": "0s"});
            let matches = match setup.paths {
                Paths::Prefix => json!({"path_separated_prefix": format!("/r{route}")}),
                Paths::Exact => json!({"path": format!("/r{route}/items")}),
            };
            json!({"match": matches, "route": action})
        })
        .collect();
    let mut filter = json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "in",
            "codec_type": "AUTO",
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": format!("{TYPES}.filters.http.router.v3.Router")},
            }],
        },
    });
    let config = &mut filter["typed_config"];
    if setup.telemetry.access_log {
        config["access_log"] = json!([{
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": format!("{TYPES}.access_loggers.file.v3.FileAccessLog"),
                "path": "/dev/null",
            },
        }]);
    }
    if let Some(tracing) = setup.telemetry.tracing {
        config["tracing"] = json!({
            "random_sampling": {"value": tracing.percent},
            "provider": {
                "name": "envoy.tracers.opentelemetry",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                    "grpc_service": {"envoy_grpc": {"cluster_name": "collector"}, "timeout": "10s"},
                    "service_name": "peer",
                },
            },
        });
    }
    filter
}

fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

fn tls(context: &str, h2: bool, certificates: &Certificates) -> Value {
    let alpn = if h2 { vec!["h2"] } else { Vec::new() };
    let file = |path: &Path| json!({"filename": path});
    let mut config = json!({
        "@type": format!("{TYPES}.transport_sockets.tls.v3.{context}"),
        "common_tls_context": {
            "alpn_protocols": alpn,
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [{
                "certificate_chain": file(&certificates.chain),
                "private_key": file(&certificates.key),
            }],
            "validation_context": {
                "trusted_ca": file(&certificates.roots),
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": SPIFFE_ID}}],
            },
        },
    });
    if context == "DownstreamTlsContext" {
        config["require_client_certificate"] = json!(true);
    }
    json!({"name": "envoy.transport_sockets.tls", "typed_config": config})
}

#[cfg(test)]
mod tests {
    use super::super::testing::{certificates, setup};
    use super::super::{Shape, Tracing};
    use super::*;

    fn config(setup: &Setup) -> Value {
        let address = setup.backend;
        let side = Side { h2: false, mtls: false };
        let hop = Hop { name: "proxy", from: (address, side), to: (address, side) };
        bootstrap(address, &hop, setup, &certificates(), Path::new("/d/eds/app.json"))
    }

    fn manager(config: &Value) -> &Value {
        &config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    }

    #[test]
    fn by_default_there_is_neither_log_nor_trace() {
        assert_eq!(setup().shape, Shape::One);
        let config = config(&setup());
        let manager = manager(&config);
        assert!(manager["access_log"].is_null() && manager["tracing"].is_null(), "{manager}");
        let routes = &manager["route_config"]["virtual_hosts"][0]["routes"];
        assert_eq!(routes[1]["match"], json!({"path_separated_prefix": "/r1"}));
        assert_eq!(config["static_resources"]["clusters"][0]["type"], "STATIC");
    }

    #[test]
    fn logs_traces_and_exact_paths_are_configured_on_request() {
        let collector = "127.0.0.1:4317".parse().unwrap();
        let telemetry = Telemetry { access_log: true, tracing: Some(Tracing { percent: 1, collector }) };
        let config = config(&Setup { telemetry, paths: Paths::Exact, ..setup() });
        let manager = manager(&config);
        assert_eq!(manager["access_log"][0]["typed_config"]["path"], "/dev/null");
        assert_eq!(manager["tracing"]["random_sampling"], json!({"value": 1}));
        assert_eq!(
            manager["route_config"]["virtual_hosts"][0]["routes"][1]["match"],
            json!({"path": "/r1/items"})
        );
        assert_eq!(config["static_resources"]["clusters"][1]["name"], "collector");
    }

    #[test]
    fn endpoints_that_change_are_in_a_file() {
        let setup = Setup { endpoints: 2, ..setup() };
        let config = config(&setup);
        let source = &config["static_resources"]["clusters"][0]["eds_cluster_config"]["eds_config"];
        assert_eq!(source["path_config_source"]["watched_directory"]["path"], "/d/eds");
        let resource: Value = serde_json::from_str(&resource(&setup.addresses())).unwrap();
        let endpoints = &resource["resources"][0]["endpoints"][0]["lb_endpoints"];
        assert_eq!(endpoints[1]["endpoint"]["address"]["socket_address"]["address"], "127.1.0.2");
    }
}
