//! The demo's mesh: one control plane, every instance of the shop, and a sidecar beside each.
//!
//! Each instance has ports of its own on loopback, picked free when the demo starts, and
//! keeps them when it is restarted, as a pod keeps its address.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use outrigger::process::Process;
use outrigger::{admin, ports};

use super::instance::Instance;
use super::shop::NAMESPACE;

/// How long a process may take to start or to stop.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How the mesh is started.
pub(super) struct Settings {
    /// Contains configuration, state and logs.
    pub(super) directory: PathBuf,
    /// Where the sidecars send spans.
    pub(super) spans_to: SocketAddr,
    /// The lifetime of certificates.
    pub(super) certificate_ttl: Duration,
    /// The share of requests that are traced.
    pub(super) sampling: f64,
    /// Whether applications are started by `outrigger run`, which redirects their connections.
    pub(super) transparent: bool,
}

/// Returns an error if applications cannot be started by `outrigger run` here, or cannot find or connect to addresses of services.
pub(super) fn can_redirect() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("--transparent needs root: it redirects connections".into());
    }
    let connected =
        UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.connect((Ipv4Addr::new(240, 0, 0, 1), 80)));
    connected.map_err(|error| {
        format!("--transparent needs a default route, for the addresses of services: {error}")
    })?;
    crate::run::name_service::problem().map_or(Ok(()), |problem| Err(format!("--transparent: {problem}")))
}

/// The running mesh.
pub(super) struct Mesh {
    settings: Settings,
    /// This binary, which contains every part of the mesh.
    program: PathBuf,
    control_plane: Option<Process>,
    control_plane_listen: SocketAddr,
    pub(super) control_plane_admin: SocketAddr,
    instances: Vec<Instance>,
}

impl Mesh {
    /// Writes the shop's config, starts everything, and waits until every sidecar is ready.
    pub(super) async fn start(settings: Settings) -> Result<Self, String> {
        let directory = &settings.directory;
        for part in ["config", "logs", "control-plane"] {
            std::fs::create_dir_all(directory.join(part))
                .map_err(|error| format!("cannot make {}: {error}", directory.join(part).display()))?;
        }
        super::shop::write(&directory.join("config"))?;
        let [control_plane_listen, control_plane_admin] = ports::free()?;
        let mut mesh = Self {
            program: std::env::current_exe()
                .map_err(|error| format!("cannot find the path of this program: {error}"))?,
            control_plane: None,
            control_plane_listen,
            control_plane_admin,
            instances: Instance::all()?,
            settings,
        };
        mesh.start_control_plane().await?;
        for index in 0..mesh.instances.len() {
            mesh.issue_token(index).await?;
            mesh.start_app(index)?;
            mesh.start_sidecar(index)?;
        }
        for index in 0..mesh.instances.len() {
            mesh.ready(index).await?;
        }
        Ok(mesh)
    }

    /// The instance of that name.
    pub(super) fn instance(&self, name: &str) -> Result<&Instance, String> {
        self.index(name).map(|index| &self.instances[index])
    }

    /// Every instance.
    pub(super) fn instances(&self) -> &[Instance] {
        &self.instances
    }

    /// Whether connections are redirected.
    pub(super) fn is_transparent(&self) -> bool {
        self.settings.transparent
    }

    /// Where the control plane reads its YAML.
    pub(super) fn config(&self) -> PathBuf {
        self.settings.directory.join("config")
    }

    /// Starts the control plane and waits until it is ready.
    pub(super) async fn start_control_plane(&mut self) -> Result<(), String> {
        let directory = &self.settings.directory;
        let args = vec![
            "control-plane".into(),
            "--config".into(),
            directory.join("config").into(),
            "--state-dir".into(),
            directory.join("control-plane").into(),
            "--listen".into(),
            self.control_plane_listen.to_string().into(),
            "--admin".into(),
            self.control_plane_admin.to_string().into(),
            "--certificate-ttl".into(),
            format!("{}s", self.settings.certificate_ttl.as_secs()).into(),
        ];
        let mut process = Process::start(&self.program, "control-plane", &self.logs(), args, &[])?;
        admin::wait_ready(self.control_plane_admin, &mut process, TIMEOUT).await?;
        self.control_plane = Some(process);
        Ok(())
    }

    /// SIGKILL for the control plane.
    pub(super) async fn kill_control_plane(&mut self) -> Result<(), String> {
        match self.control_plane.take() {
            Some(process) => process.kill().await,
            None => Err("the control plane does not run".into()),
        }
    }

    /// SIGKILL for an application and its sidecar, both at once.
    pub(super) async fn kill(&mut self, name: &str) -> Result<(), String> {
        let index = self.index(name)?;
        let instance = &mut self.instances[index];
        for process in [instance.sidecar.take(), instance.app.take()].into_iter().flatten() {
            process.kill().await?;
        }
        Ok(())
    }

    /// Starts what [`Mesh::kill`] or [`Mesh::restart`] stopped, and waits until it is ready.
    pub(super) async fn revive(&mut self, name: &str) -> Result<(), String> {
        let index = self.index(name)?;
        if self.instances[index].app.is_none() {
            self.start_app(index)?;
        }
        if self.instances[index].sidecar.is_none() {
            self.start_sidecar(index)?;
        }
        self.ready(index).await
    }

    /// One step of a rolling restart: the sidecar drains, the application stops, both start again.
    pub(super) async fn restart(&mut self, name: &str) -> Result<(), String> {
        self.stop_sidecar(name).await?;
        let index = self.index(name)?;
        if let Some(app) = self.instances[index].app.take() {
            app.terminate(TIMEOUT).await?;
        }
        self.revive(name).await
    }

