//! HAProxy: one thread; connections to servers are shared between clients (`http-reuse always`).

use std::fmt::Write as _;
use std::path::Path;

use outrigger::ports;

use super::daemon::{Daemon, Stdout};
use super::{Hop, Members, Paths, Protocol, Running, Setup, With};

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
    let mut running = super::running(daemons, address, setup, with)?;
    if setup.endpoints > 0 {
        running.members = Some(Members::haproxy(with.directory.join("proxy.sock"), setup.endpoints));
    }
    Ok(running)
}

async fn one(hop: &Hop<&str>, program: &Path, setup: &Setup, with: &With<'_>) -> Result<Daemon, String> {
    let Hop { name, from: (from, _), .. } = hop;
    if setup.protocol != Protocol::Tcp && setup.routes > FEW {
        let file = with.directory.join("routes.map");
        std::fs::write(&file, map(setup)).map_err(|error| error.to_string())?;
    }
    let config = config(hop, setup, with.directory);
    let file = with.directory.join(format!("{name}.cfg"));
    std::fs::write(&file, config).map_err(|error| error.to_string())?;
    let file = file.display().to_string();
    let args = ["-db", "-f", &file];
    let stdout = if setup.telemetry.access_log { Stdout::Dropped } else { Stdout::Logged };
    let mut daemon = Daemon::start_with(with.cores, program, name, with.directory, &args, stdout)?;
    daemon.accepts(*from).await?;
    Ok(daemon)
}

/// The map of routes to backends.
fn map(setup: &Setup) -> String {
    let end = match setup.paths {
        Paths::Prefix => "",
        Paths::Exact => "items",
    };
    (0..setup.routes).map(|route| format!("/r{route}/{end} app\n")).collect()
}

fn config(hop: &Hop<&str>, setup: &Setup, directory: &Path) -> String {
    let Hop { name, from: (from, bind), to: (to, server) } = hop;
    let servers: String = match setup.endpoints {
        0 => format!("    server app {to} {server}\n"),
        _ => {
            let addresses = setup.addresses().into_iter().enumerate();
            addresses.map(|(number, to)| format!("    server s{number} {to} {server}\n")).collect()
        }
    };
    // It has no log files: it writes to stdout, which is /dev/null.
    let [log, access_log] = match setup.telemetry.access_log {
        true => ["log stdout format raw local0", "log global\n    option httplog"],
        false => ["", ""],
    };
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
    stats socket {}/{name}.sock level admin
    {log}
defaults
    {mode}
    {access_log}
    timeout connect 10s
    timeout client 10m
    timeout server 10m
backend app
{servers}frontend in
    bind {from} {bind}
",
        directory.display()
    );
    match setup.protocol {
        Protocol::Tcp => config.push_str("    default_backend app\n"),
        Protocol::Http1 | Protocol::Http2 => {
            let (take, matches) = match setup.paths {
                Paths::Prefix => ("map_beg", "path_beg"),
                Paths::Exact => ("map_str", "path"),
            };
            // Above a few, its users put paths into a map.
            if setup.routes > FEW {
                let file = directory.join("routes.map");
                let _ = writeln!(config, "    use_backend %[path,{take}({})]", file.display());
            } else {
                for line in map(setup).lines().filter_map(|line| line.strip_suffix(" app")) {
                    let _ = writeln!(config, "    use_backend app if {{ {matches} {line} }}");
                }
            }
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::super::testing::setup;
    use super::*;

    #[test]
    fn exact_paths_logs_and_endpoints_are_configured_on_request() {
        let address = "127.0.0.1:1".parse().unwrap();
        let hop = Hop { name: "proxy", from: (address, ""), to: (address, "") };
        let plain = config(&hop, &setup(), Path::new("/d"));
        assert!(plain.contains("use_backend app if { path_beg /r1/ }"), "{plain}");
        assert!(!plain.contains("log"), "{plain}");

        let mut asked = Setup { paths: Paths::Exact, endpoints: 2, ..setup() };
        asked.telemetry.access_log = true;
        let text = config(&hop, &asked, Path::new("/d"));
        for part in ["{ path /r1/items }", "server s1 127.1.0.2:80", "option httplog", "log stdout"] {
            assert!(text.contains(part), "{text}");
        }
        let many = Setup { routes: 100, ..asked };
        let text = config(&hop, &many, Path::new("/d"));
        assert!(text.contains("map_str(/d/routes.map)"), "{text}");
        assert!(map(&many).ends_with("/r99/items app\n"));
    }
}
