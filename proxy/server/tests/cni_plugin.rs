//! `outrigger-proxy cni`, as the DaemonSet runs it, on the directories of a node.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

const PROXY: &str = env!("CARGO_BIN_EXE_outrigger-proxy");

fn cni(command: &str, node: &Path) -> Command {
    let mut cni = Command::new(PROXY);
    cni.args(["cni", command, "--bin-dir"]).arg(node).arg("--conf-dir").arg(node);
    cni
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn terminate(mut child: Child) {
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_plugin_stays_after_sigterm_until_it_is_uninstalled() {
    let directory = tempfile::tempdir().unwrap();
    let (node, list) = (directory.path(), directory.path().join("10-pods.conflist"));
    fs::write(&list, r#"{"plugins":[{"type":"bridge"}]}"#).unwrap();
    let has_entry = || fs::read_to_string(&list).unwrap().contains("outrigger-cni");
    let has_program = || node.join("outrigger-cni").exists();
    let is_ready = || cni("check", node).output().unwrap().status.success();

    let installer = cni("install", node).spawn().unwrap();
    eventually("the plugin is installed", is_ready);
    terminate(installer);
    assert!(is_ready(), "a pod that starts while the node reboots is captured");

    let uninstaller = cni("uninstall", node).spawn().unwrap();
    eventually("the plugin is removed", || !has_entry() && !has_program());
    // The installer that it replaces was not yet terminated.
    fs::write(node.join("outrigger-cni"), "").unwrap();
    terminate(uninstaller);
    assert!(!has_entry() && !has_program());
}