    /// Stops the sidecar alone, with SIGTERM, and waits until it has drained.
    pub(super) async fn stop_sidecar(&mut self, name: &str) -> Result<(), String> {
        let index = self.index(name)?;
        match self.instances[index].sidecar.take() {
            Some(sidecar) => sidecar.terminate(TIMEOUT * 2).await,
            None => Err(format!("the sidecar of {name} does not run")),
        }
    }

    /// Kills all processes.
    pub(super) async fn stop(mut self) {
        for instance in &mut self.instances {
            for process in [instance.sidecar.take(), instance.app.take()].into_iter().flatten() {
                let _ = process.kill().await;
            }
        }
        let _ = self.kill_control_plane().await;
    }

    /// Returns an error if a process that should run has ended.
    pub(super) fn check_running(&mut self) -> Result<(), String> {
        let instances = self.instances.iter_mut().flat_map(|one| [&mut one.app, &mut one.sidecar]);
        instances.chain([&mut self.control_plane]).flatten().try_for_each(Process::check_running)
    }

    fn index(&self, name: &str) -> Result<usize, String> {
        self.instances.iter().position(|one| one.name == name).ok_or_else(|| format!("no instance {name}"))
    }

    fn logs(&self) -> PathBuf {
        self.settings.directory.join("logs")
    }

    /// Creates a join token with the command line that a user would use.
    async fn issue_token(&self, index: usize) -> Result<(), String> {
        let instance = &self.instances[index];
        let state = self.settings.directory.join(instance.name);
        std::fs::create_dir_all(&state)
            .map_err(|error| format!("cannot make {}: {error}", state.display()))?;
        let output = tokio::process::Command::new(&self.program)
            .args(["token", "create", "--namespace", NAMESPACE, "--ttl", "10m"])
            .args(["--service-account", instance.account])
            .arg("--state-dir")
            .arg(self.settings.directory.join("control-plane"))
            .output()
            .await
            .map_err(|error| format!("cannot create a token: {error}"))?;
        if !output.status.success() {
            return Err(format!("cannot create a token: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        std::fs::write(state.join("token"), output.stdout)
            .map_err(|error| format!("cannot save a token: {error}"))
    }

    fn start_app(&mut self, index: usize) -> Result<(), String> {
        let instance = &self.instances[index];
        // Else `outrigger run` starts it, when its sidecar is ready.
        let Some(args) = instance.app_args().filter(|_| !self.settings.transparent) else { return Ok(()) };
        let name = format!("{}-app", instance.name);
        self.instances[index].app = Some(Process::start(&self.program, &name, &self.logs(), args, &[])?);
        Ok(())
    }

    fn start_sidecar(&mut self, index: usize) -> Result<(), String> {
        let Settings { directory, spans_to, sampling, transparent, .. } = &self.settings;
        let instance = &self.instances[index];
        let mut args = instance.sidecar_args(self.control_plane_listen, directory);
        args.extend(["--trace-sampling".into(), sampling.to_string().into()]);
        let mut endpoint = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT".to_owned();
        match instance.captured_app_args().filter(|_| *transparent) {
            Some(app) => {
                args.insert(0, "run".into());
                endpoint.insert_str(0, "OUTRIGGER_PROXY_");
                // The files of the demo are root's.
                args.extend(["--proxy-user", "0", "--log-file", "-", "--"].map(OsString::from));
                args.push(self.program.clone().into());
                args.extend(app);
            }
            None => {
                args.insert(0, "proxy".into());
                args.extend(instance.explicit_args());
            }
        }
        let environment = [(endpoint, format!("http://{spans_to}"))];
        let name = format!("{}-sidecar", instance.name);
        let process = Process::start(&self.program, &name, &self.logs(), args, &environment)?;
        self.instances[index].sidecar = Some(process);
        Ok(())
    }

    async fn ready(&mut self, index: usize) -> Result<(), String> {
        let instance = &mut self.instances[index];
        let listens = instance.app_args().is_some();
        let Some(sidecar) = &mut instance.sidecar else {
            return Err(format!("the sidecar of {} does not run", instance.name));
        };
        admin::wait_ready(instance.admin, sidecar, TIMEOUT).await?;
        let application = instance.app.as_mut().unwrap_or(sidecar);
        if !listens {
            return Ok(());
        }
        wait_listening(instance.app_listen, application).await?;
        // `outrigger run` starts the application last: the workload is ready for callers when the sidecar has noticed it.
        let deadline = Instant::now() + TIMEOUT;
        while admin::text(instance.admin, "/ready").await?.contains("warning") {
            if Instant::now() > deadline {
                return Err(format!("the sidecar of {} does not reach its application", instance.name));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

async fn wait_listening(address: SocketAddr, process: &mut Process) -> Result<(), String> {
    let deadline = Instant::now() + TIMEOUT;
    while tokio::net::TcpStream::connect(address).await.is_err() {
        process.check_running()?;
        if Instant::now() > deadline {
            return Err(format!("nothing listens on {address} after {TIMEOUT:?}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Creates the directory of the demo, which only its owner may enter.
pub(super) fn directory() -> Result<tempfile::TempDir, String> {
    tempfile::Builder::new()
        .prefix("outrigger-demo-")
        .tempdir()
        .map_err(|error| format!("cannot make a directory for the demo: {error}"))
}
