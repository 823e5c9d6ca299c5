//! `outrigger run` on one machine, which is a network namespace: programs that are unaware of the mesh, each with its sidecar.

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
";
/// A call of a program to the service, at its virtual address.
const CALL: &str = "curl -sf -m 5 http://10.96.0.10/items";

/// A machine with a control plane. Its programs share its addresses.
struct Machine {
    pair: Pair,
    directory: tempfile::TempDir,
    control_plane: Child,
}

impl Machine {
    fn start() -> Self {
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

    fn host(&self) -> &Namespace {
        &self.pair.client
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file that the sidecars can read.
    fn public(&self, name: &str, bytes: Vec<u8>) -> PathBuf {
        std::fs::write(self.path(name), bytes).unwrap();
        std::fs::set_permissions(self.path(name), PermissionsExt::from_mode(0o644)).unwrap();
        self.path(name)
    }

    /// Returns the command that runs `program` with a sidecar; number `number` on this machine.
    fn command(&self, account: &str, number: u16, flags: &[&str], program: &[&str]) -> Command {
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
    fn serve(&self, number: u16) -> Run {
        let application = format!("127.0.0.1:{}", 8080 + number);
        let service = format!("echo:80={application},listen=10.77.0.1:{}", 9080 + number);
        let program = [OUTRIGGER, "sample", "catalog", "--listen", &application];
        let run = Run(self.command("server", number, &["--service", &service], &program).spawn().unwrap());
        let admin = format!("http://127.0.0.1:{}/ready", 15100 + number);
        self.wait(|| self.host().get(&admin).is_some_and(|page| !page.contains("warning")));
        run
    }

    fn call(&self, program: &str) -> (String, ExitStatus) {
        let mut command = self.command("client", 90, &[], &["sh", "-c", program]);
        let output = command.stderr(Stdio::inherit()).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status)
    }

    fn tables(&self) -> usize {
        self.host().run(&["nft", "list", "tables"]).matches("outrigger-run-").count()
    }

    fn log(&self, run: &str) -> String {
        std::fs::read_to_string(self.path(run).join("sidecar.log")).unwrap()
    }

    fn wait(&self, ready: impl Fn() -> bool) {
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
struct Run(Child);

impl Run {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    fn ended(mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }

    /// Returns the first line that the program prints.
    fn line(&mut self) -> String {
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
pub(super) fn enter(namespace: &Namespace) -> Command {
    let [program, words @ ..] = namespace.enter();
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null());
    command
}

fn is_running(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Returns whether a cgroup exists, by its line in /proc/PID/cgroup.
fn exists(cgroup: &str) -> bool {
    let path = cgroup.strip_prefix("0::").unwrap();
    assert!(path.contains("outrigger-run-"), "{path}");
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .iter()
        .any(|mount| PathBuf::from(format!("{mount}{path}")).exists())
}

#[test]
fn a_program_reaches_a_service_of_another_one_on_the_same_machine_by_mutual_tls() {
    let machine = Machine::start();
    let _server = machine.serve(1);
    assert!(machine.host().get("http://10.96.0.10/items").is_none(), "other programs are not redirected");
    let (answer, status) = machine.call(&format!("{CALL} && exit 7"));
    assert!(answer.contains("paddle"), "{answer}");
    assert_eq!(status.code(), Some(7));
    let metrics = machine.host().get("http://127.0.0.1:15101/metrics").unwrap();
    let client = "spiffe://cluster.local/ns/default/sa/client";
    let from_client = |line: &&str| line.starts_with("outrigger_requests_total") && line.contains(client);
    let series = metrics.lines().find(from_client).unwrap();
    assert!(series.contains("mtls=\"true\"") && series.ends_with(" 1"), "{series}");
    assert_eq!(machine.tables(), 1, "that of the server");
}

#[test]
fn a_program_has_its_own_user_input_and_end() {
    let machine = Machine::start();
    let mut command =
        machine.command("client", 1, &["--user", "65534"], &["sh", "-c", "id -u; cat; kill -KILL $$"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"typed\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "65534\ntyped\n");
    assert_eq!(output.status.code(), Some(128 + 9));
    let sidecar = std::fs::metadata(machine.path("client-1/sidecar.log")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&sidecar), 1500);
}

#[test]
fn sigterm_reaches_the_program_when_it_is_offered_no_new_requests() {
    let machine = Machine::start();
    let instances = [machine.serve(1), machine.serve(2)];
    let calls =
        format!("echo begun; for i in $(seq 200); do {CALL} >/dev/null && echo answered; sleep 0.03; done");
    let mut client = Run(machine
        .command("client", 90, &[], &["sh", "-c", &calls])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap());
    let mut lines = BufReader::new(client.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "begun");
    let [first, _second] = instances;
    first.signal(Signal::TERM);
    assert_eq!(first.ended().code(), Some(0));
    assert_eq!(lines.filter(|line| line.as_ref().unwrap() == "answered").count(), 200, "no call is lost");
    let log = machine.log("server-1");
    let [inbound, end] = ["draining inbound", "drained"].map(|step| log.find(step).unwrap());
    assert!(inbound < end, "{log}");
    assert_eq!(client.ended().code(), Some(0));
    assert_eq!(machine.tables(), 1, "that of the second instance");
}

#[test]
fn what_a_program_leaves_in_the_background_ends_with_it() {
    let machine = Machine::start();
    let (printed, status) =
        machine.call("sleep 1000 >/dev/null & echo $!; grep ^0:: /proc/self/cgroup; exit 4");
    let [background, cgroup] = printed.lines().collect::<Vec<_>>()[..] else { panic!("{printed}") };
    assert_eq!(status.code(), Some(4));
    assert!(!is_running(background) && !exists(cgroup));
    assert_eq!(machine.tables(), 0);
}

#[test]
fn a_killed_run_leaves_no_redirection_and_the_next_one_removes_the_rest() {
    let machine = Machine::start();
    let program = "sleep 1000 & echo $$ $! $(grep ^0:: /proc/self/cgroup); wait";
    let mut run = Run(machine
        .command("client", 1, &[], &["sh", "-c", program])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap());
    let line = run.line();
    let [program, background, cgroup] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
    assert_eq!(machine.tables(), 1);
    run.signal(Signal::KILL);
    run.ended();
    machine.wait(|| machine.tables() == 0 && !is_running(program));
    let again = machine.command("client", 1, &[], &["true"]).status().unwrap();
    assert!(again.success(), "{again}");
    assert!(!is_running(background) && !exists(cgroup));
}

#[test]
fn a_sidecar_that_crashes_is_started_again() {
    let machine = Machine::start();
    let _server = machine.serve(1);
    let program = format!("echo ready; until {CALL}; do sleep 0.1; done");
    let mut command =
        machine.command("client", 2, &[], &["sh", "-c", &format!("{program}; read line; {program}")]);
    let mut run = Run(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    assert_eq!(run.line(), "ready");
    let pid = run.0.id();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let sidecar = children.split(' ').find(|child| {
        std::fs::read_to_string(format!("/proc/{child}/cmdline")).is_ok_and(|words| words.contains("sidecar"))
    });
    let sidecar = sidecar.unwrap_or_else(|| panic!("{children}")).parse().unwrap();
    kill_process(Pid::from_raw(sidecar).unwrap(), Signal::KILL).unwrap();
    drop(run.0.stdin.take());
    let mut rest = String::new();
    std::io::Read::read_to_string(run.0.stdout.as_mut().unwrap(), &mut rest).unwrap();
    assert!(rest.contains("paddle"), "{rest}");
    assert_eq!(run.ended().code(), Some(0));
}

#[test]
fn what_a_machine_cannot_do_is_said_in_one_line() {
    let machine = Machine::start();
    let error = |command: &mut Command| {
        let output = command.output().unwrap();
        let lines = String::from_utf8(output.stderr).unwrap();
        (lines.lines().last().unwrap().to_owned(), output.status.code())
    };
    let (line, code) = error(&mut machine.command("client", 1, &[], &["/nowhere"]));
    assert!(line.starts_with("outrigger: /nowhere: No such file"), "{line}");
    assert_eq!(code, Some(127));

    let other = machine.host().inside(|| std::net::TcpListener::bind("127.0.0.1:15102").unwrap());
    let (line, code) = error(&mut machine.command("client", 2, &[], &["true"]));
    assert!(line.contains("--admin 127.0.0.1:15102: Address already in use"), "{line}");
    assert_eq!(code, Some(1));
    drop(other);

    let again = machine.command("client", 3, &[], &["true"]);
    let again: Vec<_> = again.get_args().skip(2).map(|word| word.to_str().unwrap()).collect();
    let (line, code) = error(&mut machine.command("client", 2, &[], &again));
    assert_eq!((line.as_str(), code), ("outrigger: this program runs in `outrigger run` already", Some(1)));

    let user = ["setpriv", "--reuid", "65534", "--clear-groups"];
    let (line, code) = error(enter(machine.host()).args(user).args(&again));
    assert!(line.starts_with("outrigger: run needs root"), "{line}");
    assert_eq!(code, Some(1));

    let hidden = "mount --make-rprivate / && umount -a -t cgroup2 && exec \"$@\"";
    let (line, code) =
        error(enter(machine.host()).args(["unshare", "-m", "sh", "-c", hidden, "sh"]).args(&again));
    assert!(line.starts_with("outrigger: cgroup v2 is not mounted here"), "{line}");
    assert_eq!(code, Some(1));
    assert_eq!(machine.tables(), 0);
}
