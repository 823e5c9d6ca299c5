//! Instances of `outrigger rate-limit` that count in Debian's redis-server, which is killed, restarted and stopped, under load and in a mesh.
//! Part of `tests/heavier`, which installs it, and builds Envoy's own rate limit service.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

#[path = "support/rate_limit.rs"]
mod rate_limit;
mod support;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use outrigger::ports;
use outrigger_proto::xds::ratelimit_service::rate_limit_response::Code;
use outrigger_test_support::wait::eventually;
use rate_limit::{Limited, Service, ask};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const SHOP: &str = "domain: shop
descriptors:
- key: caller
  rate_limit: { unit: day, requests_per_unit: LIMIT }
";
const CONNECTED: &str = "outrigger_rate_limit_store_connected";
const ERRORS: &str = "outrigger_rate_limit_answers_total{code=\"error\"}";

/// A redis-server without persistence, in a folder of its own. It is killed when it is dropped.
struct Redis {
    process: Child,
    _directory: tempfile::TempDir,
}

impl Redis {
    fn start(at: SocketAddr, more: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let process = Command::new("redis-server")
            .args(["--bind", &at.ip().to_string(), "--port", &at.port().to_string()])
            .args(["--save", "", "--appendonly", "no", "--dir", directory.path().to_str().unwrap()])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, _directory: directory }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn limits(limit: u64) -> String {
    SHOP.replace("LIMIT", &limit.to_string())
}

/// Waits until each of these is connected to its store.
async fn connected(services: &[Service]) {
    for service in services {
        service.client().await;
        eventually("a connected store", async || (service.metric(CONNECTED).await == 1).then_some(())).await;
    }
}

/// Envoy's rate limit service, with the limits in its runtime folder. It is killed when it is dropped.
struct Envoys {
    process: Child,
    _runtime: tempfile::TempDir,
}

impl Envoys {
    fn start(at: SocketAddr, limits: &str, redis: SocketAddr) -> Self {
        let runtime = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(runtime.path().join("ratelimit/config")).unwrap();
        std::fs::write(runtime.path().join("ratelimit/config/shop.yaml"), limits).unwrap();
        let [http, debug] = ports::free().unwrap();
        let process = Command::new(std::env::var("OUTRIGGER_RATELIMIT").unwrap())
            .envs([("RUNTIME_ROOT", runtime.path().to_str().unwrap()), ("RUNTIME_SUBDIRECTORY", "ratelimit")])
            .envs([("RUNTIME_WATCH_ROOT", "false"), ("USE_STATSD", "false")])
            .envs([("GRPC_HOST", at.ip().to_string()), ("GRPC_PORT", at.port().to_string())])
            .envs([("HOST", http.ip().to_string()), ("PORT", http.port().to_string())])
            .envs([("DEBUG_HOST", debug.ip().to_string()), ("DEBUG_PORT", debug.port().to_string())])
            .envs([("REDIS_SOCKET_TYPE", "tcp"), ("REDIS_URL", &redis.to_string()), ("REDIS_TIMEOUT", "2s")])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, _runtime: runtime }
    }
}

