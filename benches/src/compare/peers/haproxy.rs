//! HAProxy: one thread; connections to servers are shared between clients (`http-reuse always`).

use std::fmt::Write as _;
use std::path::Path;

use outrigger::ports;

use super::daemon::Daemon;
use super::{Hop, Protocol, Running, Setup, With};

/// So many routes are ACLs.
const FEW: usize = 20;

pub(super) async fn start(program: &Path, setup: &Setup, with: &With<'_>) -> Result<Running, String> {
    let [address, link] = ports::free()?;
    let alpn = match setup.protocol {
        Protocol::Tcp => "",
        Protocol::Http1 | Protocol::Http2 => "alpn h2",
    };
    let mtls = format!(
        "ssl crt {} ca-file {} verify required ssl-min-ver TLSv1.3 {alpn}",
        with.certificates.combined.display(),
        with.certificates.roots.display()
    );
    let clear = match setup.protocol {
        Protocol::Http1 | Protocol::Tcp => "",
        Protocol::Http2 => "proto h2",
    };
    let mut daemons = Vec::new();
    for hop in super::chain(setup, address, link, [clear, mtls.as_str()]) {
        daemons.push(one(&hop, program, setup, with).await?);
    }
    super::running(daemons, address, setup, with)
}

async fn one(hop: &Hop<&str>, program: &Path, setup: &Setup, with: &With<'_>) -> Result<Daemon, String> {
    let Hop { name, from: (from, bind), to: (to, server) } = hop;
    let mode = match setup.protocol {
        Protocol::Tcp => "mode tcp",
        Protocol::Http1 | Protocol::Http2 => {
            "mode http
    http-reuse always"
        }
    };
    let mut config = format!(
        "global
    nbthread 1
    maxconn 4000
    stats socket {}/{name}.sock
defaults
    {mode}
    timeout connect 10s
    timeout client 10m
    timeout server 10m
backend app
    server app {to} {server}
frontend in
    bind {from} {bind}
",
        with.directory.display()
    );
    match setup.protocol {
        Protocol::Tcp => config.push_str("    default_backend app\n"),
        Protocol::Http1 | Protocol::Http2 => {
            // Above a few, its users put prefixes into a map.
            if setup.routes > FEW {
                let map: String = (0..setup.routes).map(|route| format!("/r{route}/ app\n")).collect();
                let file = with.directory.join("routes.map");
                std::fs::write(&file, map).map_err(|error| error.to_string())?;
                let _ = writeln!(config, "    use_backend %[path,map_beg({})]", file.display());
            } else {
                for route in 0..setup.routes {
                    let _ = writeln!(config, "    use_backend app if {{ path_beg /r{route}/ }}");
                }
            }
        }
    }
    let file = with.directory.join(format!("{name}.cfg"));
    std::fs::write(&file, config).map_err(|error| error.to_string())?;
    let file = file.display().to_string();
    let mut daemon = Daemon::start(with.cores, program, name, with.directory, &["-db", "-f", &file])?;
    daemon.accepts(*from).await?;
    Ok(daemon)
}
