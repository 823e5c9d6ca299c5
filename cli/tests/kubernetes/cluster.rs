//! Commands in the cluster. A command that fails panics with what it wrote to stderr.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub(crate) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `tests/heavier cluster`"))
}

/// Returns the archive of an image that `tests/heavier` has built.
pub(crate) fn image(name: &str) -> PathBuf {
    Path::new(&variable("OUTRIGGER_IMAGES")).join(format!("{name}.tar"))
}

/// Runs a command of `tests/kubernetes/cluster` for this cluster, with `input` on its stdin.
fn run(verb: &str, args: &[&str], input: &str) -> Result<String, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/kubernetes/cluster");
    let _slow = Slow::begin(|| format!("{verb} {args:.80?}"));
    let mut child = Command::new(script)
        .arg(verb)
        .arg(variable("OUTRIGGER_CLUSTER"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{verb} {args:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// Prints how long a step took, if that is long: where a test spends its time.
struct Slow<F: Fn() -> String> {
    what: F,
    begun: Instant,
}

impl<F: Fn() -> String> Slow<F> {
    fn begin(what: F) -> Self {
        Self { what, begun: Instant::now() }
    }
}

impl<F: Fn() -> String> Drop for Slow<F> {
    fn drop(&mut self) {
        let (what, took) = ((self.what)(), self.begun.elapsed().as_secs());
        if took >= 5 {
            println!("{}: {took} s: {what}", std::thread::current().name().unwrap_or_default());
        }
    }
}

/// Runs kubectl and returns its stdout.
pub(crate) fn kubectl(args: &[&str]) -> String {
    attempt(args).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs kubectl and returns its stdout, or its stderr if it fails.
pub(crate) fn attempt(args: &[&str]) -> Result<String, String> {
    run("kubectl", args, "")
}

/// Applies manifests.
pub(crate) fn apply(yaml: &str) -> String {
    attempt_apply(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"))
}

/// Applies manifests, or returns kubectl's stderr.
pub(crate) fn attempt_apply(yaml: &str) -> Result<String, String> {
    run("kubectl", &["apply", "--server-side", "-f", "-"], yaml)
}

/// Imports image archives into both nodes.
pub(crate) fn load(images: &[PathBuf]) {
    let images: Vec<_> = images.iter().map(|path| path.to_str().unwrap()).collect();
    run("load", &images, "").unwrap_or_else(|error| panic!("{error}"));
}

/// Installs the CRDs of Gateway API.
pub(crate) fn install_crds() {
    run("crds", &[], "").unwrap_or_else(|error| panic!("{error}"));
}

/// Runs a command in the network of node 1, where no sidecar is.
pub(crate) fn on_the_node(args: &[&str]) -> Result<String, String> {
    run("run", args, "")
}

/// Runs a closure in the network of node 1, and so do the threads that it starts.
pub(crate) fn in_the_network_of_the_node<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    let clusters =
        std::env::var("OUTRIGGER_CLUSTERS").unwrap_or_else(|_| "/tmp/outrigger-clusters".to_owned());
    let file = Path::new(&clusters).join(variable("OUTRIGGER_CLUSTER")).join("node1.pid");
    let pid = std::fs::read_to_string(file).unwrap();
    let network = std::fs::File::open(format!("/proc/{}/ns/net", pid.trim())).unwrap();
    let run = || {
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        run()
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap())
}

/// Runs a command inside a node, `node1` or `node2`.
pub(crate) fn inside(node: &str, args: &[&str]) -> Result<String, String> {
    run("node", &[&[node.strip_prefix("node").unwrap()], args].concat(), "")
}

/// Repeats `check` until it returns a value, for `seconds` at most; its last error is in the panic.
pub(crate) fn eventually<T>(what: &str, seconds: u64, mut check: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + Duration::from_secs(seconds);
    let _slow = Slow::begin(|| what.to_owned());
    loop {
        match check() {
            Ok(value) => return value,
            Err(why) => assert!(Instant::now() < end, "not within {seconds} s: {what}: {why}"),
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}
