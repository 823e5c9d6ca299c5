//! Typical mistakes with a mesh on one machine. What is printed for each names the cause and the next step, as in
//! docs/troubleshooting.md: a mistake without a row, and a row without a mistake here, fail the test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

mod mistakes {
    pub(crate) mod mesh;
    pub(crate) mod page;
}

use std::net::TcpListener;
use std::time::{Duration, Instant};

use mistakes::mesh::{Mesh, Running, free, http, outrigger};
use mistakes::page::{Row, rows};

/// What is printed for a mistake must show its row soon.
type Mistake = fn(&Mesh, &Row);

const MISTAKES: &[(&str, Mistake)] = &[
    ("wrong port in the URL", |mesh, row| row.soon(|| mesh.get("http://hello:8080/"))),
    ("typo in the service's name", |mesh, row| row.soon(|| mesh.get("http://helo/"))),
    ("wrong namespace", |mesh, row| row.soon(|| mesh.get("http://hello.shop/"))),
    ("service without a workload", |mesh, row| row.soon(|| mesh.get("http://empty/"))),
    ("no route for the path", |mesh, row| row.soon(|| mesh.get("http://routed/x"))),
    ("HTTP to a TCP service", |mesh, row| row.soon(|| mesh.get("http://db:5432/"))),
    ("route to a Service that does not exist", |mesh, row| row.soon(|| mesh.get("http://broken/"))),
    ("route to a port that the Service does not have", |mesh, row| row.soon(|| mesh.get("http://badport/"))),
    ("application not started", application_not_started),
    ("application crashed", application_crashed),
    ("application crashed, as a caller reads it", application_crashed_for_a_caller),
    ("no token", |mesh, row| {
        let sidecar = mesh.sidecar("no-token", None, &[]);
        row.soon(|| sidecar.log());
    }),
    ("expired token", |mesh, row| {
        let token = mesh.token(&["--ttl", "1s"]);
        std::thread::sleep(Duration::from_millis(1500));
        let sidecar = mesh.sidecar("expired", Some(&token), &[]);
        row.soon(|| sidecar.log());
        row.soon(|| sidecar.ready());
    }),
    ("one token for two workloads", |mesh, row| {
        let sidecar = mesh.sidecar("used", Some(&mesh.path("token")), &[]);
        row.soon(|| sidecar.log());
    }),
    ("control plane not started yet", |mesh, row| {
        let nowhere = free().to_string();
        let sidecar = mesh.sidecar_of("cp-away", &nowhere, &mesh.path("cp/roots.pem"), &mesh.token(&[]));
        row.soon(|| sidecar.log());
        row.soon(|| sidecar.ready());
    }),
    ("control plane stopped", control_plane_stopped),
    ("roots.pem is not there", |mesh, row| {
        let absent = mesh.path("absent/roots.pem");
        let sidecar = mesh.sidecar_of("no-roots", &mesh.listen, &absent, &mesh.token(&[]));
        row.soon(|| sidecar.log());
    }),
    ("wrong --control-plane-ca", |mesh, row| {
        let roots = mesh.other_roots();
        let sidecar = mesh.sidecar_of("wrong-ca", &mesh.listen, &roots, &mesh.token(&[]));
        row.soon(|| sidecar.log());
    }),
    ("wrong --trust-domain", |mesh, row| {
        let sidecar = mesh.sidecar("domain", Some(&mesh.token(&[])), &["--trust-domain", "other.example"]);
        row.soon(|| sidecar.log());
    }),
    ("the admin port for --control-plane", |mesh, row| {
        let roots = mesh.path("cp/roots.pem");
        let sidecar = mesh.sidecar_of("admin-port", &mesh.admin, &roots, &mesh.token(&[]));
        row.soon(|| sidecar.log());
    }),
    ("--service that the mesh does not have", |mesh, row| {
        let service = format!("helo={},listen={}", free(), free());
        let sidecar = mesh.sidecar("unknown", Some(&mesh.token(&[])), &["--service", &service]);
        row.soon(|| sidecar.log());
    }),
    ("--service with a port that the Service does not have", |mesh, row| {
        let service = format!("hello:8080={},listen={}", free(), free());
        let sidecar = mesh.sidecar("port", Some(&mesh.token(&[])), &["--service", &service]);
        row.soon(|| sidecar.log());
    }),
    ("two sidecars on one port", |mesh, row| {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let sidecar =
            mesh.sidecar("taken", Some(&mesh.token(&[])), &["--bind", &format!("{address}=db:5432")]);
        row.soon(|| sidecar.log());
    }),
    ("two sidecars with one state directory", |mesh, row| {
        let sidecar = mesh.sidecar("hello", Some(&mesh.token(&[])), &[]);
        row.soon(|| sidecar.log());
    }),
    ("two control planes with one state directory", |mesh, row| {
        let (config, state) = (mesh.path("config"), mesh.path("cp"));
        let any = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        row.soon(|| {
            outrigger(&[&["control-plane", "--config", &config, "--state-dir", &state], &any[..]].concat())
        });
    }),
    ("the xDS port for --admin", |mesh, row| row.soon(|| outrigger(&["status", "--admin", &mesh.listen]))),
    ("a proxy's admin port for --admin", |mesh, row| {
        row.soon(|| outrigger(&["status", "--admin", &mesh.hello_admin]));
    }),
    ("no control plane for a command", |_, row| {
        let nowhere = free().to_string();
        row.soon(|| outrigger(&["status", "--admin", &nowhere]));
    }),
    ("token for a wrong state directory", |mesh, row| {
        let wrong = mesh.path("wrong");
        let identity = ["--namespace", "default", "--service-account", "hello"];
        row.soon(|| outrigger(&[&["token", "create", "--state-dir", &wrong], &identity[..]].concat()));
    }),
    ("unknown flag", |_, row| row.soon(|| outrigger(&["proxy", "--control-plan", "127.0.0.1:15010"]))),
    ("no collector at OTEL_EXPORTER_OTLP_ENDPOINT", |mesh, row| {
        let collector = format!("http://{}", free());
        let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.as_str())];
        let sidecar = mesh.sidecar_with("otlp", Some(&mesh.token(&[])), &[], &environment);
        row.soon(|| {
            http(&sidecar.outbound, "http://hello/");
            sidecar.log()
        });
    }),
];

