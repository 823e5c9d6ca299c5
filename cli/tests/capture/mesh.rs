//! A mesh in two captured network namespaces: a client and a server, each with its sidecar, and a Service of the server.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::namespace::{Family, Namespace, Pair, outrigger};

const PROXY_UID: u32 = 1500;

pub(crate) struct Mesh {
    pub(crate) client: Namespace,
    pub(crate) server: Namespace,
    /// The address of the server's application, to which the Service leads.
    pub(crate) application: SocketAddr,
    /// An application of the server whose port is excluded from the capture.
    pub(crate) excluded_application: SocketAddr,
    /// An application of the server that listens on loopback alone.
    pub(crate) loopback_application: SocketAddr,
    control_plane: SocketAddr,
    virtual_address: IpAddr,
    directory: tempfile::TempDir,
    processes: Vec<Child>,
}

impl Mesh {
    pub(crate) fn start(family: Family) -> Self {
        let Pair { client, server, addresses: [here, there] } = Pair::new(family, "mesh");
        let (loopback, virtual_address) = match family {
            Family::V4 => ("127.0.0.1", "10.96.0.10"),
            Family::V6 => ("::1", "fd96::10"),
        };
        let directory = tempfile::tempdir().unwrap();
        // The sidecars, which are not root, have their directories in it.
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let mut mesh = Self {
            client,
            server,
            application: SocketAddr::new(there, 8080),
            excluded_application: SocketAddr::new(there, 8081),
            loopback_application: SocketAddr::new(loopback.parse().unwrap(), 8082),
            control_plane: SocketAddr::new(here, 15010),
            virtual_address: virtual_address.parse().unwrap(),
            directory,
            processes: Vec::new(),
        };
        mesh.start_control_plane();
        mesh.client.run(&outrigger(&["capture", "--exclude-inbound-ports", "15010"]));
        mesh.server.run(&outrigger(&["capture", "--exclude-inbound-ports", "8081"]));
        for address in [mesh.application, mesh.excluded_application, mesh.loopback_application] {
            let address = address.to_string();
            mesh.spawn(
                false,
                "application",
                &outrigger(&["--exit-with-parent", "sample", "catalog", "--listen", &address]),
            );
        }
        let any = if family == Family::V4 { "0.0.0.0" } else { "::" }.parse().unwrap();
        mesh.start_sidecar(true, any, &[]);
        mesh.start_sidecar(false, any, &["--service", &format!("echo:80={}", mesh.application)]);
        for namespace in [&mesh.server, &mesh.client] {
            wait(&mesh, "a sidecar", || namespace.get("http://127.0.0.1:15000/ready").is_some());
        }
        mesh
    }

    pub(crate) fn service_url(&self) -> String {
        format!("http://{}/items", SocketAddr::new(self.virtual_address, 80))
    }

    /// Returns how many requests of `caller` the server's sidecar has passed to its application.
    pub(crate) fn served_to(&self, caller: &str) -> u32 {
        let metrics = self.server.get("http://127.0.0.1:15000/metrics").unwrap();
        let caller = format!("spiffe://cluster.local/ns/default/sa/{caller}");
        let series = metrics.lines().filter(|line| {
            line.starts_with("outrigger_requests_total") && line.contains("inbound") && line.contains(&caller)
        });
        series.map(|line| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap()).sum()
    }

    pub(crate) fn logs(&self) -> String {
        ["control-plane", "server", "client", "application"]
            .map(|name| std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default())
            .join("\n")
    }

    fn start_control_plane(&mut self) {
        std::fs::create_dir(self.path("config")).unwrap();
        let service = format!(
            "apiVersion: v1
kind: Service
metadata: {{name: echo, namespace: default}}
spec:
  clusterIP: \"{0}\"
  clusterIPs: [\"{0}\"]
  ports: [{{name: http, port: 80, targetPort: 8080, appProtocol: http}}]
",
            self.virtual_address
        );
        std::fs::write(self.path("config").join("echo.yaml"), service).unwrap();
        let (config, state, listen) =
            (self.text("config"), self.text("control-plane"), self.control_plane.to_string());
        let args = [
            "--exit-with-parent",
            "control-plane",
            "--config",
            &config,
            "--state-dir",
            &state,
            "--listen",
            &listen,
        ];
        self.spawn(true, "control-plane", &outrigger(&args));
        wait(self, "the control plane", || self.client.get("http://127.0.0.1:15011/ready").is_some());
        // A copy that the sidecars may read.
        let roots = std::fs::read(self.path("control-plane/roots.pem")).unwrap();
        std::fs::write(self.path("roots.pem"), roots).unwrap();
    }

    /// Starts a sidecar as a user of its own, as in a pod.
    fn start_sidecar(&mut self, client: bool, any: IpAddr, flags: &[&str]) {
        let account = if client { "client" } else { "server" };
        let state = self.text("control-plane");
        let token = Command::new(outrigger(&[])[0])
            .args(["token", "create", "--state-dir", &state, "--namespace", "default"])
            .args(["--service-account", account])
            .output()
            .unwrap();
        assert!(token.status.success(), "{}", String::from_utf8_lossy(&token.stderr));
        let [own, token_file, roots] =
            [account, &format!("{account}.token"), "roots.pem"].map(|name| self.text(name));
        std::fs::write(&token_file, token.stdout).unwrap();
        std::fs::create_dir(&own).unwrap();
        chown(&own, Some(PROXY_UID), Some(PROXY_UID)).unwrap();
        let (control_plane, uid) = (self.control_plane.to_string(), PROXY_UID.to_string());
        let [inbound, metrics] = [15006, 15020].map(|port| SocketAddr::new(any, port).to_string());
        let outbound = SocketAddr::new(self.loopback_application.ip(), 15001).to_string();
        let mut command = vec!["setpriv", "--reuid", &uid, "--regid", &uid, "--clear-groups"];
        command.extend(outrigger(&[
            "--exit-with-parent",
            "proxy",
            "--control-plane",
            &control_plane,
            "--control-plane-ca",
            &roots,
        ]));
        command.extend(["--token-file", &token_file, "--state-dir", &own, "--instance", account]);
        // The explicit port is changed, so that it does not collide with the redirected one.
        command.extend(["--transparent-outbound", &outbound, "--outbound", "127.0.0.1:15002"]);
        command.extend(["--metrics-listen", &metrics]);
        // A sidecar is ready when every inbound address has its listener, and the client has no service.
        if !flags.is_empty() {
            command.extend(["--transparent-inbound", &inbound]);
        }
        command.extend(flags);
        self.spawn(client, account, &command);
    }

    fn spawn(&mut self, client: bool, name: &str, command: &[&str]) {
        let namespace = if client { &self.client } else { &self.server };
        let log = self.path(&format!("{name}.log"));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let child = namespace
            .command(command)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.processes.push(child);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn wait(mesh: &Mesh, what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !ready() {
        assert!(Instant::now() < deadline, "{what} is not ready after 20 s\n{}", mesh.logs());
        std::thread::sleep(Duration::from_millis(100));
    }
}
