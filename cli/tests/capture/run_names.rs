//! Names of the mesh under `outrigger run`, for programs that know nothing of it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};

use super::machine::Machine;
use super::names::{serve, with_resolv_conf};

/// The program's name servers: one of this machine, as systemd-resolved is, and one of another.
const NAME_SERVERS: [&str; 2] = ["127.0.0.53", "10.77.0.2"];

/// Starts name servers at both addresses.
fn start_name_servers(machine: &Machine) {
    let [here, there] = NAME_SERVERS.map(|ip| SocketAddr::new(ip.parse::<IpAddr>().unwrap(), 53));
    let bind = move |at| move || UdpSocket::bind(at).unwrap();
    for socket in [machine.host().inside(bind(here)), machine.pair.server.inside(bind(there))] {
        std::thread::spawn(move || serve(&socket));
    }
}

/// Returns what a shell prints that is started by `command` with another `/etc/resolv.conf`.
fn printed(command: &Command, resolv_conf: &Path) -> String {
    let words = command.get_args().map(|word| word.to_str().unwrap().to_owned()).collect::<Vec<_>>();
    // The network namespace is entered first.
    let (enter, words) = words.split_at(2);
    let mut entered = Command::new(command.get_program());
    entered.args(enter).args(with_resolv_conf(resolv_conf)).args(words).stdin(Stdio::null());
    let output = entered.stderr(Stdio::inherit()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_program_calls_services_by_name_whatever_its_name_server_is() {
    let machine = Machine::start();
    start_name_servers(&machine);
    let _server = machine.serve(1);
    let file = machine.path("resolv.conf");
    for (name_server, options) in
        [(NAME_SERVERS[0], ""), (NAME_SERVERS[1], ""), (NAME_SERVERS[0], "options use-vc\n")]
    {
        std::fs::write(&file, format!("nameserver {name_server}\n{options}")).unwrap();
        let shell = "curl -sf -m 5 http://echo.default/items; echo; getent ahostsv4 echo; getent ahostsv4 plain.default; \
                     [ \"$0\" ] || getent ahostsv4 www.example.com";
        let program = ["sh", "-c", shell, options];
        let run = printed(&machine.command("client", 90, &[], &program), &file);
        for expected in ["paddle", "10.96.0.10 ", "240."] {
            assert!(run.contains(expected), "{name_server} {options}: no {expected} in {run}");
        }
        assert!(!options.is_empty() || run.contains("192.0.2.7 "), "it is forwarded: {run}");
    }
    let log = std::fs::read_to_string(machine.path("client-90/sidecar.log")).unwrap();
    assert!(log.contains("answering DNS queries"), "{log}");
}

#[test]
fn queries_are_not_redirected_if_their_port_is_excluded() {
    let machine = Machine::start();
    start_name_servers(&machine);
    let file = machine.path("resolv.conf");
    std::fs::write(&file, format!("nameserver {}\n", NAME_SERVERS[0])).unwrap();
    let flags = ["--exclude-outbound-ports", "53"];
    let program = ["getent", "ahostsv4", "echo.default"];
    let run = printed(&machine.command("client", 90, &flags, &program), &file);
    assert!(run.contains("192.0.2.7 "), "{run}");
}

#[test]
fn queries_of_other_programs_from_the_same_port_are_not_mistaken_for_the_programs() {
    let machine = Machine::start();
    start_name_servers(&machine);
    // A query for the address of echo.default, from a certain port, as the last client had it.
    let query = "import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('10.77.0.1', 40053))
s.settimeout(5)
s.sendto(bytes.fromhex('0007010000010000000000000465636f0764656661756c740000010001'), ('10.77.0.2', 53))
print(socket.inet_ntoa(s.recv(512)[-4:]))";
    let query = query.replace("0465636f", "046563686f");
    let outside = || machine.host().run(&["python3", "-c", &query]);
    assert_eq!(outside(), "192.0.2.7\n", "of the name server");
    for _ in 0..2 {
        let (answer, _) = machine.call(&format!("python3 -c \"{query}\""));
        assert_eq!(answer, "10.96.0.10\n", "of the mesh");
        assert_eq!(outside(), "192.0.2.7\n", "of the name server");
    }
}
