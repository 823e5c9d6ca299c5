//! `outrigger rate-limit`: the service of global rate limits, which sidecars ask (`envoy.service.ratelimit.v3`).
//!
//! Its counters are in memory: it limits the proxies that ask this one process, and forgets when it is restarted. A configuration that
//! cannot be used is refused at the start.

mod service;
mod counters;
mod limits;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use outrigger_proto::xds::ratelimit_service::rate_limit_service_server::RateLimitServiceServer;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use counters::Counters;
use limits::Limits;
use service::Service;

/// Runs a service of global rate limits, which sidecars ask, with counters in memory.
#[derive(Debug, Args)]
#[command(after_help = "\
The configuration is that of Envoy's rate limit service: a domain, and a tree of descriptors. A
value that is left out stands for any value, and each value is counted by itself.

Examples:
  # 100 requests per second of each caller
  cat > limits.yaml <<EOF
  domain: shop
  descriptors:
  - key: caller
    rate_limit: { unit: second, requests_per_unit: 100 }
  EOF
  outrigger rate-limit --listen 127.0.0.1:8081 limits.yaml")]
pub(crate) struct RateLimitArgs {
    /// Files with the limits, one for each domain.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Where to listen for gRPC.
    #[arg(long, value_name = "IP:PORT")]
    listen: SocketAddr,
    /// The most counters at a time. A request that needs a further one is not limited.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    max_counters: usize,
}

/// Serves until SIGTERM. Returns an error if a file cannot be used, or if it cannot listen.
pub(crate) fn run(args: RateLimitArgs) -> Result<(), String> {
    let RateLimitArgs { files, listen, max_counters } = args;
    let mut limits = Limits::default();
    for file in &files {
        let named = |problem: String| format!("{}: {problem}", file.display());
        let text = std::fs::read_to_string(file).map_err(|error| named(error.to_string()))?;
        limits.add(&text).map_err(named)?;
    }
    let service = Service::new(limits, Counters::new(max_counters));
    crate::runtime::block_on(async {
        let incoming = TcpIncoming::bind(listen)
            .map_err(|error| format!("cannot listen on {listen}: {error}"))?
            .with_nodelay(Some(true));
        Server::builder()
            .add_service(RateLimitServiceServer::new(service))
            .serve_with_incoming_shutdown(incoming, crate::runtime::terminated())
            .await
            .map_err(|error| error.to_string())
    })
}
