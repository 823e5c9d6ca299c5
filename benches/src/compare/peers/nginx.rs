//! nginx: one worker; `keepalive` connections to servers, in HTTP/1.1, whatever clients speak.

use std::fmt::Write as _;
use std::path::Path;

use outrigger::ports;

use super::daemon::Daemon;
use super::{Running, Setup, Shape, With};

pub(super) async fn start(program: &Path, setup: &Setup, with: &With<'_>) -> Result<Running, String> {
    let [address] = ports::free()?;
    let directory = with.directory.display();
    let (options, tls) = match setup.shape {
        Shape::Inbound => {
            let files = with.certificates;
            let [chain, key, roots] = [&files.chain, &files.key, &files.roots].map(|file| file.display());
            let tls = format!(
                "ssl_certificate {chain}; ssl_certificate_key {key}; ssl_client_certificate {roots};
        ssl_verify_client on; ssl_verify_depth 2; ssl_protocols TLSv1.3;"
            );
            (" ssl http2", tls)
        }
        Shape::One | Shape::Pair => ("", String::new()),
    };
    let mut config = format!(
        "daemon off;
user root;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 20000; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 10m;
    client_body_temp_path {directory};
    proxy_temp_path {directory};
    fastcgi_temp_path {directory};
    uwsgi_temp_path {directory};
    scgi_temp_path {directory};
    proxy_http_version 1.1;
    map $http_upgrade $connection_upgrade {{
        default upgrade;
        '' '';
    }}
    proxy_set_header Connection $connection_upgrade;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Host $host;
    upstream app {{
        server {};
        keepalive 256;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {address}{options};
        {tls}
        location = /status {{ stub_status; }}
",
        setup.backend
    );
    for route in 0..setup.routes {
        let _ = writeln!(config, "        location /r{route}/ {{ proxy_pass http://app; }}");
    }
    config.push_str("    }\n}\n");
    let file = with.directory.join("nginx.conf");
    std::fs::write(&file, config).map_err(|error| error.to_string())?;
    let file = file.display().to_string();
    let mut daemon = Daemon::start(with.cores, program, "nginx", with.directory, &["-c", &file])?;
    daemon.accepts(address).await?;
    super::running(vec![daemon], address, setup, with)
}
