//! Names of the mesh in a captured namespace, for programs that know nothing of it.

use std::net::UdpSocket;
use std::path::Path;

use super::mesh::{DNS_PORT, Mesh};
use super::support::OUTRIGGER;
use super::{FAMILIES, Family};

/// Returns the first words of a command line that runs with another `/etc/resolv.conf`, in a mount namespace of its own.
pub(super) fn with_resolv_conf(file: &Path) -> [&str; 6] {
    let bound = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    ["unshare", "--mount", "sh", "-c", bound, file.to_str().unwrap()]
}

/// Runs a command so in the client's namespace.
fn try_run(mesh: &Mesh, resolv_conf: &Path, command: &[&str]) -> Result<String, String> {
    mesh.client.try_run(&[&with_resolv_conf(resolv_conf), command].concat())
}

/// Serves a name server that has one address for every name: 192.0.2.7, or 2001:db8::7.
pub(super) fn serve(socket: &UdpSocket) {
    let mut query = [0; 512];
    while let Ok((length, client)) = socket.recv_from(&mut query) {
        let question = query[12..length].iter().position(|byte| *byte == 0).unwrap() + 17;
        let kind = query[question - 3];
        let address: &[u8] = match kind {
            1 => &[192, 0, 2, 7],
            28 => &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
            _ => panic!("{kind}"),
        };
        let header = [query[0], query[1], 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
        let record = [0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, u8::try_from(address.len()).unwrap()];
        let response = [&header, &query[12..question], &record, address].concat();
        socket.send_to(&response, client).unwrap();
    }
}

#[test]
fn programs_call_services_by_name_through_both_sidecars() {
    for family in FAMILIES {
        let mesh = Mesh::start(family);
        let at = mesh.name_server();
        let socket = mesh.server.inside(move || UdpSocket::bind(at).unwrap());
        std::thread::spawn(move || serve(&socket));
        let directory = tempfile::tempdir().unwrap();
        let (file, tcp) = (directory.path().join("resolv.conf"), directory.path().join("tcp"));
        // Nothing listens there: all queries to it are redirected.
        let conf = format!("nameserver {}\noptions timeout:1\n", at.ip());
        std::fs::write(&file, &conf).unwrap();
        std::fs::write(&tcp, conf + "options use-vc\n").unwrap();
        let port = DNS_PORT.to_string();
        let capture = [OUTRIGGER, "capture", "--exclude-inbound-ports", "15010", "--dns-port", &port];
        assert!(try_run(&mesh, &file, &["getent", "ahosts", "echo.default"]).is_err(), "not captured yet");
        try_run(&mesh, &file, &capture).unwrap();

        let (own, automatic, outside) = match family {
            Family::V4 => ("10.96.0.10", "240.", "192.0.2.7"),
            Family::V6 => ("fd96::10", "fd6f:7574:7269:", "2001:db8::7"),
        };
        for conf in [&file, &tcp] {
            for (name, expected) in [
                ("echo.default", own),
                ("echo", own),
                ("echo.default.svc.cluster.local", own),
                ("plain.default", automatic),
            ] {
                let found = try_run(&mesh, conf, &["getent", "ahosts", name]);
                assert!(
                    found.as_ref().is_ok_and(|found| found.lines().any(|line| line.starts_with(expected))),
                    "{name}: {found:?}"
                );
            }
        }
        let found = try_run(&mesh, &file, &["getent", "ahosts", "www.example.com"]);
        assert!(found.as_ref().is_ok_and(|found| found.contains(outside)), "{found:?}");
        for (number, name) in (1..).zip(["echo", "echo.default", "plain.default"]) {
            let url = format!("http://{name}/items");
            let answer = try_run(&mesh, &file, &["curl", "-sf", "-m", "5", &url]);
            assert!(answer.as_ref().is_ok_and(|answer| answer.contains("paddle")), "{name}: {answer:?}");
            assert_eq!(mesh.served_to("client"), number, "over mutual TLS");
        }
        mesh.client.run(&[OUTRIGGER, "capture", "--remove"]);
        assert!(try_run(&mesh, &file, &["getent", "ahosts", "echo.default"]).is_err(), "removed");
    }
}
