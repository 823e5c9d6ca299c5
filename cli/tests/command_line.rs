//! The command line as a process: exit codes, where errors go, and readers that close their end early.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

use std::io::Read as _;
use std::process::{Command, Output, Stdio};

fn outrigger(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.args(args).env_clear().stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    outrigger(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn an_error_is_one_line_on_stderr_and_exit_code_1() {
    let output = run(&["status", "--admin", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.starts_with("outrigger: ") && error.contains("127.0.0.1:1"), "{error}");
    assert!(error.lines().count() == 1 && output.stdout.is_empty(), "{error}");
}

#[test]
fn a_usage_error_names_the_nearest_command_and_exits_with_2() {
    let output = run(&["statsu"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("'status'"), "{}", text(&output.stderr));
}

#[test]
fn a_reader_that_closes_the_pipe_causes_no_panic_and_no_error() {
    // More than a pipe holds, so that the write fails for certain.
    let directory = tempfile::tempdir().unwrap();
    let service = |number: usize| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: s{number}, namespace: shop }}\nspec: {{ ports: [{{ port: 80 }}] }}\n"
        )
    };
    let services: Vec<_> = (0..5000).map(service).collect();
    std::fs::write(directory.path().join("services.yaml"), services.join("---\n")).unwrap();
    let mut child = outrigger(&["check", directory.path().to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let status = child.wait().unwrap();
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert_eq!((status.code(), error.as_str()), (Some(0), ""));
}

#[test]
fn the_environment_sets_flags() {
    let output = outrigger(&["status"]).env("OUTRIGGER_ADMIN", "127.0.0.1:1").output().unwrap();
    assert!(text(&output.stderr).contains("127.0.0.1:1"), "{}", text(&output.stderr));
}
