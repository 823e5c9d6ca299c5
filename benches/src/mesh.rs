//! `mesh`: memory and CPU of a sidecar, and whether they depend on the size of its mesh.
//!
//! Starts a control plane that serves that many services, a sidecar whose application is registered for the first five,
//! and a client's sidecar. The client's sidecar idles, then sends traffic to those five services; then other services are
//! changed one after the other. Its memory and CPU are printed at each step. Run it with `--services 5 --updates 0` for
//! comparison. `--requests 200000` also measures the CPU of a request in each sidecar: in the clear through one of them,
//! and with mTLS through two.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use outrigger::memory::Memory;
use outrigger::process::{MEMORY_AGES, Process};
use outrigger::{admin, ports};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::traffic;

/// Number of services that get traffic.
pub(crate) const USED: usize = 5;
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures a sidecar in a mesh of a given size.
#[derive(Debug, Args)]
pub(crate) struct MeshArgs {
    /// How many services the control plane serves.
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// How many changes are made to services that the sidecar does not use.
    #[arg(long, default_value_t = 1_000)]
    updates: usize,
    /// How many requests are sent to measure the CPU of each, both ways.
    #[arg(long, default_value_t = 0)]
    requests: usize,
    /// The binary to measure.
    #[arg(long, default_value = "target/release/outrigger")]
    outrigger: PathBuf,
}

/// Measures and prints. Returns an error if the mesh does not start or a request fails.
pub(crate) async fn measure(args: MeshArgs) -> Result<(), String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mesh = Mesh::new(&args.outrigger, directory.path())?;
    for service in 0..args.services {
        mesh.write(service, 0)?;
    }
    mesh.write_plain("plain", "http", mesh.app)?;
    let begin = Instant::now();
    let control_plane = mesh.control_plane().await?;
    println!("{} services: control plane ready after {:.1} s", args.services, begin.elapsed().as_secs_f64());
    traffic::application(mesh.app).await?;
    let server = mesh.server().await?;
    let client = mesh.client().await?;

    for age in MEMORY_AGES {
        let now = client.usage().ok_or("the client's sidecar has ended")?.age;
        tokio::time::sleep(age.saturating_sub(now)).await;
        report(&format!("idle, {} s old", age.as_secs()), &client, &control_plane)?;
    }
    mesh.traffic(400).await?;
    report("after traffic to five services", &client, &control_plane)?;
    for update in 0..args.updates {
        let others = args.services.saturating_sub(USED).max(1);
        mesh.write(USED + update % others, 1 + update / others)?;
        if update % 100 == 99 {
            mesh.traffic(20).await?;
        }
    }
    // The last change is debounced, translated, and sent if a proxy is subscribed to it.
    tokio::time::sleep(Duration::from_secs(3)).await;
    mesh.traffic(400).await?;
    report(&format!("after {} updates to others", args.updates), &client, &control_plane)?;
    if args.requests > 0 {
        let sidecars = [("client", &client), ("server", &server)];
        mesh.cost("in the clear", "plain", args.requests, &sidecars[..1]).await?;
        mesh.cost("with mTLS", "s0", args.requests, &sidecars).await?;
    }
    Ok(())
}

fn report(when: &str, client: &Process, control_plane: &Process) -> Result<(), String> {
    print!("{when}: RSS / RssAnon / PSS in MiB");
    for (name, process) in [("sidecar", client), ("control plane", control_plane)] {
        let ended = || format!("the {name} has ended");
        let memory = process.id().and_then(Memory::of).ok_or_else(ended)?;
        let cpu = process.usage().ok_or_else(ended)?.cpu;
        print!("; {name} {memory}, CPU {:.2} s", cpu.as_secs_f64());
    }
    println!();
    Ok(())
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
    pub(crate) http2_app: SocketAddr,
    pub(crate) inbound: SocketAddr,
    server_admin: SocketAddr,
    server_outbound: SocketAddr,
    client_admin: SocketAddr,
    pub(crate) outbound: SocketAddr,
}

impl<'run> Mesh<'run> {
    pub(crate) fn new(outrigger: &'run Path, directory: &'run Path) -> Result<Self, String> {
        std::fs::create_dir(directory.join("config")).map_err(|error| error.to_string())?;
        let [listen, admin, app, http2_app, inbound, server_admin, server_outbound, client_admin, outbound] =
            ports::free()?;
        Ok(Self {
            outrigger,
            sidecar: outrigger.to_owned(),
            directory,
            listen,
            admin,
            app,
            http2_app,
            inbound,
            server_admin,
            server_outbound,
            client_admin,
            outbound,
        })
    }

