//! A namespace gets sidecars without an outage: its clients without sidecars are served in plain text until it becomes strict.

use std::thread::sleep;
use std::time::Duration;

use crate::cluster::{eventually, kubectl, on_the_node};
use crate::load::Load;
use crate::manifests::{deployment, server, service};
use crate::namespace::{Namespace, has_sidecar};

#[test]
fn clients_without_sidecars_lose_no_request_until_a_namespace_is_strict() {
    let (shop, clients) = (Namespace::plain("way-in"), Namespace::plain("no-sidecars"));
    // Without a sidecar, only an application that waits at its end loses nothing in a rolling restart.
    let more = ", env: [{name: GREETING_PORT, value: \"3306\"}], lifecycle: {preStop: {sleep: {seconds: 5}}}";
    shop.apply(&deployment("web", 2, &server(more)));
    shop.apply(&service("mysql", "web", "ports: [{name: mysql, port: 3306}]"));
    let load = Load::start(&clients, "http://web.way-in/", 50);
    shop.ready("deploy/web");

    load.during("namespace labelled, pods restarted", || {
        kubectl(&["label", "namespace", "way-in", "outrigger.dev/inject=enabled"]);
        shop.kubectl(&["rollout", "restart", "deploy/web"]);
        shop.kubectl(&["rollout", "status", "deploy/web", "--timeout=120s"]);
        eventually("sidecars in all pods", 60, || match shop.pods("app=web") {
            pods if pods.iter().all(has_sidecar) => Ok(()),
            pods => Err(format!("{} pods", pods.len())),
        });
        sleep(Duration::from_secs(2));
    });
    // A server that speaks first, on a port without a declared protocol.
    let greeting = clients.exec("load", &["/pod", "greet", "mysql.way-in:3306"]).unwrap();
    assert!(greeting.starts_with("hello from web-") && greeting.contains("ping"), "{greeting}");
    assert!(check().contains("no-sidecars/load calls port 8080 without mTLS"), "{}", check());

    let meshed = Load::start(&shop, "http://web/", 50);
    meshed.during("strict", || {
        kubectl(&["label", "namespace", "way-in", "outrigger.dev/mtls=strict"]);
        let url = format!("http://{}:8080/", shop.address("app=web"));
        eventually("a refusal", 30, || match on_the_node(&["curl", "-fsS", "-m", "5", &url]) {
            Ok(answer) => Err(answer),
            Err(_) => Ok(()),
        });
        sleep(Duration::from_secs(2));
    });
    let before = load.counts();
    sleep(Duration::from_secs(3));
    assert!(load.counts().lost > before.lost, "new connections without mTLS are served by a strict port");
    assert!(
        check().contains("no-sidecars/load called port 8080 without mTLS and was refused"),
        "{}",
        check()
    );

    kubectl(&["label", "namespace", "way-in", "outrigger.dev/mtls=permissive", "--overwrite"]);
    sleep(Duration::from_secs(5));
    load.during("permissive again", || sleep(Duration::from_secs(3)));
}

/// Returns what `outrigger check` says of the namespace.
fn check() -> String {
    on_the_node(&[env!("CARGO_BIN_EXE_outrigger"), "check", "-n", "way-in"]).unwrap()
}
