//! `outrigger rate-limit`: the service of global rate limits, which sidecars ask (`envoy.service.ratelimit.v3`).
//!
//! Its counters are in memory: it limits the proxies that ask this one process, and forgets when it is restarted. Several instances share
//! their counters in a Redis or Valkey. A configuration that cannot be used is refused at the start.

mod page;
mod service;
mod limits;
mod counters;
mod memory;
mod shared;
mod link;
mod window;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use outrigger_core::duration::parse_duration;
use outrigger_proto::xds::ratelimit_service::rate_limit_service_server::RateLimitServiceServer;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use counters::Counters;
use limits::Limits;
use memory::Memory;
use service::Service;
use shared::Shared;

/// The headings of groups of flags.
const METRICS: &str = "Metrics";
const COUNTERS: &str = "Counters";

/// Runs a service of global rate limits, which sidecars ask.
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
  outrigger rate-limit --listen 127.0.0.1:8081 limits.yaml

  # The same limits for several instances, which count in a Redis
  outrigger rate-limit --listen 127.0.0.1:8081 --redis redis:6379 limits.yaml")]
pub(crate) struct RateLimitArgs {
    /// Files with the limits, one for each domain.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Where to listen for gRPC.
    #[arg(long, value_name = "IP:PORT")]
    listen: SocketAddr,
    /// Where to serve metrics, at /metrics.
    #[arg(long, value_name = "IP:PORT", help_heading = METRICS)]
    metrics: Option<SocketAddr>,
    /// The most counters in memory. A request that needs a further one is not limited.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, help_heading = COUNTERS)]
    max_counters: usize,
    /// The Redis or Valkey with the counters of all instances: HOST:PORT, or a URL. With rediss:// the
    /// connection is TLS.
    #[arg(long, value_name = "ADDRESS", env = "OUTRIGGER_REDIS", hide_env_values = true, help_heading = COUNTERS)]
    redis: Option<String>,
    /// How long it may take to count a request. After it, the answer is an error.
    #[arg(long, value_name = "DURATION", default_value = "50ms", value_parser = parse_duration, help_heading = COUNTERS)]
    redis_timeout: Duration,
}

/// Serves until SIGTERM. Returns an error if a file or an address cannot be used, or if it cannot listen.
pub(crate) fn run(args: RateLimitArgs) -> Result<(), String> {
    let RateLimitArgs { files, listen, metrics, max_counters, redis, redis_timeout } = args;
    let mut limits = Limits::default();
    for file in &files {
        let named = |problem: String| format!("{}: {problem}", file.display());
        let text = std::fs::read_to_string(file).map_err(|error| named(error.to_string()))?;
        limits.add(&text).map_err(named)?;
    }
    crate::runtime::block_on(async {
        let counters = match redis {
            None => Counters::Memory(Memory::new(max_counters)),
            Some(address) => Counters::Shared(Shared::connect(&address, redis_timeout).await?),
        };
        let service = Arc::new(Service::new(limits, counters));
        if let Some(metrics) = metrics {
            page::serve(metrics, Arc::clone(&service)).await?;
        }
        let incoming = TcpIncoming::bind(listen)
            .map_err(|error| format!("cannot listen on {listen}: {error}"))?
            .with_nodelay(Some(true));
        Server::builder()
            .add_service(RateLimitServiceServer::from_arc(service))
            .serve_with_incoming_shutdown(incoming, crate::runtime::terminated())
            .await
            .map_err(|error| error.to_string())
    })
}
