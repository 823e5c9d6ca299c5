//! Crashes under `outrigger run`: no connection of a program escapes, and nothing is left behind.

use std::net::TcpListener;
use std::process::Stdio;

use rustix::process::{Signal, kill_process};

use super::machine::{CALL, Machine, Run, exists, is_running};

/// Prints the process ID of the program, that of a process in the background, and the cgroup.
const BACKGROUND: &str = "sleep 1000 & echo $$ $! $(grep ^0:: /proc/self/cgroup); wait";

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
fn nothing_in_the_cgroup_survives_a_killed_run() {
    let machine = Machine::start();
    // The session of the second one is its own.
    let program = format!("setsid {BACKGROUND}");
    let mut command = machine.command("client", 1, &[], &["sh", "-c", &program]);
    let mut run = Run(command.stdout(Stdio::piped()).spawn().unwrap());
    let line = run.line();
    let [program, background, cgroup] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
    assert_eq!(machine.tables(), 1);
    let guard = run.helper("guard");
    // The redirection stays as long as the program.
    kill_process(guard, Signal::STOP).unwrap();
    let stat = format!("/proc/{guard}/stat");
    machine.wait(|| std::fs::read_to_string(&stat).unwrap().contains(") T "));
    run.signal(Signal::KILL);
    run.ended();
    assert_eq!((machine.tables(), is_running(background)), (1, true));
    kill_process(guard, Signal::CONT).unwrap();
    machine.wait(|| machine.tables() == 0);
    assert!(!is_running(program) && !is_running(background) && !exists(cgroup));
}

#[test]
fn what_a_killed_guard_leaves_is_removed_by_the_next_run() {
    let machine = Machine::start();
    let inner = "cgroup=$(grep -m1 ' - cgroup2 ' /proc/self/mountinfo | cut -d' ' -f5)$(sed -n s/^0:://p /proc/self/cgroup); \
                 mkdir -p $cgroup/inner/most; sleep 1000 & echo $! >$cgroup/inner/most/cgroup.procs; \
                 echo $$ $! $(grep ^0:: /proc/self/cgroup); wait";
    let mut command = machine.command("client", 1, &[], &["sh", "-c", inner]);
    let mut run = Run(command.stdout(Stdio::piped()).spawn().unwrap());
    let line = run.line();
    let [program, background, cgroup] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
    let guard = run.helper("guard");
    kill_process(guard, Signal::STOP).unwrap();
    run.signal(Signal::KILL);
    run.ended();
    kill_process(guard, Signal::KILL).unwrap();
    machine.wait(|| machine.tables() == 0);
    assert!(is_running(background) && exists(cgroup));
    let again = machine.command("client", 1, &[], &["true"]).status().unwrap();
    assert!(again.success(), "{again}");
    assert!(!is_running(program) && !is_running(background) && !exists(cgroup));
}

#[test]
fn a_guard_that_is_killed_is_started_again() {
    let machine = Machine::start();
    let mut command = machine.command("client", 1, &[], &["sh", "-c", BACKGROUND]);
    let mut run = Run(command.stdout(Stdio::piped()).spawn().unwrap());
    let line = run.line();
    let [_, background, _] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
    let first = run.helper("guard");
    kill_process(first, Signal::KILL).unwrap();
    machine.wait(|| !is_running(&first.to_string()));
    let pid = run.0.id();
    let children = || std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    machine.wait(|| children().split_whitespace().count() == 3);
    assert_ne!(run.helper("guard"), first);
    run.signal(Signal::KILL);
    run.ended();
    machine.wait(|| !is_running(background) && machine.tables() == 0);
}

#[test]
fn connections_wait_for_a_sidecar_that_crashes_and_its_ports_stay_taken() {
    let machine = Machine::start();
    let _server = machine.serve(1);
    let program =
        format!("echo ready; until {CALL} >/dev/null; do sleep 0.1; done; echo called; read line; {CALL}");
    let mut command = machine.command("client", 2, &[], &["sh", "-c", &program]);
    let mut run = Run(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    assert_eq!(run.line(), "ready");
    assert_eq!(run.line(), "called");
    let redirections = machine.host().run(&["nft", "list", "ruleset"]);
    let ports = redirections.split("redirect to :").skip(1);
    let ports: Vec<u16> =
        ports.map(|rest| rest.split_whitespace().next().unwrap().parse().unwrap()).collect();
    assert!(ports.len() > 4, "{redirections}");
    let sidecar = run.helper("sidecar");
    kill_process(sidecar, Signal::KILL).unwrap();
    machine.wait(|| !is_running(&sidecar.to_string()));
    for port in ports {
        for address in ["127.0.0.1", "0.0.0.0"] {
            let bound = machine.host().inside(move || TcpListener::bind((address, port)));
            assert!(bound.is_err(), "{address}:{port}");
        }
    }
    drop(run.0.stdin.take());
    let mut rest = String::new();
    std::io::Read::read_to_string(run.0.stdout.as_mut().unwrap(), &mut rest).unwrap();
    assert!(rest.contains("paddle"), "{rest}");
    assert_eq!(run.ended().code(), Some(0));
}