impl Drop for Envoys {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What questions were answered with, so far.
#[derive(Default)]
struct Answers {
    ok: AtomicU64,
    over: AtomicU64,
    errors: AtomicU64,
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_admit_exactly_the_limit_before_and_after_a_restart_under_load() {
    const LIMIT: u64 = 200;
    let [at] = ports::free().unwrap();
    let redis = Redis::start(at, &[]);
    // Long, so that no question fails on a busy machine while the store is there.
    let flags = ["--redis", &at.to_string(), "--redis-timeout", "30s"];
    let services = [(); 2].map(|()| Service::start(&limits(LIMIT), &flags, &[]));
    connected(&services).await;

    let (stop, answers) = (Arc::<AtomicBool>::default(), Arc::<Answers>::default());
    let mut load = JoinSet::new();
    for service in services.iter().cycle().take(6) {
        let (stop, answers, mut client) = (Arc::clone(&stop), Arc::clone(&answers), service.client().await);
        load.spawn(async move {
            while !stop.load(Relaxed) {
                let counter = match ask(&mut client, "web").await {
                    Err(status) if status.code() == tonic::Code::Unavailable => &answers.errors,
                    Err(status) => panic!("{status:?}"),
                    Ok(answer) if answer.overall_code == i32::from(Code::OverLimit) => &answers.over,
                    Ok(_) => &answers.ok,
                };
                counter.fetch_add(1, Relaxed);
            }
        });
    }
    eventually("a limit", async || (answers.over.load(Relaxed) > 1000).then_some(())).await;
    assert_eq!((answers.ok.load(Relaxed), answers.errors.load(Relaxed)), (LIMIT, 0));

    // Without the store, each question is answered with an error, which is counted.
    drop(redis);
    eventually("errors", async || (answers.errors.load(Relaxed) > 500).then_some(())).await;
    assert_eq!(answers.ok.load(Relaxed), LIMIT);

    // A new store is used as soon as it is there, and counts from 0.
    let over = answers.over.load(Relaxed);
    let _redis = Redis::start(at, &[]);
    eventually("a limit again", async || (answers.over.load(Relaxed) > over + 1000).then_some(())).await;
    stop.store(true, Relaxed);
    load.join_all().await;
    assert_eq!(answers.ok.load(Relaxed), 2 * LIMIT);
    let mut errors = 0;
    for service in &services {
        errors += service.metric(ERRORS).await;
    }
    assert_eq!(errors, answers.errors.load(Relaxed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_is_an_error_until_it_goes_on() {
    let [at] = ports::free().unwrap();
    let redis = Redis::start(at, &[]);
    let services =
        [Service::start(&limits(1), &["--redis", &at.to_string(), "--redis-timeout", "250ms"], &[])];
    connected(&services).await;
    let mut client = services[0].client().await;
    redis.signal(Signal::STOP);
    for _ in 0..3 {
        let error = ask(&mut client, "web").await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::Unavailable, "{error:?}");
    }
    // It is no longer asked, until it is connected again.
    eventually("a given up store", async || (services[0].metric(CONNECTED).await == 0).then_some(())).await;
    ask(&mut client, "web").await.unwrap_err();
    redis.signal(Signal::CONT);
    let answer = eventually("an answer", async || ask(&mut client, "other").await.ok()).await;
    assert!(answer.statuses[0].current_limit.is_some(), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_that_ask_two_instances_share_one_limit_and_admit_while_the_store_is_away() {
    let [at] = ports::free().unwrap();
    let redis = Redis::start(at, &[]);
    let flags = ["--redis", &at.to_string(), "--redis-timeout", "2s"];
    let services = [(); 2].map(|()| Service::start(&limits(4), &flags, &[]));
    connected(&services).await;
    let mesh = Limited::start(&services.each_ref().map(|service| service.address));
    eventually("an instance of cart", async || (mesh.get().await.status == 200).then_some(())).await;
    let mut statuses = Vec::new();
    for _ in 0..8 {
        statuses.push(mesh.get().await.status);
    }
    assert_eq!(statuses, [200, 200, 200, 429, 429, 429, 429, 429]);
    assert_eq!(mesh.failed_open().await, 0.0);

    redis.signal(Signal::STOP);
    for admitted in 1..=4 {
        assert_eq!(mesh.get().await.status, 200);
        assert_eq!(mesh.failed_open().await, f64::from(admitted));
    }
    drop(redis);
    assert_eq!(mesh.get().await.status, 200);
    let failed_open = mesh.failed_open().await;
    assert_eq!(failed_open, 5.0);

    let _redis = Redis::start(at, &[]);
    connected(&services).await;
    let mut admitted = 0;
    while mesh.get().await.status == 200 {
        admitted += 1;
    }
    assert_eq!((admitted, mesh.failed_open().await), (4, failed_open));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_can_ask_for_a_password_over_tls() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(path("cert.pem"), issued.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), issued.signing_key.serialize_pem()).unwrap();
    let [plain, tls] = ports::free().unwrap();
    let [certificate, key] = ["cert.pem", "key.pem"].map(path);
    let _redis =
        Redis::start(
            plain,
            &[
                &[
                    "--tls-port",
                    &tls.port().to_string(),
                    "--tls-auth-clients",
                    "no",
                    "--requirepass",
                    "secret",
                ][..],
                &["--tls-cert-file", &certificate, "--tls-key-file", &key],
            ]
            .concat(),
        );
    let to = |password: &str, port: u16, scheme: &str| {
        let address = format!("{scheme}://:{password}@localhost:{port}");
        Service::start(
            &limits(1),
            &["--redis-timeout", "30s"],
            &[("OUTRIGGER_REDIS", &address), ("SSL_CERT_FILE", &certificate)],
        )
    };
    let services = [to("secret", tls.port(), "rediss"), to("secret", plain.port(), "redis")];
    connected(&services).await;
    let mut codes = Vec::new();
    for service in &services {
        codes.push(ask(&mut service.client().await, "web").await.unwrap().overall_code);
    }
    assert_eq!(codes, [Code::Ok, Code::OverLimit].map(i32::from));
    let refused = to("guess", tls.port(), "rediss");
    let mut client = refused.client().await;
    let message = eventually("the reason", async || {
        let error = ask(&mut client, "web").await.unwrap_err();
        error.message().contains("authentication failed").then(|| error.message().to_owned())
    })
    .await;
    assert!(!message.contains("guess"), "{message}");
    assert_eq!(refused.metric(CONNECTED).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_that_ask_envoys_service_share_its_limit_with_the_same_file() {
    let [store, at] = ports::free().unwrap();
    let redis = Redis::start(store, &[]);
    let is_listening = async |to: SocketAddr| TcpStream::connect(to).await.ok();
    eventually("a redis-server", async || is_listening(store).await).await;
    let _service = Envoys::start(at, &limits(4), store);
    eventually("Envoy's rate limit service", async || is_listening(at).await).await;
    let mesh = Limited::start(&[at]);
    eventually("an instance of cart", async || (mesh.get().await.status == 200).then_some(())).await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(mesh.get().await.status);
    }
    let refused = mesh.get().await;
    assert_eq!((statuses, refused.status, refused.reason()), (vec![200; 3], 429, "rate_limited"));
    assert_eq!(refused.field("x-ratelimit-limit"), Some("4, 4;w=86400"));
    assert_eq!(mesh.failed_open().await, 0.0);
    // It answers with an error without its store, and the request is admitted.
    drop(redis);
    assert_eq!(mesh.get().await.status, 200);
    assert_eq!(mesh.failed_open().await, 1.0);
}
