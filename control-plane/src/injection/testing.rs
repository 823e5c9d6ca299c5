//! Settings for tests.

use super::{Capture, Settings};

pub(crate) fn settings() -> Settings {
    Settings {
        proxy_image: "outrigger/proxy:1".into(),
        control_plane: "outrigger-control-plane.outrigger-system.svc.cluster.local:15010".into(),
        trust_domain: "cluster.local".into(),
        cluster_domain: "cluster.local".into(),
        capture: Capture::InitContainer,
        kubernetes_minor: 34,
        proxy_env: vec![("OTEL_EXPORTER_OTLP_ENDPOINT".into(), "http://jaeger:4317".into())],
    }
}