#[test]
fn every_mistake_on_the_page_prints_its_cause_and_the_next_step() {
    let rows = rows();
    let causes: Vec<_> = rows.iter().map(|row| row.cause.as_str()).collect();
    assert_eq!(
        causes,
        MISTAKES.iter().map(|(cause, _)| *cause).collect::<Vec<_>>(),
        "the page and this test"
    );
    let mesh = Mesh::start();
    // A few at a time: each starts processes.
    let mut failed = Vec::new();
    for some in MISTAKES.chunks(6) {
        std::thread::scope(|scope| {
            let running: Vec<_> = some
                .iter()
                .map(|(cause, mistake)| {
                    let (mesh, row) = (&mesh, rows.iter().find(|row| row.cause == *cause).unwrap());
                    (cause, scope.spawn(move || mistake(mesh, row)))
                })
                .collect();
            failed
                .extend(running.into_iter().filter_map(|(cause, run)| run.join().is_err().then_some(*cause)));
        });
    }
    assert!(failed.is_empty(), "{failed:?}");
}

/// Starts a sidecar of `service` in front of an application at `application`.
fn serving(mesh: &Mesh, service: &str, application: std::net::SocketAddr) -> Running {
    let flag = format!("{service}={application},listen={}", free());
    mesh.sidecar(service, Some(&mesh.token(&[])), &["--service", &flag])
}

fn application_not_started(mesh: &Mesh, row: &Row) {
    let sidecar = serving(mesh, "late", free());
    row.soon(|| sidecar.log());
    let warned = || sidecar.ready().contains("\nwarning: nothing listens at ");
    assert!(warned(), "{}", sidecar.ready());
}

fn application_crashed(mesh: &Mesh, row: &Row) {
    let application = TcpListener::bind("127.0.0.1:0").unwrap();
    let sidecar = serving(mesh, "crash", application.local_addr().unwrap());
    // It was probed once, so that it counts as ready.
    drop(application.accept());
    drop(application);
    row.soon(|| {
        mesh.get("http://crash/");
        sidecar.ready()
    });
}

fn application_crashed_for_a_caller(mesh: &Mesh, row: &Row) {
    let address = free();
    let _sidecar = serving(mesh, "dead", address);
    // A caller reads this only until the sidecar has noticed, so that it may take several crashes.
    row.soon(|| {
        let application = TcpListener::bind(address).unwrap();
        application.set_nonblocking(true).unwrap();
        let started = Instant::now();
        // The probe of the sidecar, if it counts the application as unreachable.
        while application.accept().is_err() && started.elapsed() < Duration::from_secs(1) {
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(application);
        loop {
            let answer = mesh.get("http://dead/");
            if !answer.contains("no_healthy_upstream") || started.elapsed() > Duration::from_secs(2) {
                return answer;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}

fn control_plane_stopped(_: &Mesh, row: &Row) {
    let mut mesh = Mesh::start();
    mesh.stop_control_plane();
    let log = || mesh.hello.log();
    row.soon(log);
}
