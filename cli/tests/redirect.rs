//! Redirected sockets, with real REDIRECT rules: two network namespaces, a client's sidecar and a server's, and an
//! application on each side that is unaware of them. Part of `tests/heavier`; needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // helpers of tests

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn redirected_ipv4_connections_go_where_they_were_going() {
    let mesh = Mesh::start("4", "10.77.0.1", "10.77.0.2", "10.96.0.10");
    mesh.assert_serves();
}

#[test]
fn redirected_ipv6_connections_go_where_they_were_going() {
    let mesh = Mesh::start("6", "fd77::1", "fd77::2", "fd96::10");
    mesh.assert_serves();
}

struct Mesh {
    directory: tempfile::TempDir,
    client: Namespace,
    server: Namespace,
    virtual_address: String,
    processes: Vec<Child>,
}

impl Mesh {
    /// A client at `here`, a server at `there`, and a Service whose virtual address is `virtual_address`.
    fn start(family: &str, here: &str, there: &str, virtual_address: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let id = std::process::id();
        let client = Namespace::new(format!("otr{family}c{id}"));
        let server = Namespace::new(format!("otr{family}s{id}"));
        let [near, far] = ["c", "s"].map(|end| format!("otr{family}{end}{}", id % 100_000));
        run(&[
            "ip", "link", "add", &near, "netns", &client.0, "type", "veth", "peer", "name", &far, "netns",
            &server.0,
        ]);
        let bits = if family == "4" { 24 } else { 64 };
        for (namespace, link, address) in [(&client, &near, here), (&server, &far, there)] {
            namespace.run(&["ip", "link", "set", "lo", "up"]);
            let address = format!("{address}/{bits}");
            let mut add = vec!["ip", "address", "add", &address, "dev", link];
            if family == "6" {
                add.push("nodad");
            }
            namespace.run(&add);
            namespace.run(&["ip", "link", "set", link, "up"]);
        }
        // Where the virtual address is routed does not matter: the rule redirects the connection first.
        client.run(&["ip", &format!("-{family}"), "route", "add", "default", "via", there]);
        let ip = if family == "4" { "ip" } else { "ip6" };
        client.run(&[
            "nft",
            &format!(
                "table inet otr {{ chain out {{ type nat hook output priority -100; \
                 {ip} daddr {virtual_address} tcp dport 80 redirect to :15001; }}; }}"
            ),
        ]);
        server.run(&[
            "nft",
            "table inet otr { chain in { type nat hook prerouting priority -100; tcp dport 8080 redirect to :15006; }; }",
        ]);
        let mut mesh = Self {
            directory,
            client,
            server,
            virtual_address: virtual_address.into(),
            processes: Vec::new(),
        };
        mesh.start_everything(family, here, there);
        mesh
    }

