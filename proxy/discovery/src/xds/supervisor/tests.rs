//! Discovery as a whole against an in-memory control plane that the test plays.

mod destinations;
mod resources;
mod reconnect;

use std::sync::Arc;

use outrigger_config::binding::{BindRequests, Binder, Unbound, binder};
use outrigger_config::build::Builder;
use outrigger_config::compiled::Compiled;
use outrigger_config::on_demand::{Lookup, OnDemand, OnDemandLimits, Resolution};
use outrigger_config::secrets::SecretStore;
use outrigger_config::snapshot::Snapshot;
use outrigger_core::identity::TrustDomain;
use outrigger_core::peer::PeerKey;
use outrigger_proto::registration::{RegisterResponse, register_response::Outcome};
use outrigger_proto::xds::discovery::Resource;
use outrigger_proto::xds::protobuf::Any;

use super::*;
use crate::clock::Clock;
use crate::discovery::{Config, Discovery, Handle, StartError, Wiring};
use crate::dns::Dns;
use crate::registration::{Deregistration, WorkloadPort};
use crate::testing::{AdsCall, Ca, FakeControlPlane, fake_control_plane, port, xds};

/// Maximum wait of a test, on the paused clock.
const PATIENCE: Duration = Duration::from_secs(400);

/// A proxy's discovery, and its two interfaces to the data path.
struct Proxy {
    handle: Handle,
    published: Published,
    on_demand: OnDemand,
}

struct World {
    ca: Arc<Ca>,
    clock: Clock,
    fake: FakeControlPlane,
    ports: Vec<WorkloadPort>,
    binder: Binder,
    binds: BindRequests,
}

impl World {
    fn new() -> Self {
        let ca = Arc::new(Ca::new());
        std::fs::write(ca.dir().join("token"), "good").unwrap();
        let clock = Clock::paused();
        let fake = fake_control_plane(&ca, clock);
        fake.issuance.lock().unwrap().lifetime = Duration::from_secs(3600);
        let (binder, binds) = binder();
        Self { ca, clock, fake, ports: Vec::new(), binder, binds }
    }

    async fn proxy(&self) -> Proxy {
        self.start(Mode::OnDemand).await.unwrap()
    }

    async fn start(&self, mode: Mode) -> Result<Proxy, StartError> {
        let published = Published::new(Arc::new(Snapshot::default()));
        let (on_demand, feed) =
            OnDemand::new(OnDemandLimits::default(), Resolution::OnDemand, published.clone());
        let config = Config {
            control_plane: String::new(),
            control_plane_ca: self.ca.roots_file().into(),
            token_file: Some(self.ca.dir().join("token")),
            state_dir: self.ca.dir().join("state"),
            instance: "cart-1".into(),
            mode,
            trust_domain: TrustDomain::parse("cluster.local").unwrap(),
            ports: self.ports.clone(),
            labels: Default::default(),
        };
        let wiring = Wiring {
            builder: Builder::new(Vec::new()),
            published: published.clone(),
            on_demand: feed,
            binder: self.binder.clone(),
            secrets: SecretStore::new(),
            dns: Dns::from_system().unwrap(),
        };
        let control_plane = self.fake.control_plane.clone();
        let handle = Discovery::start_with(control_plane, config, wiring, self.clock).await?;
        Ok(Proxy { handle, published, on_demand })
    }

    async fn stream(&mut self) -> Server {
        let call = tokio::time::timeout(PATIENCE, self.fake.ads.recv()).await.expect("no stream");
        Server { call: call.unwrap(), nonce: 0 }
    }
}

/// The control plane's end of one stream.
struct Server {
    call: AdsCall,
    nonce: u32,
}

impl Server {
    async fn next_request(&mut self) -> DeltaDiscoveryRequest {
        let message = tokio::time::timeout(PATIENCE, self.call.requests.message()).await;
        message.expect("no request").unwrap().unwrap()
    }

