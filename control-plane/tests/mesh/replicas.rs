//! Two control planes of one CA with the same resources: a proxy may change from one to the other.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use outrigger_control_plane::ca::issuer::CertificateIssuer;
use outrigger_control_plane::run::control_plane::ControlPlane;
use outrigger_control_plane::run::settings::IssuerFiles;
use outrigger_core::identity::TrustDomain;
use outrigger_proto::xds::core::Node;
use outrigger_proto::xds::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outrigger_proto::xds::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use outrigger_proto::xds::type_url::{CLUSTER, CLUSTER_LOAD_ASSIGNMENT, LISTENER, ROUTE_CONFIGURATION};
use tokio_stream::StreamExt;

use super::harness::{Identity, Mesh, settings};

const OBJECTS: [&str; 3] = [
    "{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {ports: [{name: http, port: 80}]}}",
    "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, ports: [{name: http, port: 8080}],
      metadata: {name: a, namespace: shop, labels: {kubernetes.io/service-name: cart}}, endpoints: [{addresses: [10.0.0.1]}]}",
    "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, ports: [{name: http, port: 8080}],
      metadata: {name: b, namespace: shop, labels: {kubernetes.io/service-name: cart}}, endpoints: [{addresses: [10.0.0.2]}]}",
];
const KINDS: [&str; 4] = [LISTENER, ROUTE_CONFIGURATION, CLUSTER, CLUSTER_LOAD_ASSIGNMENT];

/// Starts a control plane that signs with the CA in `shared`, and reads these objects from files in this order.
async fn start<'a>(shared: &Path, objects: impl IntoIterator<Item = &'a &'a str>) -> Mesh {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("config")).unwrap();
    for (index, object) in objects.into_iter().enumerate() {
        std::fs::write(directory.path().join(format!("config/{index}.yaml")), object).unwrap();
    }
    let files = IssuerFiles { chain: shared.join("ca.pem"), key: shared.join("ca.key") };
    let control_plane =
        ControlPlane::start(settings(directory.path()).with_issuer(files).unwrap()).await.unwrap();
    Mesh { directory, control_plane }
}

/// Subscribes to `cart:80` and to a name that does not exist, and returns the first response.
async fn first_response(
    mesh: &Mesh,
    identity: &Identity,
    kind: &str,
    known: HashMap<String, String>,
) -> DeltaDiscoveryResponse {
    let request = DeltaDiscoveryRequest {
        node: Some(Node { id: "cart-1".into(), ..Default::default() }),
        type_url: kind.into(),
        resource_names_subscribe: vec!["cart.shop.svc.cluster.local:80".into(), "nothing:80".into()],
        initial_resource_versions: known,
        ..Default::default()
    };
    let stream = tokio_stream::iter([request]).chain(tokio_stream::pending());
    let mut client = AggregatedDiscoveryServiceClient::new(mesh.connect(Some(identity)).await.unwrap());
    let mut responses = client.delta_aggregated_resources(stream).await.unwrap().into_inner();
    responses.message().await.unwrap().unwrap()
}

#[tokio::test]
async fn a_proxy_that_changes_to_another_replica_is_sent_nothing_that_it_has() {
    let shared = tempfile::tempdir().unwrap();
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let root = CertificateIssuer::make_root(&domain, SystemTime::now()).unwrap();
    std::fs::write(shared.path().join("ca.pem"), root.chain).unwrap();
    std::fs::write(shared.path().join("ca.key"), root.key).unwrap();
    std::fs::set_permissions(shared.path().join("ca.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let first = start(shared.path(), &OBJECTS).await;
    let second = start(shared.path(), OBJECTS.iter().rev()).await;
    let joined = first.join().await;
    for kind in KINDS {
        let response = first_response(&first, &joined, kind, HashMap::new()).await;
        assert_eq!(
            (response.resources.len(), &*response.removed_resources),
            (1, &["nothing:80".to_owned()][..])
        );
        let known =
            response.resources.into_iter().map(|resource| (resource.name, resource.version)).collect();
        let response = first_response(&second, &joined, kind, known).await;
        assert!(response.resources.is_empty(), "{kind}: {:?}", response.resources);
        assert_eq!(response.removed_resources, ["nothing:80"]);
    }
}
