//! Discovery as a whole against a control plane in memory that the test plays by hand.

use std::sync::Arc;

use outrigger_config::build::Builder;
use outrigger_config::demand::{Answer, DemandLimits, Demands, Resolution};
use outrigger_config::secrets::SecretStore;
use outrigger_config::snapshot::Snapshot;
use outrigger_core::identity::TrustDomain;
use outrigger_proto::xds::discovery::Resource;
use outrigger_proto::xds::protobuf::Any;

use super::*;
use crate::clock::Clock;
use crate::discovery::{Config, Discovery, Handle, StartError, Wiring};
use crate::dns::Dns;
use crate::testing::{AdsCall, Ca, Stage, stage, xds};

/// A test that waits for longer, on the paused clock, waits in vain.
const PATIENCE: Duration = Duration::from_secs(400);

/// A proxy's discovery and the two ends of it that the data path has.
struct Proxy {
    handle: Handle,
    published: Published,
    demands: Demands,
}

struct World {
    ca: Arc<Ca>,
    clock: Clock,
    stage: Stage,
}

impl World {
    fn new() -> Self {
        let ca = Arc::new(Ca::new());
        std::fs::write(ca.dir().join("token"), "good").unwrap();
        let clock = Clock::paused();
        let stage = stage(&ca, clock);
        stage.issuance.lock().unwrap().life = Duration::from_secs(3600);
        Self { ca, clock, stage }
    }

    async fn proxy(&self) -> Proxy {
        self.start(Mode::OnDemand).await.unwrap()
    }

    async fn start(&self, mode: Mode) -> Result<Proxy, StartError> {
        let published = Published::new(Arc::new(Snapshot::default()));
        let (demands, feed) = Demands::new(DemandLimits::default(), Resolution::OnDemand, published.clone());
        let config = Config {
            control_plane: String::new(),
            control_plane_ca: self.ca.roots_file().into(),
            token_file: Some(self.ca.dir().join("token")),
            state_dir: self.ca.dir().join("state"),
            instance: "cart-1".into(),
            mode,
            trust_domain: TrustDomain::parse("cluster.local").unwrap(),
            ports: Vec::new(),
            labels: Default::default(),
        };
        let wiring = Wiring {
            builder: Builder::new(Vec::new()),
            published: published.clone(),
            demands: feed,
            secrets: SecretStore::new(),
            dns: Dns::from_system().unwrap(),
        };
        let control_plane = self.stage.control_plane.clone();
        let handle = Discovery::start_towards(control_plane, config, wiring, self.clock).await?;
        Ok(Proxy { handle, published, demands })
    }

    async fn stream(&mut self) -> Server {
        let call = tokio::time::timeout(PATIENCE, self.stage.ads.recv()).await.expect("no stream");
        Server { call: call.unwrap(), nonce: 0 }
    }
}

/// The control plane's end of one stream.
struct Server {
    call: AdsCall,
    nonce: u32,
}

impl Server {
    async fn heard(&mut self) -> DeltaDiscoveryRequest {
        let message = tokio::time::timeout(PATIENCE, self.call.requests.message()).await;
        message.expect("no request").unwrap().unwrap()
    }

    /// The next request that subscribes to or drops something; acknowledgements are passed over.
    async fn heard_names(&mut self) -> (Kind, Vec<String>, Vec<String>) {
        loop {
            let request = self.heard().await;
            assert_eq!(request.error_detail, None);
            let kind = Kind::of_type_url(&request.type_url).unwrap();
            let (more, less) = (request.resource_names_subscribe, request.resource_names_unsubscribe);
            if !more.is_empty() || !less.is_empty() {
                return (kind, more, less);
            }
        }
    }

    async fn heard_answer(&mut self) -> DeltaDiscoveryRequest {
        loop {
            let request = self.heard().await;
            if request.response_nonce == self.nonce.to_string() {
                return request;
            }
        }
    }

    fn say(&mut self, kind: Kind, resources: &[(&str, &str, Any)], removed: &[&str]) {
        self.nonce += 1;
        let resources = resources.iter().map(|(name, version, body)| Resource {
            name: (*name).into(),
            version: (*version).into(),
            resource: Some(body.clone()),
            ..Default::default()
        });
        let response = DeltaDiscoveryResponse {
            type_url: kind.type_url().into(),
            nonce: self.nonce.to_string(),
            resources: resources.collect(),
            removed_resources: removed.iter().map(|name| (*name).into()).collect(),
            ..Default::default()
        };
        self.call.responses.send(Ok(response)).unwrap();
    }

