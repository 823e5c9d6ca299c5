//! The demo as a user runs it: a process that must end with 0, every row at 0 lost, and no process left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // helpers of tests

use std::process::Command;

#[test]
fn the_quick_demo_passes_and_leaves_no_process_behind() {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .args(["demo", "--quick"])
        // All processes of the demo have their files in this directory, which identifies them.
        .env("TMPDIR", directory.path())
        .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{stdout}\n{stderr}{}", output.status, logs(directory.path()));
    for check in 1..=8 {
        let row = stdout.lines().find(|line| line.starts_with(&format!("{check} ")));
        let row = row.unwrap_or_else(|| panic!("no row for check {check}:\n{stdout}"));
        let cells: Vec<_> = row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!((cells[1], cells[3]), ("ok", "0"), "{row}");
    }
    for call in [
        "shopper -> web: POST /checkout, 200",
        "web -> cart: POST /checkout, 200",
        "cart -> catalog: GET /items, 200",
        "cart -> payments: Payments/Charge, OK",
    ] {
        assert_eq!(stdout.matches(call).count(), 1, "{call}:\n{stdout}");
    }
    let mark = directory.path().to_string_lossy().into_owned();
    assert_eq!(running(&mark), Vec::<String>::new());
}

/// The end of every log that a failed demo kept.
fn logs(directory: &std::path::Path) -> String {
    let mut text = String::new();
    for demo in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        for log in std::fs::read_dir(demo.path().join("logs")).into_iter().flatten().flatten() {
            let content = std::fs::read_to_string(log.path()).unwrap_or_default();
            let lines: Vec<_> = content.lines().collect();
            let end = lines[lines.len().saturating_sub(8)..].join("\n");
            text.push_str(&format!("\n== {}\n{end}", log.path().display()));
        }
    }
    text
}

/// The command lines of running processes that mention `mark`.
fn running(mark: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let command_lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    command_lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(mark))
        .collect()
}
