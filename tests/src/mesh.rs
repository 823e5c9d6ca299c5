//! The control plane of a test, with its configuration and its state in a temporary directory.
//!
//! It keeps its ports through restarts, so that sidecars find it again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outrigger_control_plane::admin_client::{AdminAddress, ask};
use outrigger_control_plane::run::control_plane::ControlPlane;
use outrigger_control_plane::run::settings::Settings;
use outrigger_control_plane::status::{self, Status};
use outrigger_control_plane::token::{self, TokenRequest};
use outrigger_test_support::wait::eventually;

use crate::sidecar::{SidecarBuilder, Workload};

const CERTIFICATE_TTL: Duration = Duration::from_secs(3600);
const LEASE: Duration = Duration::from_secs(60);

/// A control plane, and the directory of everything that belongs to its mesh.
#[derive(Debug)]
pub struct Mesh {
    directory: tempfile::TempDir,
    certificate_ttl: Duration,
    listen: SocketAddr,
    admin: SocketAddr,
    control_plane: Option<ControlPlane>,
}

impl Mesh {
    /// Starts a control plane with the configuration `yaml`.
    pub async fn start(yaml: &str) -> Self {
        Self::with_certificate_ttl(CERTIFICATE_TTL, yaml).await
    }

    /// Starts a control plane whose certificates have this lifetime.
    pub async fn with_certificate_ttl(certificate_ttl: Duration, yaml: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("config")).unwrap();
        let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut mesh = Self { directory, certificate_ttl, listen: free, admin: free, control_plane: None };
        mesh.write("mesh.yaml", yaml);
        mesh.start_control_plane().await;
        mesh
    }

    /// Starts the control plane again.
    pub async fn start_control_plane(&mut self) {
        let (config, state) = (self.directory.path().join("config"), self.state());
        let settings = Settings::new(config, state, self.listen, self.admin, "cluster.local")
            .and_then(|settings| settings.with_lifetimes(self.certificate_ttl, LEASE))
            .unwrap();
        let control_plane = ControlPlane::start(settings).await.unwrap();
        (self.listen, self.admin) = (control_plane.listen(), control_plane.admin());
        self.control_plane = Some(control_plane);
    }

    /// Stops the control plane: its streams end and its port is closed.
    pub async fn stop_control_plane(&mut self) {
        self.control_plane.take().expect("a control plane that runs").shut_down().await;
    }

    /// Writes a configuration file atomically, as editors do.
    pub fn write(&self, file: &str, yaml: &str) {
        let path = self.directory.path().join("config").join(file);
        let beside = path.with_extension("new");
        std::fs::write(&beside, yaml).unwrap();
        std::fs::rename(&beside, &path).unwrap();
    }

    /// Fetches the status of the control plane.
    pub async fn status(&self) -> Status {
        status::fetch(&AdminAddress::Tcp(self.admin)).await.unwrap()
    }

    /// Fetches a page of the control plane's admin endpoint.
    pub async fn page(&self, path: &str) -> String {
        let page = ask(&AdminAddress::Tcp(self.admin), path, None).await.unwrap();
        String::from_utf8(page.to_vec()).unwrap()
    }

    /// Waits until the control plane reports a refusal that contains `text`, and returns it.
    pub async fn refusal(&self, text: &str) -> String {
        eventually(&format!("a refusal with {text:?}"), async || {
            self.status().await.refusals.into_iter().find(|refusal| refusal.contains(text))
        })
        .await
    }

    /// Waits until this instance is registered and ready.
    pub async fn registered(&self, instance: &str) {
        eventually("a registration", async || {
            let registrations = self.status().await.registrations;
            registrations.iter().find(|one| one.instance == instance && one.health == "ready").map(drop)
        })
        .await;
    }

    /// Creates a join token.
    pub async fn token(&self, namespace: &str, service_account: &str) -> String {
        let request = TokenRequest {
            namespace: namespace.into(),
            service_account: service_account.into(),
            ttl_seconds: 600,
        };
        token::create(&self.state(), &request).await.unwrap()
    }

    /// Builds a sidecar of a workload in namespace `shop`. The instance has the name of the service account.
    pub fn sidecar(&self, account: &str) -> SidecarBuilder<'_> {
        SidecarBuilder::new(self, Workload::new("shop", account))
    }

    /// Returns the address to which proxies connect.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Returns the file of the roots with which proxies verify the control plane.
    pub fn roots(&self) -> PathBuf {
        self.state().join("roots.pem")
    }

    /// Returns the directory of this test.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("control-plane")
    }
}

/// Returns a Service of namespace `shop` with one port. `protocol` is its `appProtocol`, which is absent if it is empty.
pub fn service(name: &str, port: u16, protocol: &str) -> String {
    service_in("shop", name, port, protocol)
}

/// Returns a Service with one port.
pub fn service_in(namespace: &str, name: &str, port: u16, protocol: &str) -> String {
    let protocol = if protocol.is_empty() { String::new() } else { format!(", appProtocol: {protocol}") };
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{ports: [{{port: {port}{protocol}}}]}}\n"
    )
}

/// Returns an HTTPRoute that is attached to port 80 of the Service `parent` of namespace `shop`.
pub fn http_route(namespace: &str, name: &str, parent: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  parentRefs: [{{group: \"\", kind: Service, name: {parent}, namespace: shop, port: 80}}]\n  rules:\n{rules}\n"
    )
}
