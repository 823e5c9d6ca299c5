//! `outrigger demo --transparent` in a network namespace: every row at 0 lost, and nothing left behind.

use std::time::{Duration, Instant};

use super::machine::enter;
use super::namespace::{Family, Pair};
use super::support::OUTRIGGER;

#[test]
fn the_transparent_demo_loses_nothing_and_leaves_nothing_behind() {
    let pair = Pair::new(Family::V4, "demo");
    let directory = tempfile::tempdir().unwrap();
    let output = enter(&pair.client)
        .args([OUTRIGGER, "demo", "--quick", "--transparent"])
        // Kept if it fails.
        .env("TMPDIR", directory.path())
        .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}\nlogs: {}", directory.keep().display());
    for check in 1..=8 {
        let row = stdout.lines().find(|line| line.starts_with(&format!("{check} ")));
        let row = row.unwrap_or_else(|| panic!("no row for check {check}:\n{stdout}"));
        let cells: Vec<_> = row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!((cells[1], cells[3]), ("ok", "0"), "{row}");
    }
    assert!(stdout.contains("cart -> payments: Payments/Charge, OK"), "{stdout}");
    // The demo kills its processes. A redirection stays until its guard has seen the last process of its program end.
    let deadline = Instant::now() + Duration::from_secs(20);
    while !pair.client.run(&["nft", "list", "ruleset"]).is_empty() {
        assert!(Instant::now() < deadline, "a redirection is left");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_transparent_demo_needs_root() {
    let pair = Pair::new(Family::V4, "demo");
    let user = ["setpriv", "--reuid", "65534", "--clear-groups", OUTRIGGER, "demo", "--transparent"];
    let error = pair.client.try_run(&user).unwrap_err();
    assert_eq!(error, "outrigger: --transparent needs root: it redirects connections\n");
}
