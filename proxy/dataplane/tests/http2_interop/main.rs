//! HTTP/2 programs that we did not write on both sides of a worker: nghttp, h2load, curl, Go's net/http and grpcio as clients; nghttpd, Go
//! and grpcio as servers. All in the clear with prior knowledge, as an application and its sidecar speak.
//!
//! `tests/heavier http2-interop` runs it, since it needs the programs.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests")]

mod clients;
mod programs;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use outrigger_config::listener::{Handler, NetworkFilter};

use crate::programs::{Python, Server, go_program};
use crate::support::frames::http2;
use crate::support::{Proxy, World, forward, listener, manager};

/// Where clients reach each server: its own address, or the worker's listener in front of it.
struct Fronts {
    nghttpd: SocketAddr,
    go: SocketAddr,
    grpc: SocketAddr,
}

/// A worker with a listener for each server.
fn worker(servers: [(&str, &Server); 3]) -> (Proxy, Fronts) {
    let mut world = World::new();
    for (name, server) in servers {
        let handler = Handler::Http(manager(&format!("{name}:80"), forward(name)));
        world =
            world.own(listener(name, NetworkFilter::Handle(handler))).cluster_of(http2(name, server.address));
    }
    let proxy = world.start();
    let [nghttpd, go, grpc] = [0, 1, 2].map(|at| proxy.address(at));
    (proxy, Fronts { nghttpd, go, grpc })
}

/// Counts the requests of the access log that the worker has answered itself or that were cut, by their reason.
fn reasons(proxy: &mut Proxy) -> BTreeMap<String, usize> {
    let mut reasons = BTreeMap::new();
    while let Ok(record) = proxy.records.try_recv() {
        if let Some(reason) = record.reason {
            let reached: Vec<_> =
                record.attempts.iter().map(|attempt| (attempt.reason, attempt.reached)).collect();
            *reasons.entry(format!("{} {reason:?} after {reached:?}", record.status)).or_default() += 1;
        }
    }
    reasons
}

#[tokio::test]
#[ignore = "needs the programs that tests/heavier http2-interop installs"]
async fn the_worker_works_with_other_http2_programs_on_both_sides() {
    let files = programs::files();
    let python = Python::from_env();
    let nghttpd = Server::nghttpd(files.path()).await;
    let go = Server::start(|address| vec![go_program(), "server".into(), address]).await;
    let grpc = Server::start(|address| python.peer("server", address)).await;
    let (mut proxy, fronts) = worker([("nghttpd", &nghttpd), ("go", &go), ("grpc", &grpc)]);
    let mut checks = clients::Checks::default();
    checks.nghttp(&fronts, files.path());
    checks.h2load(&fronts, files.path());
    checks.curl(&fronts, files.path());
    checks.lines("Go to Go", &[go_program(), "client".into(), "go".into(), fronts.go.to_string()]);
    checks.lines(
        "Go to nghttpd",
        &[go_program(), "client".into(), "nghttpd".into(), fronts.nghttpd.to_string()],
    );
    checks.lines("grpcio to grpcio", &python.peer("client", fronts.grpc.to_string()));
    let failed = checks.finish();
    if !failed.is_empty() {
        println!("What the worker has recorded of requests that failed: {:#?}", reasons(&mut proxy));
    }
    assert!(failed.is_empty(), "{} checks failed:\n{}", failed.len(), failed.join("\n"));
}
