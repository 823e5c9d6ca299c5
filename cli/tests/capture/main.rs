//! `outrigger capture` in real network namespaces, with real sidecars and applications that are unaware of them, over IPv4 and
//! IPv6. Part of `tests/heavier`; needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

mod demo;
mod run;
mod run_crashes;
mod run_names;
mod machine;
mod names;
mod mesh;
mod namespace;
#[path = "../support/mod.rs"]
mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use self::mesh::Mesh;
use self::namespace::{Family, Pair};
use self::support::OUTRIGGER;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

#[test]
fn captured_connections_go_through_both_sidecars() {
    for family in FAMILIES {
        let mesh = Mesh::start(family);
        let answer = mesh.client.get(&mesh.service_url());
        assert!(answer.as_ref().is_some_and(|answer| answer.contains("paddle")), "{answer:?}");
        // The original destination selects the destination; `Host` is ignored.
        let answer =
            mesh.client.run(&["curl", "-sf", "-m", "5", "-H", "Host: nowhere.example", &mesh.service_url()]);
        assert!(answer.contains("paddle"), "{answer}");
        assert_eq!(mesh.served_to("client"), 2);
    }
}

#[test]
fn a_workload_reaches_itself() {
    for family in FAMILIES {
        let mesh = Mesh::start(family);
        // Its service: through its own sidecar, outbound and inbound.
        let answer = mesh.server.get(&mesh.service_url());
        assert!(answer.as_ref().is_some_and(|answer| answer.contains("paddle")), "{answer:?}");
        assert_eq!(mesh.served_to("server"), 1);
        // Its own address and loopback: directly.
        for address in [mesh.application, mesh.loopback_application] {
            let answer = mesh.server.get(&format!("http://{address}/items"));
            assert!(answer.is_some_and(|answer| answer.contains("paddle")), "{address}");
        }
        assert_eq!(mesh.served_to("server"), 1);
    }
}

#[test]
fn only_excluded_ports_are_reached_without_the_sidecar() {
    for family in FAMILIES {
        let mesh = Mesh::start(family);
        let there = mesh.application.ip();
        let from_outside = |port| {
            let url = format!("http://{}/items", SocketAddr::new(there, port));
            // The sidecar's user is not captured, so that the request arrives in plain text.
            mesh.client.try_run(&[
                "setpriv",
                "--reuid",
                "1500",
                "--clear-groups",
                "curl",
                "-sf",
                "-m",
                "5",
                &url,
            ])
        };
        assert!(from_outside(mesh.excluded_application.port()).is_ok());
        assert!(from_outside(mesh.application.port()).is_err(), "strict mutual TLS");
        assert!(from_outside(mesh.loopback_application.port()).is_err(), "it listens on loopback alone");
        for port in [15000, 15001] {
            assert!(from_outside(port).is_err(), "{port} listens on loopback alone");
        }
        let metrics = format!("http://{}/metrics", SocketAddr::new(there, 15020));
        assert!(mesh.client.get(&metrics).is_some_and(|page| page.contains("outrigger_")));
    }
}

#[test]
fn open_connections_and_udp_stay_as_they_are() {
    for family in FAMILIES {
        let pair = Pair::new(family, "open");
        let [here, there] = pair.addresses.map(|ip| SocketAddr::new(ip, 7000));
        let echo = pair.server.inside(move || TcpListener::bind(there).unwrap());
        let mut open = pair.client.inside(move || TcpStream::connect(there).unwrap());
        let (mut accepted, _) = echo.accept().unwrap();
        for namespace in [&pair.client, &pair.server] {
            namespace.run(&[OUTRIGGER, "capture"]);
        }
        exchange(&mut open, &mut accepted);
        exchange(&mut accepted, &mut open);
        let connect = move || TcpStream::connect_timeout(&there, Duration::from_secs(5));
        assert!(pair.client.inside(connect).is_err(), "redirected to a sidecar that is not there");
        let udp = pair.server.inside(move || UdpSocket::bind(there).unwrap());
        pair.client.inside(move || UdpSocket::bind(here).unwrap().send_to(b"datagram", there).unwrap());
        udp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut bytes = [0; 16];
        assert_eq!(udp.recv(&mut bytes).unwrap(), 8);
        for namespace in [&pair.client, &pair.server] {
            namespace.run(&[OUTRIGGER, "capture", "--remove"]);
        }
        assert!(pair.client.inside(connect).is_ok());
    }
}

