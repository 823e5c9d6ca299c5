//! pingora: the small proxy of `benches/peers`, one thread.

use std::path::Path;

use outrigger::ports;

use super::daemon::Daemon;
use super::{Hop, Protocol, Running, Setup, With};

pub(super) async fn start(program: &Path, setup: &Setup, with: &With<'_>) -> Result<Running, String> {
    let [address, link] = ports::free()?;
    let clear = match setup.protocol {
        Protocol::Http1 => "http1",
        Protocol::Http2 => "h2c",
        Protocol::Tcp => return Err("pingora's proxy is of HTTP".into()),
    };
    let mut daemons = Vec::new();
    for hop in super::chain(setup, address, link, [clear, "mtls"]) {
        daemons.push(one(&hop, program, setup, with).await?);
    }
    super::running(daemons, address, setup, with)
}

async fn one(hop: &Hop<&str>, program: &Path, setup: &Setup, with: &With<'_>) -> Result<Daemon, String> {
    let Hop { name, from: (from, downstream), to: (to, upstream) } = hop;
    let certificates = with.certificates;
    let [chain, key, roots] =
        [&certificates.chain, &certificates.key, &certificates.roots].map(|file| file.display().to_string());
    let (listen, connect, routes) = (from.to_string(), to.to_string(), setup.routes.to_string());
    let args = [listen.as_str(), downstream, &connect, upstream, &routes, &chain, &key, &roots];
    let mut daemon = Daemon::start(with.cores, program, name, with.directory, &args)?;
    daemon.accepts(*from).await?;
    Ok(daemon)
}