    /// Writes a service with one endpoint, which changes with `revision`.
    pub(crate) fn write(&self, service: usize, revision: usize) -> Result<(), String> {
        let (high, low) = (service / 250 % 250, service % 250 + 1);
        let yaml = format!(
            "apiVersion: v1
kind: Service
metadata: {{name: s{service}, namespace: mesh}}
spec: {{ports: [{{name: main, port: 80, appProtocol: http}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: s{service}
  namespace: mesh
  labels: {{kubernetes.io/service-name: s{service}}}
addressType: IPv4
ports: [{{name: main, port: {}, protocol: TCP}}]
endpoints: [{}]
",
            8080 + revision,
            // The five services with traffic have only the registered endpoint.
            if service < USED { String::new() } else { format!("{{addresses: [\"10.9.{high}.{low}\"]}}") },
        );
        self.write_file(&format!("s{service}"), &yaml)
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

    /// Prints what a request for `host` costs each of `sidecars`.
    async fn cost(
        &self,
        how: &str,
        host: &str,
        requests: usize,
        sidecars: &[(&str, &Process)],
    ) -> Result<(), String> {
        traffic::drive(self.outbound, host, requests / 10 + 1).await?;
        let cpu =
            || sidecars.iter().map(|(_, sidecar)| sidecar.usage().map(|usage| usage.cpu).unwrap_or_default());
        let before: Vec<_> = cpu().collect();
        let took = traffic::drive(self.outbound, host, requests).await?;
        print!("{how}: {:.0} requests/s", requests as f64 / took.as_secs_f64());
        for (((name, _), before), after) in sidecars.iter().zip(before).zip(cpu()) {
            let spent = after.saturating_sub(before).as_secs_f64() * 1e6 / requests as f64;
            print!(", {name}'s sidecar {spent:.1} µs of CPU each");
        }
        println!();
        Ok(())
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
        let services = (0..USED).map(|service| {
            ("--service", format!("s{service}:80={},listen={}", self.app, self.inbound).into())
        });
        let mut flags = self.sidecar_flags("server", self.server_admin, self.server_outbound)?;
        flags.extend(services);
        let mut sidecar = self.start("server", &["proxy"], &flags)?;
        admin::wait_ready(self.server_admin, &mut sidecar, PATIENCE).await?;
        Ok(sidecar)
    }

    pub(crate) async fn client(&self) -> Result<Process, String> {
        self.client_with(&[]).await
    }

    /// Like [`Mesh::client`], with more flags.
    pub(crate) async fn client_with(&self, more: &[(&'static str, OsString)]) -> Result<Process, String> {
        let mut flags = self.sidecar_flags("client", self.client_admin, self.outbound)?;
        flags.extend_from_slice(more);
        let mut sidecar = self.start("client", &["proxy"], &flags)?;
        admin::wait_ready(self.client_admin, &mut sidecar, PATIENCE).await?;
        Ok(sidecar)
    }

    /// Like [`Mesh::client`], with flags that replace its own of the same name, and spans of a part (0 to 1) of its requests to a
    /// collector.
    pub(crate) async fn client_reporting(
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

    /// The admin address of [`Mesh::client`].
    pub(crate) fn client_admin(&self) -> SocketAddr {
        self.client_admin
    }

    /// Starts another client's sidecar on the ports of [`Mesh::client`], which must have ended. It sends spans of `sampling`
    /// (0 to 1) of its requests to `collector`.
    pub(crate) async fn traced_client(
        &self,
        account: &str,
        sampling: f64,
        collector: SocketAddr,
    ) -> Result<Process, String> {
        let mut flags = self.sidecar_flags(account, self.client_admin, self.outbound)?;
        flags.push(("--trace-sampling", sampling.to_string().into()));
        let exporter = [("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT".to_owned(), format!("http://{collector}"))];
        let mut sidecar = self.start_with(account, &["proxy"], &flags, &exporter)?;
        admin::wait_ready(self.client_admin, &mut sidecar, PATIENCE).await?;
        Ok(sidecar)
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

    /// Sends requests over one connection, in turn to the services that are used.
    async fn traffic(&self, requests: usize) -> Result<(), String> {
        let mut stream = TcpStream::connect(self.outbound).await.map_err(|error| error.to_string())?;
        for number in 0..requests {
            let request = format!("GET /items HTTP/1.1\r\nHost: s{}\r\n\r\n", number % USED);
            stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
            let mut answer = [0; 4096];
            let read = stream.read(&mut answer).await.map_err(|error| error.to_string())?;
            if !answer[..read].starts_with(b"HTTP/1.1 200") {
                return Err(format!("request {number}: {}", String::from_utf8_lossy(&answer[..read])));
            }
        }
        Ok(())
    }
}
