//! nginx: one worker; `keepalive` connections to servers, in HTTP/1.1, whatever clients speak.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use outrigger::ports;

use super::daemon::Daemon;
use super::{Paths, Running, Setup, Shape, With};
use crate::compare::certificates::Certificates;

pub(super) async fn start(program: &Path, setup: &Setup, with: &With<'_>) -> Result<Running, String> {
    let [address] = ports::free()?;
    let config = config(address, setup, with.directory, with.certificates);
    let file = with.directory.join("nginx.conf");
    std::fs::write(&file, config).map_err(|error| error.to_string())?;
    let file = file.display().to_string();
    let mut daemon = Daemon::start(with.cores, program, "nginx", with.directory, &["-c", &file])?;
    daemon.accepts(address).await?;
    super::running(vec![daemon], address, setup, with)
}

fn config(address: SocketAddr, setup: &Setup, directory: &Path, certificates: &Certificates) -> String {
    let directory = directory.display();
    let access_log = if setup.telemetry.access_log { "/dev/null" } else { "off" };
    let (options, tls) = match setup.shape {
        Shape::Inbound => {
            let [chain, key, roots] =
                [&certificates.chain, &certificates.key, &certificates.roots].map(|file| file.display());
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
    access_log {access_log};
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
        let path = match setup.paths {
            Paths::Prefix => format!("/r{route}/"),
            Paths::Exact => format!("= /r{route}/items"),
        };
        let _ = writeln!(config, "        location {path} {{ proxy_pass http://app; }}");
    }
    config.push_str("    }\n}\n");
    config
}

#[cfg(test)]
mod tests {
    use super::super::testing::{certificates, setup};
    use super::*;

    #[test]
    fn exact_paths_and_the_access_log_are_configured_on_request() {
        let address = "127.0.0.1:1".parse().unwrap();
        let plain = config(address, &setup(), Path::new("/d"), &certificates());
        assert!(plain.contains("location /r1/ {") && plain.contains("access_log off;"), "{plain}");
        let mut asked = Setup { paths: Paths::Exact, ..setup() };
        asked.telemetry.access_log = true;
        let text = config(address, &asked, Path::new("/d"), &certificates());
        assert!(text.contains("location = /r1/items {") && text.contains("access_log /dev/null;"), "{text}");
    }
}
