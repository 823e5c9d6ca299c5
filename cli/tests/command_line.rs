//! The command line as a process: exit codes, where errors go, and readers that close their end early.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

use std::io::{Read as _, Write as _};
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
fn a_command_for_a_cluster_ignores_addresses_in_the_environment() {
    for (line, variables) in [
        (["policy", "denials"].as_slice(), ["OUTRIGGER_PROXY_ADMIN", "OUTRIGGER_NAMESPACE"]),
        (&["policy", "explain", "payments"], ["OUTRIGGER_ADMIN", "OUTRIGGER_STATE_DIR"]),
        (&["status"], ["OUTRIGGER_ADMIN", "OUTRIGGER_STATE_DIR"]),
    ] {
        let run = |more: &[&str]| {
            let mut command = outrigger(&[line, more].concat());
            let output = command.envs(variables.map(|name| (name, "127.0.0.1:1"))).output().unwrap();
            (output.status.code(), text(&output.stderr))
        };
        let (code, error) = run(&["--kubeconfig", "/nonexistent/kubeconfig"]);
        assert!(code == Some(1) && error.contains("/nonexistent/kubeconfig"), "{line:?}: {code:?} {error}");
        let (code, error) = run(&["--kubernetes", "--admin", "127.0.0.1:1"]);
        assert!(
            code == Some(2) && error.contains("--admin cannot be used with"),
            "{line:?}: {code:?} {error}"
        );
        let (code, error) = run(&[]);
        assert!(code == Some(1) && error.contains("127.0.0.1:1"), "{line:?}: {code:?} {error}");
    }
}

#[test]
fn a_reader_that_closes_the_pipe_causes_no_panic_and_no_error() {
    // A warning for each, and so more than a pipe holds: the write fails for certain.
    let directory = tempfile::tempdir().unwrap();
    let service = |number: usize| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: s{number}, namespace: shop }}\nspec: {{ ports: [{{ port: 80, appProtocol: htp }}] }}\n"
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
    let variables = [("OUTRIGGER_ADMIN", "127.0.0.1:1"), ("OUTRIGGER_STATE_DIR", "/nowhere")];
    for (line, variables, asked) in [
        (&["status"][..], &variables[..1], "http://127.0.0.1:1:"),
        (&["status"], &variables, "/nowhere/admin.sock"),
        // The command line takes precedence.
        (&["status", "--admin", "127.0.0.1:2"], &variables, "http://127.0.0.1:2:"),
    ] {
        let output = outrigger(line).envs(variables.iter().copied()).output().unwrap();
        assert!(text(&output.stderr).contains(asked), "{}", text(&output.stderr));
    }
}

#[test]
fn bash_completes_commands_and_flags() {
    let script = text(&run(&["completions", "bash"]).stdout);
    let complete = |words: &str, current: usize| {
        let ask = format!(
            "{script}\nCOMP_WORDS=({words}); COMP_CWORD={current}; _outrigger outrigger \"${{COMP_WORDS[-1]}}\" \
             \"${{COMP_WORDS[-2]}}\"; echo \"${{COMPREPLY[@]}}\""
        );
        // The script is passed by stdin, as one of 100 kB is too long for an argument.
        let mut bash = Command::new("bash").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        bash.stdin.take().unwrap().write_all(ask.as_bytes()).unwrap();
        let output = bash.wait_with_output().unwrap();
        assert!(output.status.success());
        text(&output.stdout)
    };
    assert_eq!(complete("outrigger sta", 1), "status\n");
    assert_eq!(complete("outrigger proxy-config ro", 2), "routes\n");
    assert_eq!(complete("outrigger status --out", 2), "--output\n");
    assert_eq!(complete("outrigger status -o y", 3), "yaml\n");
}

#[test]
fn every_shell_has_a_completion_script() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = text(&run(&["completions", shell]).stdout);
        assert!(script.contains("proxy-config") && script.contains("token"), "{shell}");
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let directory = tempfile::tempdir().unwrap();
    assert!(run(&["man", directory.path().to_str().unwrap()]).status.success());
    for name in ["outrigger", "outrigger-status", "outrigger-token-create", "outrigger-proxy-config-routes"] {
        let path = directory.path().join(format!("{name}.1"));
        let page = std::fs::read_to_string(&path).unwrap();
        for section in [".TH ", ".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS"] {
            assert!(page.contains(section), "{name}: {section}");
        }
        // Checked with groff if it is installed.
        if let Ok(output) = Command::new("groff").args(["-man", "-Tutf8", "-ww"]).arg(&path).output() {
            assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
        }
    }
    let page = std::fs::read_to_string(directory.path().join("outrigger-status.1")).unwrap();
    assert!(page.contains("OUTRIGGER_ADMIN"), "{page}");
    let page = text(&run(&["man"]).stdout);
    assert!(page.contains(".TH outrigger 1"), "{page}");
}

#[test]
fn waiting_ends_at_its_time_limit_with_the_cause() {
    for (daemon, name, cause) in [
        ("control-plane", "control plane", "no control plane answers at http://127.0.0.1:1"),
        ("proxy", "proxy", "http://127.0.0.1:1/ready: Connection refused"),
    ] {
        let output = run(&["wait", daemon, "--admin", "127.0.0.1:1", "--timeout", "300ms"]);
        assert_eq!(output.status.code(), Some(1));
        let error = text(&output.stderr);
        let start = format!("outrigger: the {name} is not ready after 300ms: {cause}");
        assert!(error.starts_with(&start), "{error}");
    }
}

#[test]
fn colour_is_for_terminals_only() {
    let help =
        |name: &str, value: &str| text(&outrigger(&["help"]).env(name, value).output().unwrap().stdout);
    assert!(!help("A", "b").contains('\u{1b}'), "a pipe");
    assert!(help("CLICOLOR_FORCE", "1").contains('\u{1b}'), "a pipe, forced");
}

#[test]
fn check_escapes_control_characters_of_its_input() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("x.yaml");
    let document = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: \"x\\ny\\e]0;title\\a\"}\n";
    std::fs::write(&file, document).unwrap();
    let mut command = outrigger(&["check", file.to_str().unwrap()]);
    let output = command.env("CLICOLOR_FORCE", "1").output().unwrap();
    let page = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{page}");
    assert!(page.contains(r"\u{1b}]0;title\u{7}") && !page.contains(['\u{1b}', '\u{7}']), "{page:?}");
}

#[test]
fn check_reads_stdin_once() {
    let output = run(&["check", "-", "-"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("can be read only once"), "{}", text(&output.stderr));
}
