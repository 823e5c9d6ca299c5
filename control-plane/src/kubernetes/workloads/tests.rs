use serde_json::{Value, json};

use super::*;
use crate::model::endpoint::{EndpointHealth, Peer};
use crate::model::mesh_builder::MeshBuilder;

const CART: &str = "{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop},
    spec: {selector: {app: cart}, clusterIP: 10.0.0.1, ports: [{port: 80, targetPort: http, appProtocol: http}]}}";
const CART_PODS: &str = "{apiVersion: v1, kind: Service, metadata: {name: a-pods, namespace: shop},
    spec: {selector: {app: cart}, clusterIP: None, ports: [{port: 8080}]}}";
const SLICE: &str = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
    metadata: {name: cart-1, namespace: shop, labels: {kubernetes.io/service-name: cart}}, ports: [{port: 8080}],
    endpoints: [{addresses: [10.1.0.7], targetRef: {kind: Pod, name: cart-1}}]}";

/// A pod of the application `cart`, with a sidecar, unless `change` removes it.
fn pod(name: &str, ip: &str, change: impl FnOnce(&mut Value)) -> ApiPod {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "cart", "version": "v2"},
            "annotations": {"outrigger.dev/status": "{}"}},
        "spec": {"serviceAccountName": "cart", "containers": [
            {"name": "app", "ports": [{"containerPort": 8080, "name": "http"}, {"containerPort": 9102}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": "True"}]},
    });
    change(&mut pod);
    serde_json::from_value(pod).unwrap()
}

struct Cluster {
    builder: MeshBuilder,
    workloads: Workloads,
    registrations: Registrations,
}

impl Cluster {
    fn new(yamls: &[&str]) -> Self {
        let workloads = Workloads::new(TrustDomain::parse("cluster.local").unwrap());
        let registrations = Registrations::of_cluster();
        let mut cluster = Self { builder: MeshBuilder::default(), workloads, registrations };
        cluster.apply(yamls);
        cluster
    }

    fn apply(&mut self, yamls: &[&str]) {
        self.builder.with(yamls);
        self.workloads.set_mesh(self.builder.mesh().into());
        self.take();
    }

    /// Applies events. Returns true if the workloads differ then.
    fn pods(&mut self, events: impl IntoIterator<Item = Event<ApiPod>>) -> bool {
        events.into_iter().for_each(|event| self.workloads.apply(event));
        self.take()
    }

    fn take(&mut self) -> bool {
        let changed = self.workloads.take_changed();
        changed.map(|registrations| self.registrations = registrations).is_some()
    }

    fn mesh(&self) -> Mesh {
        self.builder.mesh().with_registrations(self.registrations.clone())
    }

    /// Returns the ports of the only workload: number, service port, and services.
    fn ports(&self) -> Vec<String> {
        let mut all = self.registrations.workloads();
        let workload = all.next().unwrap();
        assert!(all.next().is_none());
        let port = |port: &WorkloadPort| {
            let services: Vec<_> = port.services.iter().map(ToString::to_string).collect();
            format!("{} {} {}", port.application, port.service_port, services.join(","))
        };
        workload.ports.iter().map(port).collect()
    }
}

#[test]
fn the_ports_of_a_pod_are_those_of_its_services_and_those_that_it_declares() {
    let mut cluster = Cluster::new(&[CART]);
    assert!(cluster.pods([Event::Apply(pod("cart-1", "10.1.0.7", |_| {}))]));
    assert_eq!(cluster.ports(), ["10.1.0.7:8080 80 cart.shop", "10.1.0.7:9102 9102 "]);
    let workload = cluster.registrations.workloads().next().unwrap();
    assert_eq!(workload.key.to_string(), "spiffe://cluster.local/ns/shop/sa/cart, instance cart-1");
    assert_eq!(workload.capture, Some("[::]:15006".parse().unwrap()));
    assert_eq!((workload.ready, workload.draining, workload.mtls), (true, false, MtlsMode::Permissive));
    cluster.apply(&[&CART.replace("targetPort: http", "targetPort: 7070")]);
    assert_eq!(cluster.ports(), ["10.1.0.7:7070 80 cart.shop", "10.1.0.7:8080 8080 ", "10.1.0.7:9102 9102 "]);
    cluster.apply(&[&CART.replace("app: cart}", "app: other}")]);
    assert_eq!(cluster.ports(), ["10.1.0.7:8080 8080 ", "10.1.0.7:9102 9102 "]);
}

#[test]
fn a_port_of_two_services_is_named_by_that_with_a_cluster_ip_and_detects_if_their_protocols_differ() {
    let mut cluster = Cluster::new(&[CART_PODS, CART]);
    cluster.pods([Event::Apply(pod("cart-1", "10.1.0.7", |_| {}))]);
    assert_eq!(cluster.ports()[0], "10.1.0.7:8080 80 cart.shop");
    let port = &cluster.registrations.workloads().next().unwrap().ports[0];
    assert_eq!(port.protocol, Some(AppProtocol::Detect));
}

#[test]
fn a_port_that_services_declare_as_grpc_and_h2c_is_http2() {
    let declared = |name: &str, protocol: &str| {
        let service = CART.replace("name: cart, ", &format!("name: {name}, "));
        service.replace("appProtocol: http", &format!("appProtocol: {protocol}"))
    };
    for (other, expected) in [("kubernetes.io/h2c", AppProtocol::H2c), ("http", AppProtocol::Detect)] {
        let (a, b) = (declared("a", "grpc"), declared("b", other));
        let mut cluster = Cluster::new(&[&a, &b]);
        cluster.pods([Event::Apply(pod("cart-1", "10.1.0.7", |_| {}))]);
        let port = &cluster.registrations.workloads().next().unwrap().ports[0];
        assert_eq!(port.protocol, Some(expected), "{other}");
    }
}

#[test]
fn annotations_change_the_ports_they_name() {
    let mut cluster = Cluster::new(&[CART]);
    cluster.pods([Event::Apply(pod("cart-1", "10.1.0.7", |pod| {
        let annotations = &mut pod["metadata"]["annotations"];
        annotations["outrigger.dev/opaque-ports"] = json!("8080");
        annotations["outrigger.dev/mtls-ports"] = json!("8080=strict,9999=strict");
        annotations["outrigger.dev/exclude-inbound-ports"] = json!("9102");
    }))]);
    // Nothing declares 9999.
    assert_eq!(cluster.ports(), ["10.1.0.7:8080 80 cart.shop", "10.1.0.7:9999 9999 "]);
    let ports = &cluster.registrations.workloads().next().unwrap().ports;
    assert_eq!((ports[0].protocol, ports[0].mtls), (Some(AppProtocol::Tcp), Some(MtlsMode::Strict)));
    assert_eq!(ports[1].mtls, Some(MtlsMode::Strict));
}

#[test]
fn the_label_of_a_namespace_has_the_mtls_mode_of_its_pods() {
    let mut cluster = Cluster::new(&[]);
    cluster.pods([Event::Apply(pod("cart-1", "10.1.0.7", |_| {}))]);
    let mode = |cluster: &Cluster| cluster.registrations.workloads().next().unwrap().mtls;
    let namespace = |name: &str| {
        format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{outrigger.dev/mtls: strict}}}}}}"
        )
    };
    cluster.apply(&[&namespace("other")]);
    assert_eq!(mode(&cluster), MtlsMode::Permissive);
    cluster.apply(&[&namespace("shop")]);
    assert_eq!(mode(&cluster), MtlsMode::Strict);
    cluster.apply(&["{apiVersion: v1, kind: Namespace, metadata: {name: shop}}"]);
    assert_eq!(mode(&cluster), MtlsMode::Permissive);
}

