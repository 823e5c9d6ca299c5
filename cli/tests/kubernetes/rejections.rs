//! A proxy rejects what was made from a route, and the status of the route says so. The proxy is a client of this test: a real one accepts
//! what this control plane makes.

use outrigger_proto::kind::Kind;
use outrigger_proto::xds::core::Node;
use outrigger_proto::xds::discovery::DeltaDiscoveryRequest;
use outrigger_proto::xds::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outrigger_proto::xds::rpc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::cluster::{eventually, in_the_network_of_the_node};
use crate::manifests::{deployment, http_route, labelling, on_node, server};
use crate::namespace::Namespace;
use crate::outsider::{Outsider, token};

#[test]
fn a_route_whose_configuration_a_proxy_rejects_says_so_while_that_proxy_is_connected() {
    let namespace = Namespace::meshed("rejections", "strict");
    namespace.apply(&deployment("web", 1, &on_node("node1", &server(""))));
    namespace.apply(&http_route("web", 80, &labelling("one", "web", 80)));
    namespace.ready("deploy/web");
    namespace.has_conditions("httproute", "web", &["Accepted=True"]);
    let pod = namespace.pods("app=web")[0]["metadata"]["name"].as_str().unwrap().to_owned();
    let proxy = Outsider::new(&token(&namespace, &pod, "outrigger.dev"));
    let log = proxy.run(9, "certificate issued");
    assert!(log.contains("certificate issued"), "{log}");

    in_the_network_of_the_node(|| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let stream = runtime.block_on(reject(&proxy, "web:80", "no memory"));
        let rejected = "outrigger.dev/Programmed=False: the proxy outsider of namespace rejections rejects lds web:80: no memory";
        namespace.has_conditions("httproute", "web", &["Accepted=True", rejected]);
        drop(stream);
    });
    eventually("no rejection", 30, || match namespace.conditions("httproute", "web")? {
        conditions if conditions.contains("Programmed") => Err(conditions),
        _ => Ok(()),
    });
}

/// Subscribes to a listener and rejects it. Returns the requests of the stream, which ends when they are dropped.
async fn reject(proxy: &Outsider, listener: &str, why: &str) -> mpsc::Sender<DeltaDiscoveryRequest> {
    let (requests, outgoing) = mpsc::channel(2);
    let request = |subscribe: Vec<String>| DeltaDiscoveryRequest {
        node: Some(Node { id: "outsider".into(), user_agent_name: "outrigger".into(), ..Node::default() }),
        type_url: Kind::Listener.type_url().into(),
        resource_names_subscribe: subscribe,
        ..DeltaDiscoveryRequest::default()
    };
    requests.send(request(vec![listener.to_owned()])).await.unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(proxy.connect().await);
    let responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await;
    let response = responses.unwrap().into_inner().message().await.unwrap().unwrap();
    assert_eq!(response.resources[0].name, listener);
    let error = rpc::Status { message: format!("\"{listener}\": {why}"), ..rpc::Status::default() };
    let nack = DeltaDiscoveryRequest {
        response_nonce: response.nonce,
        error_detail: Some(error),
        ..request(Vec::new())
    };
    requests.send(nack).await.unwrap();
    requests
}
