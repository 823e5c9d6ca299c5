//! A process that has run out of descriptors: alone in its file, since the limit applies to the whole process.

mod support;

use std::fs::File;
use std::time::Duration;

use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::ok;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{World, forward};

#[tokio::test]
async fn a_worker_without_descriptors_waits_and_then_accepts_again() {
    let application = Application::http(|_| ok("served")).await;
    let proxy =
        World::new().proxy().cluster("app", &[application.address]).http("app:80", forward("app")).start();
    let mut before = Client::connect(proxy.address(0)).await;
    assert_eq!(before.get("app", "/").await.body, "served");

    // The client's socket is created first; no descriptor is left for the worker's end of it.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(200), maximum: limit.maximum }).unwrap();
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    let waiting = socket.connect(proxy.address(0)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(before.get("app", "/").await.body, "served", "who is connected is served");
    drop(taken);
    setrlimit(Resource::Nofile, limit).unwrap();

    let mut waited = Client { stream: tokio::io::BufReader::new(waiting) };
    assert_eq!(waited.get("app", "/").await.body, "served");
    // Counted once accepting resumes; a loop without a pause would have failed thousands of times.
    let errors = proxy.totals().process.accept_errors;
    assert!((1..=20).contains(&errors), "{errors} errors");
}