/// Returns the health and the peer of the endpoint of `cart`.
fn endpoint(cluster: &Cluster) -> (EndpointHealth, Option<String>, Option<String>) {
    let [endpoint] = &cluster.mesh().endpoints(&ServiceKey::new("shop", "cart"), 80)[..] else { panic!() };
    assert_ne!(endpoint.peer, Peer::Pod);
    let identity = endpoint.peer.identity().map(ToString::to_string);
    (endpoint.health, identity, endpoint.version.as_ref().map(ToString::to_string))
}

#[test]
fn the_pod_of_an_endpoint_determines_its_identity_and_its_version() {
    let mut cluster = Cluster::new(&[CART, SLICE]);
    // The event of the pod may come after that of the slice.
    assert_eq!(cluster.mesh().endpoints(&ServiceKey::new("shop", "cart"), 80), []);
    let before = cluster.mesh();
    cluster.pods([Event::Apply(pod("cart-1", "10.1.0.7", |_| {}))]);
    let cart = Some("spiffe://cluster.local/ns/shop/sa/cart".into());
    assert_eq!(endpoint(&cluster), (EndpointHealth::Ready, cart, Some("v2".into())));
    assert_eq!(cluster.mesh().changes(&before).endpoints, [ServiceKey::new("shop", "cart")]);
}

