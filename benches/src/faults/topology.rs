//! The processes under load: three endpoints and the proxies in front of them. Dropping a topology kills all of them.
//!
//! Each process has its own address, so that a rule can affect one endpoint: applications 127.0.1.N, sidecars 127.0.2.N.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Method;
use outrigger::admin;
use outrigger::process::Process;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::endpoint::Behaviour;
use super::exchange::{PATIENCE, ask};
use super::proxy::Proxy;
use super::{peers, processes};

/// Number of endpoints.
pub(super) const ENDPOINTS: u8 = 3;

const CONTROL_PLANE: SocketAddr = local(15010);
const CONTROL_PLANE_ADMIN: SocketAddr = local(15011);
/// The address that gets the load.
pub(super) const TARGET: SocketAddr = local(15001);
/// The address of a second caller, with an identity of its own if the proxy is a sidecar.
const SECOND: SocketAddr = local(15002);
const FRONT_ADMIN: SocketAddr = local(15020);
const SECOND_ADMIN: SocketAddr = local(15021);

const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Returns the address of the application of endpoint `number`, from 1.
pub(super) fn application(number: u8) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 1, number), 8080).into()
}

/// The address of the application that those of the endpoints ask.
fn asked() -> SocketAddr {
    (Ipv4Addr::new(127, 0, 3, 1), 8080).into()
}

/// Returns the inbound address of the sidecar of endpoint `number`.
pub(super) fn inbound(number: u8) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 2, number), 18080).into()
}

/// Options of a topology.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// The `outrigger` binary.
    pub(super) outrigger: PathBuf,
    /// The lifetime of certificates.
    pub(super) certificate_ttl: Duration,
    /// Number of concurrent requests of each application.
    pub(super) concurrency: usize,
    /// The same of the application that they ask, if there is one.
    pub(super) asked: Option<usize>,
}

/// The processes under load.
#[derive(Debug)]
pub(super) struct Topology {
    settings: Settings,
    proxy: Proxy,
    directory: tempfile::TempDir,
    applications: Vec<Child>,
    /// The application that these ask, and the proxies beside them.
    others: Vec<Child>,
    control_plane: Option<Process>,
    sidecars: Vec<Option<Process>>,
    clients: Vec<Process>,
    peer: Option<Child>,
}

impl Topology {
    /// Starts all processes and waits until requests can be sent. Returns an error if one does not start.
    pub(super) async fn start(proxy: &Proxy, settings: Settings) -> Result<Self, String> {
        let directory = tempfile::Builder::new()
            .prefix("outrigger-faults-")
            .tempdir()
            .map_err(|error| format!("no temporary directory: {error}"))?;
        let mut topology = Self {
            settings,
            proxy: proxy.clone(),
            directory,
            applications: Vec::new(),
            others: Vec::new(),
            control_plane: None,
            sidecars: Vec::new(),
            clients: Vec::new(),
            peer: None,
        };
        topology.start_applications().await?;
        match proxy {
            Proxy::Plain | Proxy::Mesh | Proxy::Limit(_) => topology.start_outrigger().await?,
            Proxy::Envoy(program) | Proxy::EnvoyAdaptive(program) => {
                let adaptive = matches!(proxy, Proxy::EnvoyAdaptive(_));
                topology.peer = Some(peers::envoy(program, topology.directory.path(), adaptive).await?);
            }
            Proxy::Haproxy(program) => {
                topology.peer = Some(peers::haproxy(program, topology.directory.path()).await?);
            }
        }
        Ok(topology)
    }

    /// Kills all processes and waits for their ends, which frees their addresses.
    pub(super) async fn stop(mut self) -> Result<(), String> {
        let sidecars = self.sidecars.drain(..).flatten();
        for process in sidecars.chain(self.clients.drain(..)).chain(self.control_plane.take()) {
            process.kill().await?;
        }
        for mut child in self.applications.drain(..).chain(self.others.drain(..)).chain(self.peer.take()) {
            child.kill().await.map_err(|error| format!("cannot kill a process: {error}"))?;
        }
        Ok(())
    }

    /// Returns the address of endpoint `number` for the proxy under load.
    pub(super) fn endpoint(&self, number: u8) -> SocketAddr {
        match self.proxy {
            Proxy::Mesh | Proxy::Limit(_) => inbound(number),
            _ => application(number),
        }
    }

    /// Sends a signal to the application of endpoint `number`.
    pub(super) fn signal_application(&self, number: u8, signal: Signal) -> Result<(), String> {
        let child = self.applications.get(usize::from(number) - 1).ok_or("no such endpoint")?;
        let pid = child.id().and_then(|id| Pid::from_raw(id as i32)).ok_or("the application has ended")?;
        kill_process(pid, signal).map_err(|error| format!("cannot signal an application: {error}"))
    }