    /// Returns the next request that changes a subscription, skipping acknowledgements.
    async fn next_subscription(&mut self) -> (Kind, Vec<String>, Vec<String>) {
        loop {
            let request = self.next_request().await;
            assert_eq!(request.error_detail, None);
            let kind = Kind::from_type_url(&request.type_url).unwrap();
            let (more, less) = (request.resource_names_subscribe, request.resource_names_unsubscribe);
            if !more.is_empty() || !less.is_empty() {
                return (kind, more, less);
            }
        }
    }

    async fn next_ack(&mut self) -> DeltaDiscoveryRequest {
        loop {
            let request = self.next_request().await;
            if request.response_nonce == self.nonce.to_string() {
                return request;
            }
        }
    }

    /// Expects that a demand for `cart:80` is dropped with everything it led to, name by name.
    async fn expect_cart_dropped(&mut self) {
        let dropped = self.next_dropped(4).await;
        assert!(dropped.contains(&(Kind::Listener, "cart:80".into())), "{dropped:?}");
    }

    /// Returns the next `count` dropped names.
    async fn next_dropped(&mut self, count: usize) -> Vec<(Kind, String)> {
        let mut dropped = Vec::new();
        while dropped.len() < count {
            let (kind, more, less) = self.next_subscription().await;
            assert!(more.is_empty());
            dropped.extend(less.into_iter().map(|name| (kind, name)));
        }
        let of_cart = |(_, name): &(Kind, String)| name.starts_with("cart");
        assert!(dropped.iter().all(of_cart) && dropped.len() == count, "{dropped:?}");
        dropped
    }

    fn respond(&mut self, kind: Kind, resources: &[(&str, &str, Any)], removed: &[&str]) {
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

    /// Sends the whole chain of a demand for `cart:80`.
    async fn serve_cart(&mut self) {
        let subscribed = |kind, name: &str| (kind, vec![name.to_owned()], vec![]);
        assert_eq!(self.next_subscription().await, subscribed(Kind::Listener, "cart:80"));
        self.push_cart().await;
    }

    /// The same for a demand that is subscribed already.
    async fn push_cart(&mut self) {
        let subscribed = |kind, name: &str| (kind, vec![name.to_owned()], vec![]);
        self.respond(Kind::Listener, &[("cart:80", "1", xds::destination("cart:80", "cart"))], &[]);
        assert_eq!(self.next_subscription().await, subscribed(Kind::Route, "cart"));
        self.respond(Kind::Route, &[("cart", "1", xds::route("cart", &["cart"]))], &[]);
        assert_eq!(self.next_subscription().await, subscribed(Kind::Cluster, "cart"));
        self.respond(Kind::Cluster, &[("cart", "1", xds::cluster("cart"))], &[]);
        assert_eq!(self.next_subscription().await, subscribed(Kind::Endpoints, "cart"));
        self.respond(Kind::Endpoints, &[("cart", "1", xds::endpoints("cart", &["10.0.0.1:80"]))], &[]);
    }
}

/// Returns a proxy whose stream is open.
async fn connected() -> (World, Proxy, Server) {
    let mut world = World::new();
    let proxy = world.proxy().await;
    let mut server = world.stream().await;
    server.next_request().await;
    (world, proxy, server)
}

/// Returns a proxy that has `cart:80` and everything it leads to.
async fn serving() -> (World, Proxy, Server) {
    let (world, proxy, mut server) = connected().await;
    let _ = tokio::join!(ask(&proxy, "cart:80"), server.serve_cart());
    (world, proxy, server)
}

/// Requests a destination as a worker does.
async fn ask(proxy: &Proxy, name: &str) -> Lookup {
    let view = proxy.published.view();
    let client = PeerKey::new(None, [127, 0, 0, 1].into());
    proxy.on_demand.destination(&view, name, &client).await
}

fn endpoints(proxy: &Proxy, cluster: &str) -> Vec<String> {
    let snapshot = proxy.published.load();
    let endpoints = snapshot.clusters[cluster].endpoints.load();
    endpoints.list.iter().map(|endpoint| endpoint.address.to_string()).collect()
}