    fn start_everything(&mut self, family: &str, here: &str, there: &str) {
        let bracketed = |address: &str, port: u16| match family {
            "4" => format!("{address}:{port}"),
            _ => format!("[{address}]:{port}"),
        };
        let (loopback, any) = if family == "4" { ("127.0.0.1", "0.0.0.0") } else { ("::1", "::") };
        std::fs::create_dir(self.path("config")).unwrap();
        std::fs::write(
            self.path("config").join("echo.yaml"),
            format!(
                "apiVersion: v1
kind: Service
metadata: {{name: echo, namespace: default}}
spec:
  clusterIP: \"{0}\"
  clusterIPs: [\"{0}\"]
  ports: [{{name: http, port: 80, targetPort: 8080, appProtocol: http}}]
",
                self.virtual_address
            ),
        )
        .unwrap();
        let control_plane = bracketed(here, 15010);
        let state = self.text("control-plane");
        self.spawn(
            true,
            "control-plane",
            &[
                "control-plane",
                "--config",
                &self.text("config"),
                "--state-dir",
                &state,
                "--listen",
                &control_plane,
            ],
        );
        wait("the control plane", || self.client.get("http://127.0.0.1:15011/ready").is_some());

        let application = bracketed(there, 8080);
        self.spawn(false, "app", &["sample", "catalog", "--listen", &application]);
        let [inbound, outbound] = [bracketed(any, 15006), bracketed(loopback, 15001)];
        let service = format!("echo:80={application}");
        self.sidecar(
            false,
            "server",
            &control_plane,
            &["--transparent-inbound", &inbound, "--service", &service],
        );
        // The explicit port is changed, so that it does not collide with the transparent one.
        self.sidecar(
            true,
            "client",
            &control_plane,
            &["--transparent-outbound", &outbound, "--outbound", "127.0.0.1:15002"],
        );
        for namespace in [&self.server, &self.client] {
            wait("a sidecar", || namespace.get("http://127.0.0.1:15000/ready").is_some());
        }
    }

    fn sidecar(&mut self, client: bool, account: &str, control_plane: &str, flags: &[&str]) {
        let state = self.text("control-plane");
        let token = Command::new(env!("CARGO_BIN_EXE_outrigger"))
            .args([
                "token",
                "create",
                "--state-dir",
                &state,
                "--namespace",
                "default",
                "--service-account",
                account,
            ])
            .output()
            .unwrap();
        assert!(token.status.success(), "{}", String::from_utf8_lossy(&token.stderr));
        let token_file = self.text(&format!("{account}.token"));
        std::fs::write(&token_file, token.stdout).unwrap();
        let (roots, own) = (format!("{state}/roots.pem"), self.text(account));
        let mut args = vec!["proxy", "--control-plane", control_plane, "--control-plane-ca", &roots];
        args.extend(["--token-file", &token_file, "--state-dir", &own, "--instance", account]);
        args.extend(flags);
        self.spawn(client, account, &args);
    }

    fn assert_serves(&self) {
        let host = match self.virtual_address.contains(':') {
            true => format!("[{}]", self.virtual_address),
            false => self.virtual_address.clone(),
        };
        let url = format!("http://{host}/items");
        let logs = || {
            ["control-plane", "server", "client", "app"]
                .map(|name| std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default())
                .join("\n")
        };
        let answer = self.client.get(&url);
        assert!(answer.as_ref().is_some_and(|answer| answer.contains("paddle")), "{answer:?}\n{}", logs());
        // The original destination selects the destination; `Host` is ignored.
        let answer = self.client.run(&["curl", "-sf", "-m", "5", "-H", "Host: nowhere.example", &url]);
        assert!(answer.contains("paddle"), "{answer}\n{}", logs());
        let metrics = self.server.get("http://127.0.0.1:15000/metrics").unwrap();
        let caller = "spiffe://cluster.local/ns/default/sa/client";
        let served = metrics.lines().any(|line| {
            line.starts_with("outrigger_requests_total") && line.contains("inbound") && line.contains(caller)
        });
        assert!(served, "no request of {caller}:\n{metrics}");
    }

    fn spawn(&mut self, client: bool, name: &str, args: &[&str]) {
        let namespace = if client { &self.client } else { &self.server };
        let log = std::fs::File::create(self.path(&format!("{name}.log"))).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &namespace.0, env!("CARGO_BIN_EXE_outrigger"), "--exit-with-parent"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.processes.push(child);
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(self.directory.path()).join(name)
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

/// A network namespace of our own; deleted, with all that is in it, when dropped.
struct Namespace(String);

impl Namespace {
    fn new(name: String) -> Self {
        run(&["ip", "netns", "add", &name]);
        Self(name)
    }

    fn run(&self, command: &[&str]) -> String {
        let mut inside = vec!["ip", "netns", "exec", &self.0];
        inside.extend(command);
        run(&inside)
    }

    /// Returns the body of a page. Returns None if the request fails.
    fn get(&self, url: &str) -> Option<String> {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.0, "curl", "-sf", "-m", "5", url])
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

fn run(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn wait(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !ready() {
        assert!(Instant::now() < deadline, "{what} is not ready after 20 s");
        std::thread::sleep(Duration::from_millis(100));
    }
}