    /// Sends a signal to the sidecar of endpoint `number`, if it has one.
    pub(super) fn signal_sidecar(&self, number: u8, signal: Signal) -> Result<(), String> {
        match self.sidecars.get(usize::from(number) - 1) {
            Some(Some(sidecar)) => sidecar.signal(signal),
            _ => Ok(()),
        }
    }

    /// Ends the sidecar of endpoint `number` with SIGTERM or SIGKILL, restarts it and waits until it is ready.
    pub(super) async fn restart_sidecar(&mut self, number: u8, graceful: bool) -> Result<(), String> {
        let slot = self.sidecars.get_mut(usize::from(number) - 1).ok_or("no such sidecar")?;
        match slot.take() {
            Some(sidecar) if graceful => sidecar.terminate(PATIENCE).await?,
            Some(sidecar) => sidecar.kill().await?,
            None => return Err("the sidecar does not run".into()),
        }
        let sidecar = self.start_sidecar(number).await?;
        self.sidecars[usize::from(number) - 1] = Some(sidecar);
        Ok(())
    }

    /// Kills the control plane with SIGKILL.
    pub(super) async fn kill_control_plane(&mut self) -> Result<(), String> {
        self.control_plane.take().ok_or("the control plane does not run")?.kill().await
    }

    /// Starts the control plane and waits until it is ready.
    pub(super) async fn start_control_plane(&mut self) -> Result<(), String> {
        let directory = self.directory.path();
        let args = flags(
            "control-plane",
            &[
                ("--config", directory.join("config").into()),
                ("--state-dir", directory.join("control-plane").into()),
                ("--listen", CONTROL_PLANE.to_string().into()),
                ("--admin", CONTROL_PLANE_ADMIN.to_string().into()),
                ("--certificate-ttl", format!("{}s", self.settings.certificate_ttl.as_secs()).into()),
            ],
        );
        let mut process = Process::start(&self.settings.outrigger, "control-plane", directory, args, &[])?;
        admin::wait_ready(CONTROL_PLANE_ADMIN, &mut process, PATIENCE).await?;
        self.control_plane = Some(process);
        Ok(())
    }

