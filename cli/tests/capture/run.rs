//! `outrigger run`: programs that are unaware of the mesh, each with its sidecar.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use rustix::process::{Signal, kill_process};

use super::machine::{CALL, Machine, Run, enter};

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

#[test]
fn the_programs_telemetry_variables_are_not_the_sidecars() {
    let machine = Machine::start();
    let invalid = "OTEL_BSP_SCHEDULE_DELAY";
    let mut command = machine.command("client", 1, &[], &["printenv", invalid]);
    let output = command.env(invalid, "soon").output().unwrap();
    assert_eq!(
        (String::from_utf8(output.stdout).unwrap().as_str(), output.status.code()),
        ("soon\n", Some(0))
    );
    let mut command = machine.command("client", 2, &[], &["true"]);
    let output = command.env(format!("OUTRIGGER_PROXY_{invalid}"), "soon").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("OTEL_BSP_SCHEDULE_DELAY: `soon`"), "{error}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn sighup_opens_the_logs_again() {
    let machine = Machine::start();
    let access = machine.path("access.log");
    std::fs::write(&access, "").unwrap();
    std::os::unix::fs::chown(&access, Some(1500), Some(1500)).unwrap();
    let flags = ["--access-log", access.to_str().unwrap()];
    let program = ["sh", "-c", "trap 'echo hangup' HUP; echo ready; while :; do sleep 0.1; done"];
    let mut command = machine.command("client", 1, &flags, &program);
    let mut run = Run(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(run.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let log = machine.path("client-1/sidecar.log");
    std::fs::rename(&log, machine.path("client-1/sidecar.log.1")).unwrap();
    run.signal(Signal::HUP);
    machine.wait(|| log.exists());
    assert_eq!(lines.next().unwrap().unwrap(), "hangup");
}

#[test]
fn a_signal_ends_the_last_drain() {
    let machine = Machine::start();
    let mut command = machine.command("client", 1, &[], &["sh", "-c", "echo $$; read line; exit 5"]);
    let mut run = Run(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let program = run.line();
    // It does not end when it is asked to.
    let sidecar = run.helper("sidecar");
    kill_process(sidecar, Signal::STOP).unwrap();
    drop(run.0.stdin.take());
    machine.wait(|| !super::machine::is_running(&program));
    let mut ended = None;
    machine.wait(|| {
        run.signal(Signal::TERM);
        ended = run.0.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.unwrap().code(), Some(5));
    assert_eq!(machine.tables(), 0);
}