    /// Answers the whole chain of a demand for `cart:80`.
    async fn serve_cart(&mut self) {
        let asked = |kind, name: &str| (kind, vec![name.to_owned()], vec![]);
        assert_eq!(self.heard_names().await, asked(Kind::Listener, "cart:80"));
        self.say(Kind::Listener, &[("cart:80", "1", xds::destination("cart:80", "cart"))], &[]);
        assert_eq!(self.heard_names().await, asked(Kind::Route, "cart"));
        self.say(Kind::Route, &[("cart", "1", xds::route("cart", &["cart"]))], &[]);
        assert_eq!(self.heard_names().await, asked(Kind::Cluster, "cart"));
        self.say(Kind::Cluster, &[("cart", "1", xds::cluster("cart"))], &[]);
        assert_eq!(self.heard_names().await, asked(Kind::Endpoints, "cart"));
        self.say(Kind::Endpoints, &[("cart", "1", xds::endpoints("cart", &["10.0.0.1:80"]))], &[]);
    }
}

/// Asks as a worker does.
async fn ask(proxy: &Proxy, name: &str) -> Answer {
    let view = proxy.published.view();
    proxy.demands.destination(&view, name).await
}

fn endpoints(proxy: &Proxy, cluster: &str) -> Vec<String> {
    let snapshot = proxy.published.load();
    let endpoints = snapshot.clusters[cluster].endpoints.load();
    endpoints.list.iter().map(|endpoint| endpoint.address.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_demand_is_answered_once_its_whole_chain_has_come() {
    let mut world = World::new();
    let proxy = world.proxy().await;
    let mut server = world.stream().await;
    assert_eq!(server.call.caller.as_ref().unwrap().service_account(), "cart");
    let first = server.heard().await;
    assert_eq!(
        (first.node.unwrap().id.as_str(), first.resource_names_subscribe),
        ("cart-1", vec!["*".into()])
    );
    let (answer, ()) = tokio::join!(ask(&proxy, "cart:80"), server.serve_cart());
    assert!(matches!(answer, Answer::Found(_)), "{answer:?}");
    assert_eq!(endpoints(&proxy, "cart"), ["10.0.0.1:80"]);
    assert!(proxy.handle.status().stream.connected_since.is_some());
}

#[tokio::test(start_paused = true)]
async fn what_does_not_exist_is_answered_at_once_and_asked_for_again_later() {
    let mut world = World::new();
    let proxy = world.proxy().await;
    let mut server = world.stream().await;
    server.heard().await;
    let deny = async {
        assert_eq!(server.heard_names().await, (Kind::Listener, vec!["nobody:80".into()], vec![]));
        server.say(Kind::Listener, &[], &["nobody:80"]);
    };
    let asked = Instant::now();
    let (answer, ()) = tokio::join!(ask(&proxy, "nobody:80"), deny);
    assert!(matches!(answer, Answer::Absent) && asked.elapsed() < Duration::from_millis(100));
    assert_eq!(server.heard_names().await, (Kind::Listener, vec![], vec!["nobody:80".into()]));
    assert!(matches!(ask(&proxy, "nobody:80").await, Answer::Absent), "remembered");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let deny = async {
        assert_eq!(server.heard_names().await, (Kind::Listener, vec!["nobody:80".into()], vec![]));
        server.say(Kind::Listener, &[], &["nobody:80"]);
    };
    let (answer, ()) = tokio::join!(ask(&proxy, "nobody:80"), deny);
    assert!(matches!(answer, Answer::Absent));
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_is_refused_is_answered_at_once() {
    let mut world = World::new();
    let proxy = world.proxy().await;
    let mut server = world.stream().await;
    server.heard().await;
    let refuse = async {
        assert_eq!(server.heard_names().await, (Kind::Listener, vec!["cart:80".into()], vec![]));
        server.say(Kind::Listener, &[("cart:80", "1", xds::broken(Kind::Listener))], &[]);
    };
    let asked = Instant::now();
    let (answer, ()) = tokio::join!(ask(&proxy, "cart:80"), refuse);
    assert!(matches!(answer, Answer::Refused), "{answer:?}");
    assert!(asked.elapsed() < Duration::from_millis(100));
    assert!(server.heard_answer().await.error_detail.is_some());
    server.say(Kind::Listener, &[("cart:80", "2", xds::tcp_destination("cart:80", "cart"))], &[]);
    assert_eq!(server.heard_answer().await.error_detail, None);
}

#[tokio::test(start_paused = true)]
async fn a_bad_resource_is_refused_by_name_and_its_last_version_serves_on() {
    let mut world = World::new();
    let proxy = world.proxy().await;
    let mut server = world.stream().await;
    server.heard().await;
    let _ = tokio::join!(ask(&proxy, "cart:80"), server.serve_cart());
    server.say(Kind::Route, &[("cart", "2", xds::broken(Kind::Route))], &[]);
    let nack = server.heard_answer().await;
    assert!(nack.error_detail.unwrap().message.contains("route \"cart\""));
    assert!(proxy.handle.status().kinds[&Kind::Route].refusals.contains_key("cart"));
    assert!(proxy.published.load().routes.contains_key("cart"));
    server.say(Kind::Route, &[("cart", "3", xds::route("cart", &["cart"]))], &[]);
    assert_eq!(server.heard_answer().await.error_detail, None);
    assert!(proxy.handle.status().kinds[&Kind::Route].refusals.is_empty());
}

#[tokio::test(start_paused = true)]
async fn endpoints_change_without_a_new_snapshot() {
    let mut world = World::new();
    let proxy = world.proxy().await;
    let mut server = world.stream().await;
    server.heard().await;
    let _ = tokio::join!(ask(&proxy, "cart:80"), server.serve_cart());
    let generation = proxy.published.load().generation;
    server.say(Kind::Endpoints, &[("cart", "2", xds::endpoints("cart", &["10.0.0.2:80"]))], &[]);
    server.heard_answer().await;
    tokio::task::yield_now().await;
    assert_eq!(endpoints(&proxy, "cart"), ["10.0.0.2:80"]);
    assert_eq!(proxy.published.load().generation, generation);
}

#[tokio::test(start_paused = true)]
async fn a_reconnect_comes_soon_and_says_what_is_held() {
    let mut world = World::new();
    let proxy = world.proxy().await;
    let mut server = world.stream().await;
    server.heard().await;
    let _ = tokio::join!(ask(&proxy, "cart:80"), server.serve_cart());
    server.heard_answer().await;
    drop(server);
    let broken = Instant::now();
    let mut server = world.stream().await;
    assert!(broken.elapsed() <= Duration::from_millis(500));
    for (kind, name) in [
        (Kind::Cluster, "cart"),
        (Kind::Endpoints, "cart"),
        (Kind::Listener, "cart:80"),
        (Kind::Route, "cart"),
    ] {
        let request = server.heard().await;
        assert_eq!(request.type_url, kind.type_url());
        assert_eq!(request.initial_resource_versions[name], "1");
        assert!(request.resource_names_subscribe.contains(&name.to_owned()));
    }
    assert!(matches!(ask(&proxy, "cart:80").await, Answer::Found(_)));
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_refuses_is_tried_again_and_a_quiet_stream_counts_as_success() {
    let mut world = World::new();
    let proxy = world.proxy().await;
    for _ in 0..6 {
        let server = world.stream().await;
        server.call.responses.send(Err(tonic::Status::unavailable("starting"))).unwrap();
    }
    let server = world.stream().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(proxy.handle.status().stream.connected_since.is_some());
    drop(server);
    let broken = Instant::now();
    let _server = world.stream().await;
    assert!(broken.elapsed() <= Duration::from_millis(500));
    assert_eq!(proxy.handle.status().stream.failures, 7);
}

#[tokio::test(start_paused = true)]
async fn a_renewed_certificate_moves_the_stream_to_a_new_connection_and_nothing_is_lost() {
    let mut world = World::new();
    world.stage.issuance.lock().unwrap().life = Duration::from_secs(30);
    let proxy = world.proxy().await;
    let mut server = world.stream().await;
    server.heard().await;
    let _ = tokio::join!(ask(&proxy, "cart:80"), server.serve_cart());
    server.heard_answer().await;
    let generation = proxy.published.load().generation;
    let expiry = proxy.handle.status().identity.certificate.unwrap().not_after;
    let mut next = world.stream().await;
    assert!(world.clock.now() < expiry, "before the old one has expired");
    assert_eq!(proxy.handle.status().identity.issued, 2);
    assert_eq!(next.heard().await.initial_resource_versions["cart"], "1");
    while let Ok(Some(_)) = server.call.requests.message().await {}
    while proxy.handle.status().stream.connections < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(proxy.handle.status().stream.failures, 0);
    assert_eq!(proxy.published.load().generation, generation);
    assert!(matches!(ask(&proxy, "cart:80").await, Answer::Found(_)));
}

#[tokio::test(start_paused = true)]
async fn a_restart_without_a_control_plane_serves_what_was_saved() {
    let mut world = World::new();
    let proxy = world.proxy().await;
    let mut server = world.stream().await;
    server.heard().await;
    let _ = tokio::join!(ask(&proxy, "cart:80"), server.serve_cart());
    server.heard_answer().await;
    proxy.handle.shutdown().await;
    drop(server);

    let proxy = world.proxy().await;
    assert!(proxy.published.load().destination("cart:80").is_some(), "published before start returns");
    assert_eq!(endpoints(&proxy, "cart"), ["10.0.0.1:80"]);
    assert!(matches!(ask(&proxy, "cart:80").await, Answer::Found(_)));
    let mut server = world.stream().await;
    assert_eq!(server.heard().await.initial_resource_versions["cart"], "1");
}

#[tokio::test(start_paused = true)]
async fn a_torn_cache_costs_a_wait_and_no_more() {
    let mut world = World::new();
    StateDir::open(&world.ca.dir().join("state")).unwrap().write(cache::FILE, b"outrigger-xds").unwrap();
    let proxy = world.proxy().await;
    let mut server = world.stream().await;
    server.heard().await;
    let (answer, ()) = tokio::join!(ask(&proxy, "cart:80"), server.serve_cart());
    assert!(matches!(answer, Answer::Found(_)));
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_nobody_uses_is_given_up_with_all_that_it_led_to() {
    let mut world = World::new();
    let proxy = world.proxy().await;
    let mut server = world.stream().await;
    server.heard().await;
    let _ = tokio::join!(ask(&proxy, "cart:80"), server.serve_cart());
    let gone = async {
        let mut dropped = Vec::new();
        while dropped.len() < 4 {
            let (kind, more, less) = server.heard_names().await;
            assert!(more.is_empty());
            dropped.extend(less.into_iter().map(|name| (kind, name)));
        }
        dropped.sort();
        dropped
    };
    let dropped = gone.await;
    let name = |kind, name: &str| (kind, name.to_owned());
    assert_eq!(
        dropped,
        [
            name(Kind::Cluster, "cart"),
            name(Kind::Endpoints, "cart"),
            name(Kind::Listener, "cart:80"),
            name(Kind::Route, "cart"),
        ]
    );
    let snapshot = proxy.published.load();
    assert!(snapshot.destinations.is_empty() && snapshot.clusters.is_empty() && snapshot.routes.is_empty());
    assert!(proxy.handle.reader().resources().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_route_waits_for_its_new_cluster_at_most_fifteen_seconds() {
    let mut world = World::new();
    let proxy = world.proxy().await;
    let mut server = world.stream().await;
    server.heard().await;
    let _ = tokio::join!(ask(&proxy, "cart:80"), server.serve_cart());
    server.heard_answer().await;
    let generation = proxy.published.load().generation;
    server.say(Kind::Route, &[("cart", "2", xds::route("cart", &["v2"]))], &[]);
    assert_eq!(server.heard_answer().await.error_detail, None, "acknowledged before it is warm");
    let mut published = proxy.published.subscribe();
    let waited = Instant::now();
    assert_eq!(proxy.published.load().generation, generation);
    published.changed().await.unwrap();
    assert!((14..=15).contains(&waited.elapsed().as_secs()), "{:?}", waited.elapsed());
    assert!(proxy.published.load().routes.contains_key("cart"));
}

#[tokio::test(start_paused = true)]
async fn in_wildcard_mode_the_server_chooses() {
    let mut world = World::new();
    let proxy = world.start(Mode::Wildcard).await.unwrap();
    let mut server = world.stream().await;
    assert_eq!(server.heard_names().await, (Kind::Cluster, vec!["*".into()], vec![]));
    assert_eq!(server.heard_names().await, (Kind::Listener, vec!["*".into()], vec![]));
    server.say(Kind::Listener, &[("cart:80", "1", xds::destination("cart:80", "cart"))], &[]);
    assert_eq!(server.heard_names().await, (Kind::Route, vec!["cart".into()], vec![]));
    server.say(Kind::Cluster, &[("cart", "1", xds::cluster("cart")), ("b", "1", xds::cluster("b"))], &[]);
    assert_eq!(server.heard_names().await, (Kind::Endpoints, vec!["b".into(), "cart".into()], vec![]));
    server.say(Kind::Route, &[("cart", "1", xds::route("cart", &["cart"]))], &[]);
    let mut published = proxy.published.subscribe();
    server.say(Kind::Endpoints, &[("cart", "1", xds::endpoints("cart", &["10.0.0.1:80"]))], &[]);
    published.changed().await.unwrap();
    assert!(proxy.published.load().destination("cart:80").is_some(), "b's endpoints keep nobody waiting");
    server.say(Kind::Listener, &[], &["cart:80"]);
    published.changed().await.unwrap();
    assert!(proxy.published.load().destination("cart:80").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_start_that_cannot_succeed_says_what_and_where() {
    let world = World::new();
    std::fs::write(world.ca.dir().join("state"), "a file").unwrap();
    let error = world.start(Mode::OnDemand).await.err().unwrap().to_string();
    assert!(error.contains("state directory") && error.contains("/state"), "{error}");
    std::fs::remove_file(world.ca.dir().join("state")).unwrap();
    std::fs::remove_file(world.ca.dir().join("token")).unwrap();
    let error = world.start(Mode::OnDemand).await.err().unwrap().to_string();
    assert!(error.contains("token"), "{error}");
}
