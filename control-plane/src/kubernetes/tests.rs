//! Replicas are interchangeable: whatever the order in which the API server tells them of the same objects, they serve the same bytes
//! under the same versions.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt;
use kube::api::DynamicObject;
use kube::runtime::watcher::Event;
use outrigger_core::Name;
use outrigger_core::identity::{SpiffeId, TrustDomain};
use outrigger_proto::kind::Kind as XdsKind;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::objects::Objects;
use super::pod::ApiPod;
use super::reflector::Report;
use super::workloads::Workloads;
use crate::model::registration::{Registrations, WorkloadKey};
use crate::model::resource::Kind;
use crate::source::assembler::{Assembler, SourceHandle, View};
use crate::translate::catalog::Catalog;
use crate::translate::scope::{Dialect, MeshSettings, Mode, Viewer};

/// What the API server reports.
#[derive(Debug, Clone)]
enum Reported {
    Object(Kind, Box<Event<DynamicObject>>),
    Pod(Box<Event<ApiPod>>),
}

fn reported_object(kind: Kind, event: Event<DynamicObject>) -> Reported {
    Reported::Object(kind, Box::new(event))
}

fn reported_pod(event: Event<ApiPod>) -> Reported {
    Reported::Pod(Box::new(event))
}

/// A replica, up to the resources that it serves.
struct Replica {
    objects: Objects,
    source: SourceHandle,
    view: watch::Receiver<View>,
    workloads: Workloads,
    registrations: Registrations,
    catalog: Catalog,
}

impl Replica {
    fn new() -> Self {
        let trust_domain = TrustDomain::parse("cluster.local").unwrap();
        let mut assembler = Assembler::new(|_| {});
        let source = assembler.add_source();
        source.synced();
        let settings =
            MeshSettings { cluster_domain: "cluster.local".into(), trust_domain: trust_domain.clone() };
        Self {
            objects: Objects::default(),
            source,
            view: assembler.synced().now_or_never().unwrap().unwrap(),
            workloads: Workloads::new(trust_domain),
            registrations: Registrations::of_cluster(),
            catalog: Catalog::new(settings),
        }
    }

    /// Applies events, and publishes the mesh after each batch of this size.
    fn observe(&mut self, reported: impl IntoIterator<Item = Reported>, batch: usize) {
        for (index, event) in reported.into_iter().enumerate() {
            match event {
                Reported::Object(kind, event) => self.objects.apply(kind, Report::Event(*event)),
                Reported::Pod(event) => self.workloads.apply(*event),
            }
            if index % batch == 0 {
                self.publish();
            }
        }
        self.publish();
    }

    fn publish(&mut self) {
        if let Some(update) = self.objects.update() {
            assert!(update.refusals.is_empty(), "{:?}", update.refusals);
            self.source.apply(update);
        }
        let mesh = Arc::clone(&self.view.borrow().mesh);
        self.workloads.set_mesh(Arc::clone(&mesh));
        if let Some(registrations) = self.workloads.take_changed() {
            self.registrations = registrations;
        }
        self.catalog.publish(Arc::new(mesh.with_registrations(self.registrations.clone())));
    }

    /// Returns the version and the bytes of everything that some proxy may be sent.
    fn served(&self) -> BTreeMap<(String, XdsKind, Name), (String, Vec<u8>)> {
        let mut served = BTreeMap::new();
        for (namespace, dialect) in
            [("shop", Dialect::Outrigger), ("other", Dialect::Outrigger), ("shop", Dialect::Envoy)]
        {
            let identity =
                SpiffeId::parse(&format!("spiffe://cluster.local/ns/{namespace}/sa/cart")).unwrap();
            let workload = WorkloadKey { identity, instance: "cart-1".into() };
            let viewer = Viewer {
                workload,
                mode: Mode::Wildcard,
                dialect,
                zone: None,
                forwards_client_certificates: true,
            };
            let names = XdsKind::ALL.into_iter().flat_map(|kind| self.catalog.wildcard(&viewer, kind));
            for name in names.collect::<Vec<_>>() {
                for kind in XdsKind::ALL {
                    let Some(resource) = self.catalog.resource(&viewer, kind, &name) else { continue };
                    let key = (format!("{namespace} {dialect:?}"), kind, name.clone());
                    served.insert(key, (resource.version.to_string(), resource.to_any().value));
                }
            }
        }
        served
    }
}

