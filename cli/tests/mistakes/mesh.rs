//! A mesh of processes: a control plane, and a sidecar with an application. More sidecars are started wrongly.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use outrigger::ports;

/// How long a process may take to start.
const PATIENCE: Duration = Duration::from_secs(40);

/// A running mesh. Dropping it kills its processes.
pub(crate) struct Mesh {
    directory: tempfile::TempDir,
    /// The control plane's addresses.
    pub(crate) listen: String,
    pub(crate) admin: String,
    /// The sidecar of `hello`, and its admin address.
    pub(crate) hello: Running,
    pub(crate) hello_admin: String,
    control_plane: Option<Running>,
}

/// A process with its output in a file. Dropping it kills it.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
    pub(crate) outbound: String,
    admin: String,
}

impl Mesh {
    /// Starts it and waits until `hello` answers.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let [listen, admin] = [(); 2].map(|()| free().to_string());
        std::fs::create_dir(path("config")).unwrap();
        std::fs::write(path("config/mesh.yaml"), configuration()).unwrap();
        let (config, state) = (path("config"), path("cp"));
        let flags = ["--config", &config, "--state-dir", &state, "--listen", &listen, "--admin", &admin];
        let control_plane =
            Running::start(path("cp.log").into(), &[&["control-plane"], &flags[..]].concat(), &[]);
        assert!(control_plane.log.exists());
        let started = |text: &str| text.contains("serving");
        until(|| control_plane.log(), started);
        let application = serve();
        std::fs::write(path("token"), token(&state, &[])).unwrap();
        let service = format!("hello={application},listen={}", free());
        let hello_admin = free().to_string();
        let hello = sidecar(
            &path("hello"),
            &hello_admin,
            &[
                &["--control-plane", &listen, "--control-plane-ca", &path("cp/roots.pem")][..],
                &["--token-file", &path("token"), "--service", &service],
            ]
            .concat(),
            &[],
        );
        let mesh = Self { listen, admin, hello, hello_admin, control_plane: Some(control_plane), directory };
        until(|| mesh.get("http://hello/"), |text| text.starts_with("HTTP/1.1 200 "));
        mesh
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    /// Requests a URL through the sidecar of `hello`. Returns head and body.
    pub(crate) fn get(&self, url: &str) -> String {
        http(&self.hello.outbound, url)
    }

    /// Creates a token of `hello`, and returns its file.
    pub(crate) fn token(&self, flags: &[&str]) -> String {
        let file = self.path(&format!("token-{}", free().port()));
        std::fs::write(&file, token(&self.path("cp"), flags)).unwrap();
        file
    }

    /// Returns the roots of another control plane.
    pub(crate) fn other_roots(&self) -> String {
        let file = self.path("other.pem");
        let other = rcgen::generate_simple_self_signed(["other".to_owned()]).unwrap();
        std::fs::write(&file, other.cert.pem()).unwrap();
        file
    }

    /// Starts another sidecar with this token file and these flags.
    pub(crate) fn sidecar(&self, name: &str, token: Option<&str>, flags: &[&str]) -> Running {
        self.sidecar_with(name, token, flags, &[])
    }

    pub(crate) fn sidecar_with(
        &self,
        name: &str,
        token: Option<&str>,
        flags: &[&str],
        environment: &[(&str, &str)],
    ) -> Running {
        let roots = self.path("cp/roots.pem");
        let control_plane = ["--control-plane", &self.listen, "--control-plane-ca", &roots];
        let token = token.map(|file| ["--token-file", file]);
        let flags = [&control_plane[..], token.as_ref().map_or(&[], |token| &token[..]), flags].concat();
        sidecar(&self.path(name), &free().to_string(), &flags, environment)
    }

    /// Starts a sidecar with another control plane or other roots.
    pub(crate) fn sidecar_of(&self, name: &str, control_plane: &str, roots: &str, token: &str) -> Running {
        let flags = ["--control-plane", control_plane, "--control-plane-ca", roots, "--token-file", token];
        sidecar(&self.path(name), &free().to_string(), &flags, &[])
    }

    pub(crate) fn stop_control_plane(&mut self) {
        self.control_plane = None;
    }
}

impl Running {
    fn start(log: PathBuf, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let output = File::create(&log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_outrigger"))
            .args(args)
            .env_clear()
            .env("NO_COLOR", "1")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Self { child, log, outbound: String::new(), admin: String::new() }
    }

    /// Returns what it has printed.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Returns its `/ready` page.
    pub(crate) fn ready(&self) -> String {
        http(&self.admin, "/ready")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sidecar(state: &str, admin: &str, flags: &[&str], environment: &[(&str, &str)]) -> Running {
    let outbound = free().to_string();
    let own = ["proxy", "--state-dir", state, "--admin", admin, "--outbound", &outbound];
    let log = format!("{state}-{}.log", free().port()).into();
    let mut running = Running::start(log, &[&own[..], flags].concat(), environment);
    (running.outbound, running.admin) = (outbound, admin.to_owned());
    running
}

/// Runs `outrigger` to its end. Returns what it printed.
pub(crate) fn outrigger(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_outrigger")).args(args).env_clear().output().unwrap();
    let [printed, errors] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    format!("{printed}{errors}")
}

fn token(state: &str, flags: &[&str]) -> String {
    let identity =
        ["token", "create", "--state-dir", state, "--namespace", "default", "--service-account", "hello"];
    outrigger(&[&identity[..], flags].concat())
}

/// Sends a GET to a proxy or a server. Returns head and body, or nothing if the address refuses the connection.
pub(crate) fn http(address: &str, target: &str) -> String {
    let mut answer = Vec::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        let host =
            target.strip_prefix("http://").and_then(|rest| rest.split('/').next()).unwrap_or("localhost");
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_end(&mut answer));
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Waits until a text is as expected.
pub(crate) fn until(mut text: impl FnMut() -> String, expected: impl Fn(&str) -> bool) {
    let limit = Instant::now() + PATIENCE;
    loop {
        let now = text();
        if expected(&now) {
            return;
        }
        assert!(Instant::now() < limit, "{now}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Returns an address on which nothing listens.
pub(crate) fn free() -> SocketAddr {
    let [address] = ports::free().unwrap();
    address
}

/// Serves 200 to every connection.
fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                // The probe of the sidecar sends nothing.
                if stream.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {
                    let _ = stream
                        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                }
            });
        }
    });
    address
}

/// Services of the namespace `default`, some of them with routes that are mistakes.
fn configuration() -> String {
    let service = |name: &str, port: u16, protocol: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: default }}\nspec: {{ ports: [{{ name: {protocol}, \
             port: {port}, appProtocol: {protocol} }}] }}\n---\n"
        )
    };
    let route = |name: &str, rule: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {name}, namespace: default }}\nspec:\n  \
             parentRefs: [{{ group: \"\", kind: Service, name: {name} }}]\n  rules: [{rule}]\n---\n"
        )
    };
    let services = ["hello", "empty", "routed", "broken", "badport", "late", "crash", "dead"];
    let mut all: String = services.map(|name| service(name, 80, "http")).concat();
    all += &service("db", 5432, "tcp");
    all += &route(
        "routed",
        "{ matches: [{ path: { type: PathPrefix, value: /api } }], backendRefs: [{ name: hello, port: 80 }] }",
    );
    all += &route("broken", "{ backendRefs: [{ name: hallo, port: 80 }] }");
    all += &route("badport", "{ backendRefs: [{ name: hello, port: 8080 }] }");
    all
}
