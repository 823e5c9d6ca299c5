//! What the operator decides for all pods: image, domains, capture, and the version of the cluster.

use clap::ValueEnum;

use super::layout::MESH_NAMESPACE;

/// The image of this version.
const PROXY_IMAGE: &str = concat!("outrigger/proxy:", env!("CARGO_PKG_VERSION"));
const INJECTION: &str = "Injection";

/// The flags of injection, which the control plane and `outrigger inject` have.
#[derive(Debug, Clone, clap::Args)]
pub struct InjectionArgs {
    /// Image of the sidecar and of the container that sets up the redirection.
    #[arg(long, value_name = "IMAGE", default_value = PROXY_IMAGE, help_heading = INJECTION)]
    pub proxy_image: String,
    /// Environment variable of every sidecar, as in OTEL_EXPORTER_OTLP_ENDPOINT=http://collector.monitoring:4317; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", help_heading = INJECTION, value_parser = parse_env)]
    pub proxy_env: Vec<(String, String)>,
    /// How a pod's connections are redirected to its sidecar.
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Capture::InitContainer, help_heading = INJECTION)]
    pub capture: Capture,
}

impl InjectionArgs {
    /// Returns the settings for a cluster of version 1.`kubernetes_minor`.
    pub fn settings(self, trust_domain: &str, cluster_domain: &str, kubernetes_minor: u32) -> Settings {
        let Self { proxy_image, proxy_env, capture } = self;
        Settings {
            proxy_image,
            control_plane: format!("outrigger-control-plane.{MESH_NAMESPACE}.svc.{cluster_domain}:15010"),
            trust_domain: trust_domain.to_owned(),
            cluster_domain: cluster_domain.to_owned(),
            capture,
            kubernetes_minor,
            proxy_env,
        }
    }
}

/// The settings of injection. They are the same for every pod of a mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The image of the sidecar, which is also that of the capture container.
    pub proxy_image: String,
    /// Where sidecars connect, `HOST:PORT`.
    pub control_plane: String,
    /// The trust domain of the mesh.
    pub trust_domain: String,
    /// The DNS domain of the cluster.
    pub cluster_domain: String,
    /// How connections are redirected.
    pub capture: Capture,
    /// The minor version of the cluster, as in 34 for Kubernetes 1.34.
    pub kubernetes_minor: u32,
    /// Environment variables of every sidecar, such as those of OpenTelemetry.
    pub proxy_env: Vec<(String, String)>,
}

/// How a pod's connections are redirected to its sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Capture {
    /// By an init container with NET_ADMIN.
    InitContainer,
    /// By the CNI plugin; an init container without privileges verifies it.
    Cni,
}

impl Settings {
    /// Returns whether init containers can have `restartPolicy: Always` (KEP-753, on by default since 1.29).
    pub(super) fn has_native_sidecars(&self) -> bool {
        self.kubernetes_minor >= 29
    }

    /// Returns whether a lifecycle hook can be a sleep (KEP-3960, on by default since 1.30).
    pub(super) fn has_sleep_hook(&self) -> bool {
        self.kubernetes_minor >= 30
    }
}

/// Parses `NAME=VALUE`.
fn parse_env(text: &str) -> Result<(String, String), String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && name.bytes().all(legal) => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => {
            Err("the form is NAME=VALUE, as in OTEL_EXPORTER_OTLP_ENDPOINT=http://collector.monitoring:4317"
                .to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_a_name_and_a_value() {
        assert_eq!(parse_env("A_1=b=c"), Ok(("A_1".into(), "b=c".into())));
        assert_eq!(parse_env("A="), Ok(("A".into(), String::new())));
        for text in ["A", "=b", "A B=c", "A-B=c"] {
            assert!(parse_env(text).is_err(), "{text}");
        }
    }
}