/// Returns an object of the API server at a version.
fn object(kind: Kind, namespace: &str, name: &str, version: u32, fields: Value) -> DynamicObject {
    let (group, versions) = kind.api();
    let api_version = if group.is_empty() { versions[0].into() } else { format!("{group}/{}", versions[0]) };
    let mut object = json!({
        "apiVersion": api_version, "kind": kind.name(),
        "metadata": {"name": name, "namespace": namespace, "uid": format!("{namespace}-{name}"),
            "resourceVersion": version.to_string(), "creationTimestamp": "2026-11-28T00:00:00Z"},
    });
    if kind == Kind::Namespace {
        object["metadata"].as_object_mut().unwrap().remove("namespace");
    }
    for (field, value) in fields.as_object().unwrap() {
        match field.as_str() {
            "labels" | "annotations" => object["metadata"][field] = value.clone(),
            _ => object[field] = value.clone(),
        }
    }
    serde_json::from_value(object).unwrap()
}

fn service(name: &str, cluster_ip: &str) -> (Kind, DynamicObject) {
    let ports = json!([
        {"name": "http", "port": 80, "targetPort": 8080, "appProtocol": "http"},
        {"name": "grpc", "port": 90, "targetPort": "rpc", "appProtocol": "grpc"},
        {"name": "tcp", "port": 100, "appProtocol": "tcp"}]);
    let spec = json!({"clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "selector": {"app": name}, "ports": ports});
    (Kind::Service, object(Kind::Service, "shop", name, 1, json!({"spec": spec})))
}

fn slice(service: &str, name: &str, hosts: &[u8]) -> (Kind, DynamicObject) {
    let endpoint = |host: &u8| {
        json!({"addresses": [format!("10.1.0.{host}")], "conditions": {"ready": !host.is_multiple_of(4)},
            "zone": format!("z{}", host % 3), "targetRef": {"kind": "Pod", "name": format!("{service}-{host}")}})
    };
    let endpoints: Vec<_> = hosts.iter().map(endpoint).collect();
    let ports =
        json!([{"name": "http", "port": 8080}, {"name": "grpc", "port": 9090}, {"name": "tcp", "port": 100}]);
    let fields = json!({"labels": {"kubernetes.io/service-name": service}, "addressType": "IPv4", "ports": ports,
        "endpoints": endpoints});
    (Kind::EndpointSlice, object(Kind::EndpointSlice, "shop", name, 1, fields))
}

fn http_route(namespace: &str, name: &str, path: &str) -> (Kind, DynamicObject) {
    let headers = |verb: &str| json!([{"name": "b", "value": verb}, {"name": "a", "value": verb}, {"name": "c", "value": verb}]);
    let parent = json!([{"group": "", "kind": "Service", "name": "cart", "namespace": "shop", "port": 80}]);
    let rules = json!([{
        "matches": [
            {"path": {"type": "PathPrefix", "value": path}, "headers": headers("1"), "method": "GET",
                "queryParams": [{"name": "q", "value": "1"}, {"name": "p", "value": "2"}]},
            {"path": {"type": "Exact", "value": "/x"}}],
        "filters": [{"type": "RequestHeaderModifier",
            "requestHeaderModifier": {"set": headers("set"), "add": [{"name": "d", "value": "add"}], "remove": ["f", "e"]}}],
        "timeouts": {"request": "5s"},
        "backendRefs": [{"name": "cart", "port": 80, "weight": 3}, {"name": "stock", "port": 80, "weight": 1}],
    }]);
    let spec = json!({"parentRefs": parent, "rules": rules});
    (Kind::HttpRoute, object(Kind::HttpRoute, namespace, name, 1, json!({"spec": spec})))
}

/// The final state of a cluster.
fn cluster() -> Vec<(Kind, DynamicObject)> {
    let namespace = |name, mtls: &str| {
        let fields = json!({"labels": {"outrigger.dev/mtls": mtls, "outrigger.dev/inject": "enabled"}});
        (Kind::Namespace, object(Kind::Namespace, "", name, 1, fields))
    };
    let grpc = json!({"parentRefs": [{"group": "", "kind": "Service", "name": "stock", "port": 90}],
        "rules": [{"matches": [{"method": {"service": "a.B", "method": "C"}}, {"method": {"service": "a.D"}}],
            "backendRefs": [{"name": "stock", "port": 90}]}]});
    let tcp = json!({"parentRefs": [{"group": "", "kind": "Service", "name": "stock", "port": 100}],
        "rules": [{"backendRefs": [{"name": "cart", "port": 100}, {"name": "stock", "port": 100}]}]});
    vec![
        namespace("shop", "strict"),
        namespace("other", "permissive"),
        service("cart", "10.0.0.1"),
        service("stock", "10.0.0.2"),
        slice("cart", "cart-a", &[1, 2, 3]),
        slice("cart", "cart-b", &[3, 4, 5]),
        slice("stock", "stock-a", &[9, 8, 7]),
        http_route("shop", "first", "/a"),
        http_route("shop", "second", "/a"),
        http_route("other", "consumer", "/c"),
        (Kind::GrpcRoute, object(Kind::GrpcRoute, "shop", "calls", 1, json!({"spec": grpc}))),
        (Kind::TcpRoute, object(Kind::TcpRoute, "shop", "bytes", 1, json!({"spec": tcp}))),
    ]
}

fn pods() -> Vec<ApiPod> {
    let pod = |(app, host): (&str, u8)| {
        let containers = json!([
            {"name": "app", "ports": [{"containerPort": 8080, "name": "http"}, {"containerPort": 9090, "name": "rpc"}]},
            {"name": "more", "ports": [{"containerPort": 7001}, {"containerPort": 7000}]}]);
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("{app}-{host}"), "namespace": "shop",
                "labels": {"app": app, "version": format!("v{}", host % 2), "z": "1", "y": "2"},
                "annotations": {"outrigger.dev/status": "{}", "outrigger.dev/mtls-ports": "8080=permissive,7000=strict"}},
            "spec": {"serviceAccountName": app, "containers": containers},
            "status": {"phase": "Running", "podIPs": [{"ip": format!("10.1.0.{host}")}],
                "conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .unwrap()
    };
    [("cart", 1), ("cart", 2), ("cart", 3), ("cart", 5), ("stock", 7), ("stock", 9)].map(pod).into()
}

/// What a replica observes that starts now: lists.
fn listed() -> Vec<Reported> {
    let mut reported = Vec::new();
    for kind in Kind::all() {
        reported.push(reported_object(kind, Event::Init));
        let objects = cluster().into_iter().filter(|(of, _)| *of == kind);
        reported.extend(objects.map(|(kind, object)| reported_object(kind, Event::InitApply(object))));
        reported.push(reported_object(kind, Event::InitDone));
    }
    reported.push(reported_pod(Event::Init));
    reported.extend(pods().into_iter().map(|pod| reported_pod(Event::InitApply(pod))));
    reported.push(reported_pod(Event::InitDone));
    reported
}

/// What a replica observes that has run for long: objects appear in any order, some of them are deleted and appear again.
fn watched() -> impl Strategy<Value = Vec<Reported>> {
    let objects = cluster().into_iter().map(|(kind, object)| reported_object(kind, Event::Apply(object)));
    let pods = pods().into_iter().map(|pod| reported_pod(Event::Apply(pod)));
    let all: Vec<_> = objects.chain(pods).collect();
    let again = proptest::collection::vec(any::<bool>(), all.len());
    (Just(all).prop_shuffle(), again).prop_flat_map(|(all, again)| {
        let repeated: Vec<_> =
            all.iter().zip(again).filter(|(_, again)| *again).map(|(one, _)| one.clone()).collect();
        let deleted = repeated.iter().cloned().map(|one| match one {
            Reported::Object(kind, event) => match *event {
                Event::Apply(object) => reported_object(kind, Event::Delete(object)),
                other => reported_object(kind, other),
            },
            Reported::Pod(event) => match *event {
                Event::Apply(pod) => reported_pod(Event::Delete(pod)),
                other => reported_pod(other),
            },
        });
        let deleted: Vec<_> = deleted.collect();
        Just(repeated)
            .prop_shuffle()
            .prop_map(move |repeated| [all.clone(), deleted.clone(), repeated].concat())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn replicas_serve_the_same_bytes_and_versions_whatever_the_order_of_events(
        events in watched(),
        batch in 1_usize..40,
    ) {
        let (mut fresh, mut old) = (Replica::new(), Replica::new());
        fresh.observe(listed(), usize::MAX);
        old.observe(events, batch);
        let (expected, served) = (fresh.served(), old.served());
        let kinds: std::collections::BTreeSet<_> = expected.keys().map(|(_, kind, _)| *kind).collect();
        prop_assert_eq!(kinds.len(), XdsKind::ALL.len(), "every kind is compared");
        prop_assert!(expected.len() > 60, "{} resources", expected.len());
        let names = |of: &BTreeMap<_, _>| of.keys().cloned().collect::<Vec<(String, XdsKind, Name)>>();
        prop_assert_eq!(names(&expected), names(&served));
        for (key, one) in &expected {
            prop_assert_eq!(one, &served[key], "{:?}", key);
        }
    }
}
