//! What the mesh exports, as the programs see it that operators use: a Jaeger, which is an OpenTelemetry Collector with a store, a
//! collector with the service graph connector, `promtool`, and the OpenMetrics parser of Prometheus' Python client. Part of
//! `tests/heavier`, which builds or installs them and sets `OUTRIGGER_JAEGER`, `OUTRIGGER_COLLECTOR`, `OUTRIGGER_PROMTOOL` and
//! `OUTRIGGER_OPENMETRICS` to their paths.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // helpers of tests

mod scrape;
mod signals;
mod traces;

mod service_graph;
mod collector;
mod shop;