#[test]
fn a_service_cannot_claim_the_address_of_a_pod_of_another_namespace() {
    let service = CART.replace("shop", "attacker").replace("clusterIP: 10.0.0.1", "clusterIP: None");
    let slice = SLICE.replace("shop", "attacker");
    let mut cluster = Cluster::new(&[&service, &slice]);
    let address = "10.1.0.7:8080".parse().unwrap();
    cluster.pods([Event::Apply(pod("cart-1", "10.1.0.7", |_| {}))]);
    for viewer in ["shop", "attacker", "other"] {
        assert_eq!(cluster.mesh().service_by_endpoint(&address, viewer), None);
        assert!(!cluster.mesh().is_dialed_directly(&address, viewer));
    }
}

#[test]
fn an_address_that_is_no_pods_leads_to_a_service_for_clients_of_its_namespace_alone() {
    for cluster_ip in ["None", "10.0.0.1"] {
        let service = CART.replace("10.0.0.1", cluster_ip).replace("selector: {app: cart}, ", "");
        let cluster = Cluster::new(&[&service, &SLICE.replace(", targetRef: {kind: Pod, name: cart-1}", "")]);
        let database = "10.1.0.7:8080".parse().unwrap();
        let leads_to = |viewer| cluster.mesh().service_by_endpoint(&database, viewer).map(|(key, _)| key);
        assert_eq!(leads_to("shop"), Some(ServiceKey::new("shop", "cart")));
        assert_eq!(leads_to("other"), None);
        assert_eq!(cluster.mesh().is_dialed_directly(&database, "shop"), cluster_ip == "None");
        assert!(!cluster.mesh().is_dialed_directly(&database, "other"));
    }
}

#[test]
fn a_pod_in_the_network_of_its_node_gives_its_namespace_no_claim_to_the_address_of_the_node() {
    let service = CART.replace("clusterIP: 10.0.0.1", "clusterIP: None");
    let mut cluster = Cluster::new(&[&service, SLICE]);
    let host_network = |pod: &mut Value| pod["spec"]["hostNetwork"] = json!(true);
    cluster.pods([Event::Apply(pod("cart-1", "10.1.0.7", host_network))]);
    let address = "10.1.0.7:8080".parse().unwrap();
    assert!(cluster.mesh().service_by_endpoint(&address, "shop").is_some());
    assert_eq!(cluster.mesh().service_by_endpoint(&address, "other"), None);
    assert_eq!(endpoint(&cluster).1, None, "its endpoint is called without mTLS");
}

#[test]
fn an_endpoint_is_the_pod_that_its_slice_names_though_another_one_terminates_with_its_address() {
    let mut cluster = Cluster::new(&[CART, SLICE]);
    let old = |pod: &mut Value| pod["metadata"]["deletionTimestamp"] = json!("2026-11-28T12:00:00Z");
    let plain = |pod: &mut Value| pod["metadata"]["annotations"] = json!({});
    cluster.pods([Event::Apply(pod("cart-1", "10.1.0.7", old))]);
    assert!(endpoint(&cluster).1.is_some());
    let named_2 = SLICE.replace("name: cart-1}}]", "name: cart-2}}]");
    cluster.apply(&[&named_2]);
    let cart = ServiceKey::new("shop", "cart");
    assert_eq!(cluster.mesh().endpoints(&cart, 80), [], "cart-2 is not known yet");
    cluster.pods([Event::Apply(pod("cart-2", "10.1.0.7", plain))]);
    assert_eq!(endpoint(&cluster).1, None);
    assert!(cluster.registrations.pod(&"10.1.0.7".parse().unwrap()).is_none(), "nor by its address");
    cluster.pods([Event::Apply(pod("cart-2", "10.1.0.7", |_| {}))]);
    assert!(endpoint(&cluster).1.is_some());
}

#[test]
fn an_endpoint_whose_pod_has_no_sidecar_or_does_not_capture_the_port_is_called_in_plaintext() {
    let mut cluster = Cluster::new(&[CART, SLICE]);
    let plain = (EndpointHealth::Ready, None);
    let peer = |cluster: &Cluster| {
        let (health, identity, _) = endpoint(cluster);
        (health, identity)
    };
    let before = cluster.mesh();
    cluster.pods([Event::Apply(pod("cart-1", "10.1.0.7", |pod| pod["metadata"]["annotations"] = json!({})))]);
    assert_eq!(peer(&cluster), plain);
    assert_eq!(cluster.mesh().changes(&before).endpoints, [ServiceKey::new("shop", "cart")]);
    cluster.pods([Event::Apply(pod("cart-1", "10.1.0.7", |pod| {
        pod["metadata"]["annotations"]["outrigger.dev/exclude-inbound-ports"] = json!("8080");
    }))]);
    assert_eq!(peer(&cluster), plain);
    cluster.pods([Event::Apply(pod("cart-1", "10.1.0.7", |_| {}))]);
    assert!(peer(&cluster).1.is_some());
}