    /// Writes a `revision` of a service without traffic, as an operator's tool would.
    pub(super) fn write_other(&self, revision: u32) -> Result<(), String> {
        let yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: other, namespace: shop}}\n\
             spec: {{ports: [{{name: main, port: {}, appProtocol: http}}]}}\n",
            8000 + revision
        );
        self.write("other.yaml", &yaml)
    }

    /// Configures the application of endpoint `number`.
    pub(super) async fn behave(&self, number: u8, behaviour: Behaviour) -> Result<(), String> {
        ask(application(number), Method::PUT, &behaviour.path()).await.map(drop)
    }

    /// Configures the application that those of the endpoints ask.
    pub(super) async fn behave_asked(&self, behaviour: Behaviour) -> Result<(), String> {
        ask(asked(), Method::PUT, &behaviour.path()).await.map(drop)
    }

    /// Returns the number of requests that all applications have executed.
    pub(super) async fn executed(&self) -> Result<u64, String> {
        let mut sum = 0;
        for number in 1..=ENDPOINTS {
            let text = ask(application(number), Method::GET, "/executed").await?;
            sum += text.parse::<u64>().map_err(|_| format!("{text:?} is no number"))?;
        }
        Ok(sum)
    }

    async fn start_applications(&mut self) -> Result<(), String> {
        let Settings { concurrency, asked: threads, .. } = self.settings;
        if let Some(threads) = threads {
            self.others.push(processes::application(asked(), threads, None).await?);
        }
        let asks = threads.map(|_| asked());
        for number in 1..=ENDPOINTS {
            self.applications.push(processes::application(application(number), concurrency, asks).await?);
            if let Proxy::Limit(algorithm) = self.proxy {
                let (listen, to) = (inbound(number), application(number));
                self.others.push(processes::limit(listen, to, algorithm, concurrency).await?);
            }
        }
        Ok(())
    }

    async fn start_outrigger(&mut self) -> Result<(), String> {
        std::fs::create_dir(self.directory.path().join("config")).map_err(|error| error.to_string())?;
        let endpoints: Vec<_> = (1..=ENDPOINTS).map(|number| self.endpoint(number)).collect();
        self.write("shop.yaml", &service(if self.proxy == Proxy::Mesh { &[] } else { &endpoints }))?;
        self.start_control_plane().await?;
        if self.proxy == Proxy::Mesh {
            for number in 1..=ENDPOINTS {
                let sidecar = self.start_sidecar(number).await?;
                self.sidecars.push(Some(sidecar));
            }
        }
        self.start_client("client", FRONT_ADMIN, TARGET).await
    }

    /// Starts the sidecar of the second caller. Returns the address that gets its load.
    pub(super) async fn start_second(&mut self) -> Result<SocketAddr, String> {
        if !matches!(self.proxy, Proxy::Mesh | Proxy::Limit(_)) {
            return Ok(TARGET);
        }
        self.start_client("second", SECOND_ADMIN, SECOND).await?;
        Ok(SECOND)
    }

    async fn start_client(
        &mut self,
        name: &str,
        admin: SocketAddr,
        outbound: SocketAddr,
    ) -> Result<(), String> {
        let args = self.sidecar_flags(name, name, admin, outbound).await?;
        let mut client = self.start_process(name, args)?;
        admin::wait_ready(admin, &mut client, PATIENCE).await?;
        self.clients.push(client);
        Ok(())
    }

    async fn start_sidecar(&self, number: u8) -> Result<Process, String> {
        let name = format!("shop-{number}");
        let (admin, outbound) = (local(15100 + u16::from(number)), local(15200 + u16::from(number)));
        let mut args = self.sidecar_flags(&name, "shop", admin, outbound).await?;
        let service = format!("shop:80={},listen={}", application(number), inbound(number));
        args.extend(["--service".into(), service.into()]);
        let mut sidecar = self.start_process(&name, args)?;
        admin::wait_ready(admin, &mut sidecar, PATIENCE).await?;
        Ok(sidecar)
    }

    fn start_process(&self, name: &str, args: Vec<OsString>) -> Result<Process, String> {
        Process::start(&self.settings.outrigger, name, self.directory.path(), args, &[])
    }

    async fn sidecar_flags(
        &self,
        name: &str,
        account: &str,
        admin: SocketAddr,
        outbound: SocketAddr,
    ) -> Result<Vec<OsString>, String> {
        let control_plane = self.directory.path().join("control-plane");
        let token_file = self.directory.path().join(format!("{name}.token"));
        if !token_file.exists() {
            self.create_token(&control_plane, account, &token_file).await?;
        }
        Ok(flags(
            "proxy",
            &[
                ("--control-plane", CONTROL_PLANE.to_string().into()),
                ("--control-plane-ca", control_plane.join("roots.pem").into()),
                ("--token-file", token_file.into()),
                ("--state-dir", self.directory.path().join(name).into()),
                ("--instance", name.into()),
                ("--admin", admin.to_string().into()),
                ("--outbound", outbound.to_string().into()),
                ("--access-log", "off".into()),
            ],
        ))
    }

    async fn create_token(&self, state: &Path, account: &str, file: &Path) -> Result<(), String> {
        let output = Command::new(&self.settings.outrigger)
            .args(["token", "create", "--namespace", "shop", "--service-account", account, "--ttl", "1h"])
            .arg("--state-dir")
            .arg(state)
            .output()
            .await
            .map_err(|error| format!("cannot create a token: {error}"))?;
        if !output.status.success() {
            return Err(format!("cannot create a token: {}", String::from_utf8_lossy(&output.stderr)));
        }
        std::fs::write(file, output.stdout).map_err(|error| format!("{}: {error}", file.display()))
    }

    /// Replaces a file of the control plane's configuration atomically.
    fn write(&self, name: &str, yaml: &str) -> Result<(), String> {
        let path = self.directory.path().join("config").join(name);
        let beside = path.with_extension("new");
        std::fs::write(&beside, yaml)
            .and_then(|()| std::fs::rename(&beside, &path))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    }
}

/// Returns the Service, with its endpoints if no sidecar registers them.
fn service(endpoints: &[SocketAddr]) -> String {
    let service = "apiVersion: v1
kind: Service
metadata: {name: shop, namespace: shop}
spec: {ports: [{name: main, port: 80, appProtocol: http}]}
";
    let Some(first) = endpoints.first() else { return service.into() };
    let addresses: String =
        endpoints.iter().map(|endpoint| format!("- {{addresses: [\"{}\"]}}\n", endpoint.ip())).collect();
    format!(
        "{service}---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: shop
  namespace: shop
  labels: {{kubernetes.io/service-name: shop}}
addressType: IPv4
ports: [{{name: main, port: {}, protocol: TCP}}]
endpoints:
{addresses}",
        first.port()
    )
}

fn flags(command: &str, flags: &[(&str, OsString)]) -> Vec<OsString> {
    let mut args = vec![OsString::from(command)];
    for (flag, value) in flags {
        args.extend([(*flag).into(), value.clone()]);
    }
    args
}
