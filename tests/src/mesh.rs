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

use crate::sidecar::{Setup, Workload};

const CERTIFICATE_TTL: Duration = Duration::from_secs(3600);
const LEASE: Duration = Duration::from_secs(60);

/// A mesh.
#[derive(Debug)]
pub struct Mesh {
    directory: tempfile::TempDir,
    certificate_ttl: Duration,
    listen: SocketAddr,
    admin: SocketAddr,
    control_plane: Option<ControlPlane>,
}

impl Mesh {
    /// Starts a control plane that has read `yaml`.
    pub async fn start(yaml: &str) -> Self {
        Self::with_certificates_for(CERTIFICATE_TTL, yaml).await
    }

    /// Starts a control plane whose certificates live so long.
    pub async fn with_certificates_for(certificate_ttl: Duration, yaml: &str) -> Self {
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

    /// Stops the control plane: its streams end, its port is closed.
    pub async fn stop_control_plane(&mut self) {
        self.control_plane.take().expect("a control plane that runs").shut_down().await;
    }

    /// Writes a file of configuration, as an editor does: whole, or not at all.
    pub fn write(&self, file: &str, yaml: &str) {
        let path = self.directory.path().join("config").join(file);
        let beside = path.with_extension("new");
        std::fs::write(&beside, yaml).unwrap();
        std::fs::rename(&beside, &path).unwrap();
    }

    /// What the control plane says of itself and of every proxy.
    pub async fn status(&self) -> Status {
        status::fetch(&AdminAddress::Tcp(self.admin)).await.unwrap()
    }

    /// A page of the control plane's admin endpoint.
    pub async fn page(&self, path: &str) -> String {
        let page = ask(&AdminAddress::Tcp(self.admin), path, None).await.unwrap();
        String::from_utf8(page.to_vec()).unwrap()
    }

    /// Waits until the control plane refuses something whose description contains `text`, and returns all of it.
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

    /// A join token.
    pub async fn token(&self, namespace: &str, service_account: &str) -> String {
        let request = TokenRequest {
            namespace: namespace.into(),
            service_account: service_account.into(),
            ttl_seconds: 600,
        };
        token::create(&self.state(), &request).await.unwrap()
    }

    /// A sidecar of a workload of namespace `shop`, to be described further. Account and instance have the same name.
    pub fn sidecar(&self, account: &str) -> Setup<'_> {
        Setup::new(self, Workload::new("shop", account))
    }

    /// Where proxies connect.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// The roots by which proxies know the control plane.
    pub fn roots(&self) -> PathBuf {
        self.state().join("roots.pem")
    }

    /// The directory of this test.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("control-plane")
    }
}

/// A Service of namespace `shop` with one port; `protocol` is its appProtocol, none if empty.
pub fn service(name: &str, port: u16, protocol: &str) -> String {
    service_in("shop", name, port, protocol)
}

/// A Service with one port.
pub fn service_in(namespace: &str, name: &str, port: u16, protocol: &str) -> String {
    let protocol = if protocol.is_empty() { String::new() } else { format!(", appProtocol: {protocol}") };
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{ports: [{{port: {port}{protocol}}}]}}\n"
    )
}

/// An HTTPRoute that is attached to port 80 of the Service `parent` of namespace `shop`.
pub fn http_route(namespace: &str, name: &str, parent: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  parentRefs: [{{group: \"\", kind: Service, name: {parent}, namespace: shop, port: 80}}]\n  rules:\n{rules}\n"
    )
}
