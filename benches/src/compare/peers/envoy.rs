//! Envoy: `--concurrency 1`, static configuration, its statistics and admin port as by default.

use std::net::SocketAddr;
use std::path::Path;

use outrigger::ports;
use serde_json::{Value, json};

use super::daemon::Daemon;
use super::{Hop, Protocol, Running, Setup, With};
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
    for hop in super::chain(setup, address, link, sides) {
        let [admin] = ports::free()?;
        let config = bootstrap(admin, &hop, setup, with.certificates);
        let file = with.directory.join(format!("{}.json", hop.name));
        std::fs::write(&file, config.to_string()).map_err(|error| error.to_string())?;
        let file = file.display().to_string();
        let args = ["-c", &file, "--concurrency", "1", "--disable-hot-restart", "-l", "error"];
        let mut daemon = Daemon::start(with.cores, program, hop.name, with.directory, &args)?;
        daemon.accepts(hop.from.0).await?;
        daemons.push(daemon);
    }
    super::running(daemons, address, setup, with)
}

/// What is spoken on one side of a process.
#[derive(Debug, Clone, Copy)]
struct Side {
    /// HTTP/2, not HTTP/1.1 or bytes.
    h2: bool,
    mtls: bool,
}

fn bootstrap(admin: SocketAddr, hop: &Hop<Side>, setup: &Setup, certificates: &Certificates) -> Value {
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
        Protocol::Http1 | Protocol::Http2 => http(setup.routes),
    };
    let mut chain = json!({"filters": [filter]});
    if downstream.mtls {
        chain["transport_socket"] = tls("DownstreamTlsContext", downstream.h2, certificates);
    }
    let mut cluster = json!({
        "name": "app",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "app",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(*to)}}]}],
        },
    });
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
    json!({
        "admin": {"address": address(admin)},
        "static_resources": {
            "listeners": [{"name": "in", "address": address(*from), "filter_chains": [chain]}],
            "clusters": [cluster],
        },
    })
}

fn http(routes: usize) -> Value {
    let routes: Vec<_> = (0..routes)
        .map(|route| {
            let action = json!({"cluster": "app", "timeout": "0s"});
            json!({"match": {"path_separated_prefix": format!("/r{route}")}, "route": action})
        })
        .collect();
    json!({
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
    })
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
