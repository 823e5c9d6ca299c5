//! The sample shop: five small services that are unaware of the mesh.
//!
//! `web` calls `cart`; `cart` calls `catalog` (HTTP), `payments` (gRPC) and `stock` (TCP), in plaintext, and propagates the trace
//! headers; the mesh does the rest. Where connections are captured, as in a pod, services are called at their own addresses;
//! elsewhere on loopback, at the sidecar. They are started by `outrigger demo`; `outrigger sample --help` shows how to start one by hand.

mod cart;
mod catalog;
mod customer;
mod payments;
mod stock;
mod web;

mod http;

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Subcommand};
use outrigger_core::duration::parse_duration;

/// Runs one sample service.
#[derive(Debug, Args)]
pub(crate) struct SampleArgs {
    #[command(subcommand)]
    service: Service,
}

#[derive(Debug, Subcommand)]
enum Service {
    /// The front end: GET / and POST /checkout, both by calling `cart`.
    Web {
        /// Where to listen.
        #[arg(long, value_name = "IP:PORT")]
        listen: SocketAddr,
        /// The outbound port of its sidecar. Without it, services are called at their own addresses, as where connections are captured.
        #[arg(long, value_name = "IP:PORT")]
        sidecar: Option<SocketAddr>,
    },
    /// The cart: GET /cart and POST /checkout.
    Cart {
        /// Where to listen.
        #[arg(long, value_name = "IP:PORT")]
        listen: SocketAddr,
        /// The outbound port of its sidecar. Without it, services are called at their own addresses, as where connections are captured.
        #[arg(long, value_name = "IP:PORT")]
        sidecar: Option<SocketAddr>,
        /// The service `payments`, or the local port of the sidecar that is bound to it.
        #[arg(long, value_name = "HOST:PORT", default_value = "payments:50051")]
        payments: String,
        /// The service `stock`, or the local port of the sidecar that is bound to it.
        #[arg(long, value_name = "HOST:PORT", default_value = "stock:9000")]
        stock: String,
    },
    /// The catalog: GET /items.
    Catalog {
        /// Where to listen.
        #[arg(long, value_name = "IP:PORT")]
        listen: SocketAddr,
        /// The value of the response header `x-version`.
        #[arg(long, default_value = "v1")]
        version: String,
    },
    /// Payments: the gRPC method `outrigger.demo.v1.Payments/Charge`.
    Payments {
        /// Where to listen.
        #[arg(long, value_name = "IP:PORT")]
        listen: SocketAddr,
    },
    /// Stock: one line of text in, one line out.
    Stock {
        /// Where to listen.
        #[arg(long, value_name = "IP:PORT")]
        listen: SocketAddr,
    },
    /// A customer, who visits `web`: GET /, and POST /checkout every third time.
    Customer {
        /// The outbound port of its sidecar. Without it, services are called at their own addresses, as where connections are captured.
        #[arg(long, value_name = "IP:PORT")]
        sidecar: Option<SocketAddr>,
        /// The pause after a visit.
        #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
        every: Duration,
        /// Stop after this many visits, with exit code 1 if one of them failed.
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
}

/// Runs until SIGTERM. Returns an error if it cannot listen.
pub(crate) fn run(args: SampleArgs) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(async {
        match args.service {
            Service::Web { listen, sidecar } => web::serve(listen, http::Services::new(sidecar)).await,
            Service::Cart { listen, sidecar, payments, stock } => {
                let services = http::Services::new(sidecar);
                cart::serve(listen, cart::Upstreams { services, payments, stock }).await
            }
            Service::Catalog { listen, version } => catalog::serve(listen, version).await,
            Service::Payments { listen } => payments::serve(listen).await,
            Service::Stock { listen } => stock::serve(listen).await,
            Service::Customer { sidecar, every, count } => {
                customer::visit(http::Services::new(sidecar), every, count).await
            }
        }
    })
}
