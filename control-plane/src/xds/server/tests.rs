use std::time::SystemTime;

use outrigger_core::identity::{SpiffeId, TrustDomain};
use outrigger_proto::xds::core::Node as WireNode;
use outrigger_proto::xds::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outrigger_proto::xds::rpc;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic::transport::Channel;

use super::*;
use crate::model::mesh::ServiceEntry;
use crate::model::service::{AppProtocol, Service, ServiceType};

fn server() -> Server {
    let trust_domain = TrustDomain::parse("cluster.local").unwrap();
    Server::new(
        MeshSettings { cluster_domain: "cluster.local".into(), trust_domain },
        Metrics::default().into(),
    )
}

fn mesh() -> Arc<Mesh> {
    let cart = Service::of_shop("cart", 80, AppProtocol::Http);
    let service = Service { service_type: ServiceType::Headless, ..cart };
    let entry =
        ServiceEntry { service: Arc::new(service), endpoints: Arc::default(), routes: Arc::default() };
    Arc::new([entry].into_iter().collect())
}

/// Returns a client that the server identifies as `identity`.
async fn connect(server: &Server, identity: Option<&str>) -> AggregatedDiscoveryServiceClient<Channel> {
    connect_until(server, identity, SystemTime::now() + Duration::from_secs(3600)).await
}

/// The same, with a certificate that expires at `not_after`.
async fn connect_until(
    server: &Server,
    identity: Option<&str>,
    not_after: SystemTime,
) -> AggregatedDiscoveryServiceClient<Channel> {
    let peer = identity.map(|text| PeerIdentity { identity: SpiffeId::parse(text).unwrap(), not_after });
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let service = tonic::service::interceptor::InterceptedService::new(
        server.service(),
        move |mut request: Request<()>| {
            peer.clone().map(|peer| request.extensions_mut().insert(peer));
            Ok(request)
        },
    );
    let transport = tonic::transport::Server::builder();
    tokio::spawn(async move { transport.serve_with_incoming(service, TcpListenerStream::new(socket)).await });
    AggregatedDiscoveryServiceClient::connect(format!("http://{address}")).await.unwrap()
}

const SHOP: Option<&str> = Some("spiffe://cluster.local/ns/shop/sa/web");

struct Proxy {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Proxy {
    /// Begins a stream with its first message.
    async fn begin(server: &Server, first: DeltaDiscoveryRequest) -> Result<Self, Status> {
        Self::begin_with(connect(server, SHOP).await, first).await
    }