fn exchange(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"hello").unwrap();
    to.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut bytes = [0; 5];
    to.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
}

#[test]
fn the_redirection_is_verified_replaced_and_removed_as_a_whole() {
    for family in FAMILIES {
        let pair = Pair::new(family, "whole");
        let pod = &pair.client;
        pod.run(&["nft", "table inet theirs { chain own { type filter hook input priority 0; }; }"]);
        let before = pod.run(&["nft", "list", "ruleset"]);
        let error = pod.try_run(&[OUTRIGGER, "capture", "--verify"]).unwrap_err();
        assert!(error.contains("connections are not redirected"), "{error}");

        // Also where everything is excluded.
        let flags = [
            OUTRIGGER,
            "capture",
            "--exclude-outbound-cidrs",
            "0.0.0.0/0,::/0",
            "--exclude-inbound-ports",
            "22",
        ];
        pod.run(&flags);
        let set = pod.run(&["nft", "list", "ruleset"]);
        pod.run(&flags);
        assert_eq!(pod.run(&["nft", "list", "ruleset"]), set);
        pod.run(&[OUTRIGGER, "capture", "--verify"]);
        pod.run(
            &[&["setpriv", "--reuid", "65534", "--clear-groups"][..], &[OUTRIGGER, "capture", "--verify"]]
                .concat(),
        );
        let error = pod
            .try_run(
                &[&["setpriv", "--reuid", "1500", "--clear-groups"][..], &[OUTRIGGER, "capture", "--verify"]]
                    .concat(),
            )
            .unwrap_err();
        assert!(error.contains("user 1500"), "{error}");

        pod.run(&[OUTRIGGER, "capture", "--remove"]);
        pod.run(&[OUTRIGGER, "capture", "--remove"]);
        assert_eq!(pod.run(&["nft", "list", "ruleset"]), before);
    }
}

#[test]
fn a_missing_capability_is_named() {
    let pair = Pair::new(Family::V4, "cap");
    let drop = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"];
    let error = pair.client.try_run(&[&drop[..], &[OUTRIGGER, "capture"]].concat()).unwrap_err();
    assert!(error.contains("the capability NET_ADMIN is missing"), "{error}");
}

#[test]
fn the_cni_plugin_captures_pods_with_a_sidecar() {
    for family in FAMILIES {
        let pair = Pair::new(family, "cni");
        let directory = tempfile::tempdir().unwrap();
        // The name of the program decides what it is.
        let plugin = directory.path().join("outrigger-cni");
        std::os::unix::fs::symlink(OUTRIGGER, &plugin).unwrap();
        let call = |command: &str, annotations: &str| {
            let config = format!(
                r#"{{"cniVersion":"1.0.0","name":"pods","type":"outrigger-cni","prevResult":{{"ips":[]}},
                    "runtimeConfig":{{"io.kubernetes.cri.pod-annotations":{annotations}}}}}"#
            );
            let mut child = Command::new(&plugin)
                .env("CNI_COMMAND", command)
                .env("CNI_NETNS", pair.client.path())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            (output.status.success(), String::from_utf8(output.stdout).unwrap())
        };
        let verify = || pair.client.try_run(&[OUTRIGGER, "capture", "--verify"]);
        assert_eq!(call("ADD", "{}"), (true, "{\"ips\":[]}\n".into()));
        assert!(verify().is_err(), "the pod has no sidecar");
        let sidecar = r#"{"outrigger.dev/status":"{}","outrigger.dev/exclude-inbound-ports":"22"}"#;
        let (works, answer) = call("CHECK", sidecar);
        assert!(!works && answer.contains("no redirection"), "{answer}");
        assert_eq!(call("ADD", sidecar), (true, "{\"ips\":[]}\n".into()));
        verify().unwrap();
        assert!(pair.client.run(&["nft", "list", "ruleset"]).contains("tcp dport 22 accept"));
        for command in ["ADD", "CHECK", "DEL"] {
            assert!(call(command, sidecar).0, "{command}");
        }
        let (works, answer) =
            call("ADD", r#"{"outrigger.dev/status":"{}","outrigger.dev/exclude-inbound-ports":"ssh"}"#);
        assert!(!works && answer.contains("--exclude-inbound-ports"), "{answer}");
    }
}
