//! The control planes that are measured: Outrigger's, and a small one on go-control-plane (`benches/peers/go-control-plane`), which
//! serves the same services and neither signs certificates nor reads files.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outrigger::process::Process;
use outrigger::{admin, ports};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::fleet::{Fleet, SHARED};
use crate::compare::{Certificates, find_program};
use crate::connection::{ControlPlane, Credential};
use crate::mesh::Mesh;

/// The first port of the shared endpoint, which nobody calls.
pub(super) const FIRST_PORT: u16 = 20_000;
const PATIENCE: Duration = Duration::from_secs(120);

/// A control plane that serves a number of services: `shared` and `s0` to the last.
pub(super) enum Subject<'run> {
    Outrigger { mesh: Mesh<'run>, services: usize },
    GoControlPlane(GoControlPlane),
}

/// See [`Subject`].
pub(super) struct GoControlPlane {
    program: PathBuf,
    directory: PathBuf,
    /// Both sides of all connections have the same certificate.
    certificates: Certificates,
    listen: SocketAddr,
    admin: SocketAddr,
    services: usize,
}

impl<'run> Subject<'run> {
    /// Writes the configuration of the binary `outrigger` into `directory`.
    pub(super) fn outrigger(
        outrigger: &'run Path,
        directory: &'run Path,
        services: usize,
    ) -> Result<Self, String> {
        let mesh = Mesh::new(outrigger, directory)?;
        for service in 0..services.saturating_sub(1) {
            mesh.write(service, 0)?;
        }
        write_shared(&mesh, FIRST_PORT)?;
        Ok(Self::Outrigger { mesh, services })
    }

    /// Returns None if it is not installed.
    pub(super) fn go_control_plane(directory: &Path, services: usize) -> Result<Option<Self>, String> {
        let Some(program) = find_program("peer-go-control-plane") else { return Ok(None) };
        let directory = directory.join("go-control-plane");
        std::fs::create_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let certificates = Certificates::create(&directory)?;
        let [listen, admin] = ports::free()?;
        Ok(Some(Self::GoControlPlane(GoControlPlane {
            program,
            directory,
            certificates,
            listen,
            admin,
            services,
        })))
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Outrigger { .. } => "Outrigger",
            Self::GoControlPlane(_) => "go-control-plane",
        }
    }

    /// Whether it signs the certificates of its proxies.
    pub(super) fn signs(&self) -> bool {
        matches!(self, Self::Outrigger { .. })
    }

    /// Starts it and waits until it is ready.
    pub(super) async fn start(&self) -> Result<Process, String> {
        match self {
            Self::Outrigger { mesh, services: _ } => mesh.control_plane().await,
            Self::GoControlPlane(peer) => peer.start().await,
        }
    }

    /// Prepares that many proxies.
    pub(super) async fn fleet(&self, proxies: usize) -> Result<Fleet, String> {
        match self {
            Self::Outrigger { mesh, services } => {
                let state = mesh.directory.join("control-plane");
                Fleet::prepare(mesh.listen, &state, proxies, *services).await
            }
            Self::GoControlPlane(GoControlPlane { certificates, listen, services, .. }) => {
                let text = |error: rustls_pki_types::pem::Error| error.to_string();
                let chain = CertificateDer::pem_file_iter(&certificates.chain).map_err(text)?;
                let credential = Credential {
                    chain: chain.collect::<Result<_, _>>().map_err(text)?,
                    key: PrivateKeyDer::from_pem_file(&certificates.key).map_err(text)?,
                };
                let control_plane = ControlPlane::new(*listen, &certificates.roots)?;
                Ok(Fleet::with_certificate(control_plane, &credential, proxies, *services))
            }
        }
    }

    /// Changes the shared endpoint.
    pub(super) async fn change(&self, port: u16) -> Result<(), String> {
        match self {
            Self::Outrigger { mesh, services: _ } => write_shared(mesh, port),
            Self::GoControlPlane(peer) => {
                let answer = admin::post(peer.admin, &format!("/endpoint?port={port}")).await?;
                match answer.status() {
                    http::StatusCode::OK => Ok(()),
                    status => Err(format!("the shared endpoint cannot be changed: {status}")),
                }
            }
        }
    }
}

fn write_shared(mesh: &Mesh<'_>, port: u16) -> Result<(), String> {
    mesh.write_plain(SHARED, "http", SocketAddr::from(([127, 0, 0, 1], port)))
}

impl GoControlPlane {
    async fn start(&self) -> Result<Process, String> {
        let Certificates { roots, chain, key, .. } = &self.certificates;
        let flag = |name: &str, value: &dyn std::fmt::Display| format!("--{name}={value}").into();
        let args = vec![
            flag("listen", &self.listen),
            flag("admin", &self.admin),
            flag("services", &self.services),
            flag("roots", &roots.display()),
            flag("chain", &chain.display()),
            flag("key", &key.display()),
        ];
        let mut process = Process::start(&self.program, "go-control-plane", &self.directory, args, &[])?;
        admin::wait_ready(self.admin, &mut process, PATIENCE).await?;
        Ok(process)
    }
}