    async fn begin_with(
        mut client: AggregatedDiscoveryServiceClient<Channel>,
        first: DeltaDiscoveryRequest,
    ) -> Result<Self, Status> {
        let (requests, stream) = mpsc::channel(8);
        requests.send(first).await.unwrap();
        let responses = client.delta_aggregated_resources(ReceiverStream::new(stream)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        Ok(self.responses.message().await?.expect("the stream goes on"))
    }
}

fn ask(kind: Kind, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(WireNode {
            id: "web-1".into(),
            user_agent_name: "outrigger".into(),
            ..Default::default()
        }),
        type_url: kind.type_url().into(),
        resource_names_subscribe: names.iter().map(|name| (*name).into()).collect(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_proxy_that_subscribes_before_the_sources_are_synced_is_answered_afterwards() {
    let server = server();
    let mut proxy = Proxy::begin(&server, ask(Kind::Listener, &["cart:80", "none:80"])).await.unwrap();
    while server.status().is_empty() {
        tokio::task::yield_now().await;
    }
    server.publish(mesh());
    let answer = proxy.next().await.unwrap();
    assert_eq!(
        (answer.resources[0].name.as_str(), &answer.removed_resources[..]),
        ("cart:80", &["none:80".to_owned()][..])
    );
}

#[tokio::test]
async fn a_change_is_pushed_and_a_rejection_is_in_the_status() {
    let server = server();
    server.publish(mesh());
    let mut proxy = Proxy::begin(&server, ask(Kind::Listener, &["cart:80"])).await.unwrap();
    let answer = proxy.next().await.unwrap();
    let nack = DeltaDiscoveryRequest {
        response_nonce: answer.nonce,
        error_detail: Some(rpc::Status { message: "cart:80: no".into(), ..Default::default() }),
        ..ask(Kind::Listener, &[])
    };
    proxy.requests.send(nack).await.unwrap();
    server.publish(Arc::default());
    let answer = proxy.next().await.unwrap();
    assert_eq!(answer.removed_resources, ["cart:80"]);
    let status = server.status().remove(0);
    assert_eq!((status.node.as_str(), status.namespace.as_str()), ("web-1", "shop"));
    assert_eq!(status.software, "outrigger");
    assert!(status.certificate_expires.is_some_and(|end| end.ends_with('Z')));
    let resource = &status.types[0].resources[0];
    assert_eq!(
        (resource.name.as_str(), resource.nacked.as_ref().unwrap().detail.as_str()),
        ("cart:80", "cart:80: no")
    );
}

#[tokio::test]
async fn a_stream_that_ends_is_removed() {
    let server = server();
    server.publish(mesh());
    let mut proxy = Proxy::begin(&server, ask(Kind::Listener, &["cart:80"])).await.unwrap();
    proxy.next().await.unwrap();
    assert_eq!(server.status().len(), 1);
    drop(proxy);
    while !server.status().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let mut client = connect(&server(), None).await;
    let (_requests, stream) = mpsc::channel::<DeltaDiscoveryRequest>(1);
    let refusal = client.delta_aggregated_resources(ReceiverStream::new(stream)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_stream_without_a_node_or_with_another_one_later_is_refused() {
    let server = server();
    server.publish(mesh());
    let nobody = DeltaDiscoveryRequest { node: None, ..ask(Kind::Listener, &[]) };
    let mut proxy = Proxy::begin(&server, nobody).await.unwrap();
    assert_eq!(proxy.next().await.unwrap_err().code(), Code::InvalidArgument);
    let mut proxy = Proxy::begin(&server, ask(Kind::Route, &[])).await.unwrap();
    let other = Some(WireNode { id: "web-2".into(), ..Default::default() });
    proxy.requests.send(DeltaDiscoveryRequest { node: other, ..ask(Kind::Route, &[]) }).await.unwrap();
    assert_eq!(proxy.next().await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_stream_ends_with_the_certificate_that_opened_it() {
    let server = server();
    server.publish(mesh());
    let not_after = SystemTime::now() + Duration::from_millis(500);
    let client = connect_until(&server, SHOP, not_after).await;
    let mut proxy = Proxy::begin_with(client, ask(Kind::Listener, &["cart:80"])).await.unwrap();
    assert_eq!(proxy.next().await.unwrap().resources[0].name, "cart:80");
    let ended = proxy.next().await.unwrap_err();
    assert!(ended.code() == Code::Unauthenticated && ended.message().contains("has expired"), "{ended}");
    assert!(SystemTime::now() >= not_after);
}

#[tokio::test]
async fn the_streams_of_an_instance_are_limited() {
    let server = server();
    server.publish(mesh());
    let begin = || Proxy::begin(&server, ask(Kind::Listener, &["cart:80"]));
    let mut proxies = Vec::new();
    for _ in 0..STREAMS_PER_INSTANCE {
        let mut proxy = begin().await.unwrap();
        proxy.next().await.unwrap();
        proxies.push(proxy);
    }
    assert_eq!(server.count(), StreamCounts { streams: STREAMS_PER_INSTANCE, proxies: 1, refused: 0 });
    let refused = begin().await.unwrap().next().await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let other = DeltaDiscoveryRequest {
        node: Some(WireNode { id: "web-2".into(), ..Default::default() }),
        ..ask(Kind::Listener, &["cart:80"])
    };
    Proxy::begin(&server, other).await.unwrap().next().await.unwrap();
    drop(proxies.pop());
    while begin().await.unwrap().next().await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn closing_ends_every_stream() {
    let server = server();
    server.publish(mesh());
    let mut proxy = Proxy::begin(&server, ask(Kind::Listener, &["cart:80"])).await.unwrap();
    proxy.next().await.unwrap();
    server.close();
    assert_eq!(proxy.next().await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn the_runtimes_thread_is_not_blocked_by_work_on_a_stream() {
    let server = server();
    server.publish(mesh());
    let mut proxy = Proxy::begin(&server, ask(Kind::Listener, &["cart:80"])).await.unwrap();
    let nonce = proxy.next().await.unwrap().nonce;
    let ack = DeltaDiscoveryRequest { response_nonce: nonce, ..ask(Kind::Listener, &[]) };
    proxy.requests.send(ack).await.unwrap();
    let stream = server.streams().remove(0);
    let (begun, (release, released)) = (Arc::new(std::sync::Barrier::new(2)), std::sync::mpsc::channel());
    let barrier = Arc::clone(&begun);
    // Stands for a long translation. It ends after ten seconds at the latest.
    let working = std::thread::spawn(move || {
        stream.while_locked(|| {
            barrier.wait();
            released.recv_timeout(Duration::from_secs(10)).is_ok()
        })
    });
    begun.wait();
    server.publish(Arc::default());
    while !server.shared.workers.are_busy() && !working.is_finished() {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.count().streams, 1);
    let _ = release.send(());
    assert_eq!(proxy.next().await.unwrap().removed_resources, ["cart:80"]);
    assert!(working.join().unwrap(), "the runtime waited for it");
}
