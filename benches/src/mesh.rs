//! A small mesh of real processes, for benches: a control plane, a server's and a client's sidecar, on free ports of loopback.
//!
//! Used by all benches that need a control plane. The sidecars log no requests unless a flag says otherwise. Whatever cannot be written or
//! started is an error.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outrigger::process::Process;
use outrigger::{admin, ports};

/// Number of services whose endpoints the server's sidecar registers.
pub(crate) const USED: usize = 5;
const PATIENCE: Duration = Duration::from_secs(120);

/// A service with one endpoint, which changes with `revision`; the first [`USED`] have only registered endpoints.
pub(crate) fn service(number: usize, revision: usize) -> String {
    let (high, low) = (number / 250 % 250, number % 250 + 1);
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: s{number}, namespace: mesh}}
spec: {{ports: [{{name: main, port: 80, appProtocol: http}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: s{number}
  namespace: mesh
  labels: {{kubernetes.io/service-name: s{number}}}
addressType: IPv4
ports: [{{name: main, port: {}, protocol: TCP}}]
endpoints: [{}]
",
        8080 + revision,
        if number < USED { String::new() } else { format!("{{addresses: [\"10.9.{high}.{low}\"]}}") },
    )
}

/// A control plane, two sidecars and an application, on free ports of loopback.
pub(crate) struct Mesh<'run> {
    outrigger: &'run Path,
    /// The program of the sidecars: `outrigger`, or a script that runs it.
    pub(crate) sidecar: PathBuf,
    pub(crate) directory: &'run Path,
    pub(crate) listen: SocketAddr,
    admin: SocketAddr,
    pub(crate) app: SocketAddr,
    pub(crate) inbound: SocketAddr,
    server_admin: SocketAddr,
    server_outbound: SocketAddr,
    client_admin: SocketAddr,
    pub(crate) outbound: SocketAddr,
}

impl<'run> Mesh<'run> {
    pub(crate) fn new(outrigger: &'run Path, directory: &'run Path) -> Result<Self, String> {
        std::fs::create_dir(directory.join("config")).map_err(|error| error.to_string())?;
        let [listen, admin, app, inbound, server_admin, server_outbound, client_admin, outbound] =
            ports::free()?;
        Ok(Self {
            outrigger,
            sidecar: outrigger.to_owned(),
            directory,
            listen,
            admin,
            app,
            inbound,
            server_admin,
            server_outbound,
            client_admin,
            outbound,
        })
    }

    /// Writes a service with one endpoint, which changes with `revision`.
    pub(crate) fn write(&self, number: usize, revision: usize) -> Result<(), String> {
        self.write_file(&format!("s{number}"), &service(number, revision))
    }

    /// Replaces a file of the control plane's directory.
    pub(crate) fn write_file(&self, name: &str, yaml: &str) -> Result<(), String> {
        let path = self.directory.join("config").join(format!("{name}.yaml"));
        let beside = path.with_extension("new");
        std::fs::write(&beside, yaml)
            .and_then(|()| std::fs::rename(&beside, &path))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    }

    /// Writes a service whose endpoint is an application without a sidecar.
    pub(crate) fn write_plain(&self, name: &str, protocol: &str, app: SocketAddr) -> Result<(), String> {
        let yaml = format!(
            "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: mesh}}
spec: {{ports: [{{name: main, port: 80, appProtocol: {protocol}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}
  namespace: mesh
  labels: {{kubernetes.io/service-name: {name}}}
addressType: IPv4
ports: [{{name: main, port: {}, protocol: TCP}}]
endpoints: [{{addresses: [\"{}\"]}}]
",
            app.port(),
            app.ip(),
        );
        self.write_file(name, &yaml)
    }

    pub(crate) async fn control_plane(&self) -> Result<Process, String> {
        let mut process = self.start(
            "control-plane",
            &["control-plane"],
            &[
                ("--config", self.directory.join("config").into()),
                ("--state-dir", self.directory.join("control-plane").into()),
                ("--listen", self.listen.to_string().into()),
                ("--admin", self.admin.to_string().into()),
            ],
        )?;
        admin::wait_ready(self.admin, &mut process, PATIENCE).await?;
        Ok(process)
    }

    pub(crate) async fn server(&self) -> Result<Process, String> {
        let services: Vec<_> = (0..USED).map(|service| (format!("s{service}"), self.inbound)).collect();
        self.serve(&services).await
    }

    /// Starts the server's sidecar with these services, each with a listener of its own.
    pub(crate) async fn server_of(&self, services: &[String]) -> Result<Process, String> {
        // All of 127.0.0.0/8 is this machine.
        let listen = |(at, name): (usize, &String)| {
            let host =
                u8::try_from(at + 1).map_err(|_| format!("{} services are too many", services.len()))?;
            Ok::<_, String>((name.clone(), SocketAddr::from(([127, 0, 1, host], self.inbound.port()))))
        };
        self.serve(&services.iter().enumerate().map(listen).collect::<Result<Vec<_>, _>>()?).await
    }

    async fn serve(&self, services: &[(String, SocketAddr)]) -> Result<Process, String> {
        let services = services
            .iter()
            .map(|(name, listen)| ("--service", format!("{name}:80={},listen={listen}", self.app).into()));
        let mut flags = self.sidecar_flags("server", self.server_admin, self.server_outbound)?;
        flags.extend(services);
        let mut sidecar = self.start("server", &["proxy"], &flags)?;
        admin::wait_ready(self.server_admin, &mut sidecar, PATIENCE).await?;
        Ok(sidecar)
    }

    /// Starts the client's sidecar, with flags that replace its own of the same name. It sends spans of a part (0 to 1) of its requests to a
    /// collector, if there is one.
    pub(crate) async fn client(
        &self,
        more: &[(&'static str, OsString)],
        tracing: Option<(f64, SocketAddr)>,
    ) -> Result<Process, String> {
        let mut flags = self.sidecar_flags("client", self.client_admin, self.outbound)?;
        flags.retain(|(flag, _)| more.iter().all(|(other, _)| other != flag));
        flags.extend_from_slice(more);
        let mut exporter = Vec::new();
        if let Some((sampling, collector)) = tracing {
            flags.push(("--trace-sampling", sampling.to_string().into()));
            exporter.push(("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT".to_owned(), format!("http://{collector}")));
        }
        let mut sidecar = self.start_with("client", &["proxy"], &flags, &exporter)?;
        admin::wait_ready(self.client_admin, &mut sidecar, PATIENCE).await?;
        Ok(sidecar)
    }

    /// Starts the service of global limits with a file of one domain.
    pub(crate) fn rate_limit(&self, listen: SocketAddr, limits: &str) -> Result<Process, String> {
        let file = self.directory.join("limits.yaml");
        std::fs::write(&file, limits).map_err(|error| error.to_string())?;
        let args = vec!["rate-limit".into(), "--listen".into(), listen.to_string().into(), file.into()];
        Process::start(self.outrigger, "rate-limit", self.directory, args, &[])
    }

    /// The admin address of the client's sidecar.
    pub(crate) fn client_admin(&self) -> SocketAddr {
        self.client_admin
    }

    fn sidecar_flags(
        &self,
        account: &str,
        admin: SocketAddr,
        outbound: SocketAddr,
    ) -> Result<Vec<(&'static str, OsString)>, String> {
        let token_file = self.token(account)?;
        let state = self.directory.join("control-plane");
        Ok(vec![
            ("--control-plane", self.listen.to_string().into()),
            ("--control-plane-ca", state.join("roots.pem").into()),
            ("--token-file", token_file.into()),
            ("--state-dir", self.directory.join(account).into()),
            ("--instance", account.into()),
            ("--admin", admin.to_string().into()),
            ("--outbound", outbound.to_string().into()),
            ("--access-log", "off".into()),
        ])
    }

    /// Creates a join token for a service account, and returns its file.
    pub(crate) fn token(&self, account: &str) -> Result<PathBuf, String> {
        let token = std::process::Command::new(self.outrigger)
            .args(["token", "create", "--namespace", "mesh", "--service-account", account, "--ttl", "1h"])
            .arg("--state-dir")
            .arg(self.directory.join("control-plane"))
            .output()
            .map_err(|error| format!("cannot create a token: {error}"))?;
        if !token.status.success() {
            return Err(format!("cannot create a token: {}", String::from_utf8_lossy(&token.stderr)));
        }
        let token_file = self.directory.join(format!("{account}.token"));
        std::fs::write(&token_file, token.stdout).map_err(|error| error.to_string())?;
        Ok(token_file)
    }

    fn start(&self, name: &str, command: &[&str], flags: &[(&str, OsString)]) -> Result<Process, String> {
        self.start_with(name, command, flags, &[])
    }

    fn start_with(
        &self,
        name: &str,
        command: &[&str],
        flags: &[(&str, OsString)],
        environment: &[(String, String)],
    ) -> Result<Process, String> {
        let mut args: Vec<OsString> = command.iter().map(Into::into).collect();
        for (flag, value) in flags {
            args.extend([(*flag).into(), value.clone()]);
        }
        let program = if command == ["proxy"] { &self.sidecar } else { self.outrigger };
        Process::start(program, name, self.directory, args, environment)
    }
}
