//! One machine, which is a network namespace, with a control plane, where programs are started by `outrigger run`.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::namespace::{Family, Namespace, Pair};
use super::support::OUTRIGGER;

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: echo, namespace: default}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ports: [{name: http, port: 80, appProtocol: http}]
---
apiVersion: v1
kind: Service
metadata: {name: plain, namespace: default}
spec:
  ports: [{name: http, port: 80, appProtocol: http}]
";
/// A call of a program to the service, at its virtual address.
pub(crate) const CALL: &str = "curl -sf -m 5 http://10.96.0.10/items";

/// A machine with a control plane. Its programs share its addresses.
pub(crate) struct Machine {
    pub(crate) pair: Pair,
    directory: tempfile::TempDir,
    control_plane: Child,
}

impl Machine {
    pub(crate) fn start() -> Self {
        let pair = Pair::new(Family::V4, "run");
        let directory = tempfile::tempdir().unwrap();
        // The sidecars, which are not root, have their directories in it.
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::create_dir(directory.path().join("config")).unwrap();
        std::fs::write(directory.path().join("config/echo.yaml"), SERVICE).unwrap();
        let control_plane = enter(&pair.client)
            .args([
                OUTRIGGER,
                "--exit-with-parent",
                "control-plane",
                "--listen",
                "10.77.0.1:15010",
                "--config",
            ])
            .arg(directory.path().join("config"))
            .arg("--state-dir")
            .arg(directory.path().join("control-plane"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let machine = Self { pair, directory, control_plane };
        machine.wait(|| machine.host().get("http://127.0.0.1:15011/ready").is_some());
        machine.public("roots.pem", std::fs::read(machine.path("control-plane/roots.pem")).unwrap());
        machine
    }

    pub(crate) fn host(&self) -> &Namespace {
        &self.pair.client
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file that the sidecars can read.
    fn public(&self, name: &str, bytes: Vec<u8>) -> PathBuf {
        std::fs::write(self.path(name), bytes).unwrap();
        std::fs::set_permissions(self.path(name), PermissionsExt::from_mode(0o644)).unwrap();
        self.path(name)
    }

    /// Returns the command that runs `program` with a sidecar; number `number` on this machine.
    pub(crate) fn command(&self, account: &str, number: u16, flags: &[&str], program: &[&str]) -> Command {
        let token = Command::new(OUTRIGGER)
            .args(["token", "create", "--namespace", "default", "--service-account", account, "--state-dir"])
            .arg(self.path("control-plane"))
            .output()
            .unwrap();
        let token = self.public(&format!("{account}-{number}.token"), token.stdout);
        let mut command = enter(self.host());
        command
            .args([OUTRIGGER, "run", "--control-plane", "10.77.0.1:15010", "--control-plane-ca"])
            .arg(self.path("roots.pem"))
            .arg("--token-file")
            .arg(token)
            .arg("--state-dir")
            .arg(self.path(&format!("{account}-{number}")))
            .args(["--admin", &format!("127.0.0.1:{}", 15100 + number)])
            .args(flags)
            .arg("--")
            .args(program);
        command
    }

    /// Starts an instance of the service, and waits until callers reach it.
    pub(crate) fn serve(&self, number: u16) -> Run {
        let application = format!("127.0.0.1:{}", 8080 + number);
        let service = format!("echo:80={application},listen=10.77.0.1:{}", 9080 + number);
        let program = [OUTRIGGER, "sample", "catalog", "--listen", &application];
        let run = Run(self.command("server", number, &["--service", &service], &program).spawn().unwrap());
        let admin = format!("http://127.0.0.1:{}/ready", 15100 + number);
        self.wait(|| self.host().get(&admin).is_some_and(|page| !page.contains("warning")));
        run
    }

    pub(crate) fn call(&self, program: &str) -> (String, ExitStatus) {
        let mut command = self.command("client", 90, &[], &["sh", "-c", program]);
        let output = command.stderr(Stdio::inherit()).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status)
    }

    pub(crate) fn tables(&self) -> usize {
        self.host().run(&["nft", "list", "tables"]).matches("outrigger-run-").count()
    }

    pub(crate) fn log(&self, run: &str) -> String {
        std::fs::read_to_string(self.path(run).join("sidecar.log")).unwrap()
    }

    pub(crate) fn wait(&self, mut ready: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !ready() {
            assert!(Instant::now() < deadline, "not within 20 s");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.control_plane.kill();
        let _ = self.control_plane.wait();
    }
}

/// A running `outrigger run`, which is killed when dropped.
pub(crate) struct Run(pub(crate) Child);

impl Run {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    pub(crate) fn ended(mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }

    /// Returns the process ID of its sidecar or its guard.
    pub(crate) fn helper(&self, role: &str) -> Pid {
        let pid = self.0.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let has_role = |child: &&str| {
            let words = std::fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
            words.contains(&format!("--role\0{role}\0"))
        };
        let found = children.split(' ').find(has_role).unwrap_or_else(|| panic!("no {role}: {children}"));
        Pid::from_raw(found.parse().unwrap()).unwrap()
    }

    /// Returns the first line that the program prints.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns a command in the namespace, whose words follow.
pub(crate) fn enter(namespace: &Namespace) -> Command {
    let [program, words @ ..] = namespace.enter();
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null());
    command
}

pub(crate) fn is_running(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Returns whether a cgroup exists, by its line in /proc/PID/cgroup.
pub(crate) fn exists(cgroup: &str) -> bool {
    let path = cgroup.strip_prefix("0::").unwrap();
    assert!(path.contains("outrigger-run-"), "{path}");
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .iter()
        .any(|mount| PathBuf::from(format!("{mount}{path}")).exists())
}