#[test]
fn a_list_replaces_all_pods_and_what_is_the_same_is_no_change() {
    let mut cluster = Cluster::new(&[CART]);
    let listed = |pods: Vec<ApiPod>| {
        [Event::Init].into_iter().chain(pods.into_iter().map(Event::InitApply)).chain([Event::InitDone])
    };
    let (a, b) = (|| pod("a", "10.1.0.7", |_| {}), || pod("b", "10.1.0.8", |_| {}));
    assert!(cluster.pods(listed(vec![a(), b()])));
    assert!(!cluster.pods(listed(vec![a(), b()])));
    assert!(
        !cluster.pods([Event::Apply(pod("a", "10.1.0.7", |pod| pod["status"]["qosClass"] = json!("x")))])
    );
    assert!(cluster.pods(listed(vec![b()])));
    assert_eq!(cluster.ports()[0], "10.1.0.8:8080 80 cart.shop");
    assert!(
        cluster.pods([Event::Apply(pod("b", "10.1.0.8", |pod| pod["status"]["phase"] = json!("Succeeded")))])
    );
    assert_eq!(cluster.registrations.workloads().count(), 0);
}

#[test]
fn an_address_that_passes_to_another_pod_is_that_ones() {
    let mut cluster = Cluster::new(&[]);
    let old =
        pod("a", "10.1.0.7", |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-11-28T12:00:00Z"));
    cluster.pods([Event::Apply(old), Event::Apply(pod("b", "10.1.0.7", |_| {}))]);
    let holder = |cluster: &Cluster| {
        cluster.registrations.pod(&"10.1.0.7".parse().unwrap()).map(|pod| pod.key.instance.to_string())
    };
    assert_eq!(holder(&cluster).as_deref(), Some("b"));
    cluster.pods([Event::Delete(pod("b", "10.1.0.7", |_| {}))]);
    assert_eq!(holder(&cluster).as_deref(), Some("a"));
}

#[test]
fn the_zone_of_a_pod_is_that_of_its_node_whichever_is_known_first() {
    let mut cluster = Cluster::new(&[]);
    let node = |zone: &str| {
        let labels = json!({"topology.kubernetes.io/zone": zone});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a", "labels": labels}, "spec": {}});
        serde_json::from_value::<ApiNode>(node).unwrap()
    };
    let zone =
        |cluster: &Cluster| cluster.registrations.workloads().next().unwrap().zone().map(ToString::to_string);
    cluster.pods([Event::Apply(pod("cart-1", "10.1.0.7", |pod| pod["spec"]["nodeName"] = json!("a")))]);
    assert_eq!(zone(&cluster), None);
    cluster.workloads.apply_node(Event::InitApply(node("x")));
    assert!(cluster.take());
    assert_eq!(zone(&cluster).as_deref(), Some("x"));
    cluster.workloads.apply_node(Event::Apply(node("x")));
    assert!(!cluster.take());
}

#[test]
fn pods_that_run_without_the_sidecar_that_they_are_to_have_are_reported_once() {
    let plain = |name: &str, label: Option<&str>| {
        Event::Apply(pod(name, "10.1.0.7", |pod| {
            pod["metadata"]["annotations"] = json!({});
            pod["metadata"]["uid"] = json!(format!("uid of {name}"));
            if let Some(label) = label {
                pod["metadata"]["labels"]["outrigger.dev/inject"] = json!(label);
            }
        }))
    };
    let mut cluster = Cluster::new(&[]);
    cluster.pods([
        Event::Apply(pod("with", "10.1.0.8", |_| {})),
        plain("by-namespace", None),
        plain("by-itself", Some("enabled")),
        plain("opted-out", Some("disabled")),
    ]);
    let missing = |cluster: &mut Cluster| {
        let pods = cluster.workloads.take_without_sidecar()?;
        Some(pods.into_iter().map(|(pod, uid)| format!("{} {uid}", pod.name)).collect::<Vec<_>>())
    };
    assert_eq!(missing(&mut cluster).unwrap(), ["by-itself uid of by-itself"]);
    let namespace =
        "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {outrigger.dev/inject: enabled}}}";
    cluster.apply(&[namespace]);
    assert_eq!(missing(&mut cluster).unwrap().len(), 2);
    cluster.pods([plain("by-namespace", None)]);
    assert_eq!(missing(&mut cluster), None, "nothing has changed");
    cluster.pods([Event::Apply(pod("by-namespace", "10.1.0.7", |_| {}))]);
    assert_eq!(missing(&mut cluster).unwrap(), ["by-itself uid of by-itself"]);
    cluster.pods([Event::Delete(pod("by-itself", "10.1.0.7", |_| {}))]);
    assert_eq!(missing(&mut cluster).unwrap(), [""; 0]);
}
