//! OTLP: where traces, metrics and logs are exported to, and how, per OpenTelemetry's specification.
//!
//! [`settings`] reads the `OTEL_*` variables once, at start-up. Each signal has a [`Destination`](destination::Destination) and
//! one [`Exporter`](exporter::Exporter), which sends requests from the control thread. A collector that is down, slow or frozen
//! costs exports, which are counted, and nothing else.

pub(crate) mod settings;
mod supported;
mod sampler;
mod propagators;
pub(crate) mod batches;
pub(crate) mod exports;
pub(crate) mod exporter;
mod client;
pub(crate) mod destination;
mod tls;
pub(crate) mod resource;
pub(crate) mod environment;

#[cfg(test)]
pub(crate) mod testing;
