use std::collections::BTreeMap;

use outrigger_core::identity::{SpiffeId, TrustDomain};

use super::*;
use crate::model::endpoint::{Endpoint, EndpointHealth, Endpoints, Peer};
use crate::model::mesh::ServiceEntry;
use crate::model::registration::{MtlsMode, Registrations, WorkloadEntry, WorkloadKey, WorkloadPort};
use crate::model::service::{AppProtocol, Service, ServiceKey};
use crate::translate::scope::{Dialect, Mode};

fn entry(number: u32, endpoint: u16) -> ServiceEntry {
    let endpoint = Endpoint {
        address: ([10, 0, (number >> 8) as u8, number as u8], endpoint).into(),
        health: EndpointHealth::Ready,
        peer: Peer::Plaintext,
        instance: None,
        version: None,
        zone: None,
        node: None,
        hostname: None,
    };
    ServiceEntry {
        service: Arc::new(Service::of_shop(&format!("s{number}"), 80, AppProtocol::Http)),
        endpoints: Arc::new(Endpoints { ports: vec![(80, [endpoint].into())] }),
        routes: Arc::default(),
    }
}

fn mesh(changed: u32, endpoint: u16) -> Arc<Mesh> {
    Arc::new((0..200).map(|number| entry(number, if number == changed { endpoint } else { 1 })).collect())
}

fn hub() -> Hub {
    let trust_domain = TrustDomain::parse("cluster.local").unwrap();
    Hub::new(MeshSettings { cluster_domain: "cluster.local".into(), trust_domain })
}

fn viewer(mode: Mode) -> Viewer {
    let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
    let workload = WorkloadKey { identity, instance: "cart-1".into() };
    Viewer { workload, mode, dialect: Dialect::Outrigger, zone: None, forwards_client_certificates: true }
}

fn name(number: u32) -> Name {
    format!("s{number}.shop.svc.cluster.local:80").into()
}

#[test]
fn a_change_wakes_only_the_streams_that_use_what_changed() {
    let hub = hub();
    hub.publish(mesh(0, 1));
    let viewer = viewer(Mode::OnDemand);
    let ((five, quiet), (one, woken)) = (hub.join(&viewer), hub.join(&viewer));
    let added = (0..5).flat_map(|n| [(Kind::Cluster, name(n)), (Kind::Endpoints, name(n))]).collect();
    hub.watch(five, &viewer, &SubscriptionChange { added, dropped: Vec::new() });
    hub.watch(
        one,
        &viewer,
        &SubscriptionChange { added: vec![(Kind::Endpoints, name(100))], dropped: Vec::new() },
    );
    for port in 2..22 {
        hub.publish(mesh(100, port));
    }
    assert!(quiet.take().is_empty());
    assert_eq!(woken.take(), BTreeSet::from([(Kind::Endpoints, name(100))]), "twenty changes are one name");
}

#[test]
fn a_thousand_updates_among_ten_thousand_services_never_reach_a_proxy_that_uses_five() {
    let hub = hub();
    let mesh: Mesh = (0..10_000).map(|number| entry(number, 1)).collect();
    hub.publish(Arc::new(mesh.clone()));
    let viewer = viewer(Mode::OnDemand);
    let streams: Vec<_> = (0..20).map(|_| hub.join(&viewer)).collect();
    for (id, _) in &streams {
        let names = (0..5).flat_map(|n| Kind::ALL.map(|kind| (kind, name(n))));
        hub.watch(*id, &viewer, &SubscriptionChange { added: names.collect(), dropped: Vec::new() });
    }
    let mut registrations = Registrations::default();
    for number in 0..1_000 {
        registrations.insert(workload(number + 5));
        hub.publish(Arc::new(mesh.with_registrations(registrations.clone())));
    }
    assert!(streams.iter().all(|(_, mailbox)| mailbox.take().is_empty()));
    registrations.insert(workload(0));
    hub.publish(Arc::new(mesh.with_registrations(registrations)));
    for (_, mailbox) in &streams {
        assert_eq!(mailbox.take(), BTreeSet::from([(Kind::Cluster, name(0)), (Kind::Endpoints, name(0))]));
    }
}

/// An instance of one service.
fn workload(number: u32) -> Arc<WorkloadEntry> {
    let address = ([10, 1, (number >> 8) as u8, number as u8], 80).into();
    let key = WorkloadKey { instance: format!("i{number}").into(), ..viewer(Mode::OnDemand).workload };
    Arc::new(WorkloadEntry {
        key,
        ports: vec![WorkloadPort {
            services: vec![ServiceKey::new("shop", format!("s{number}"))],
            service_port: 80,
            protocol: None,
            advertised: address,
            listen: address,
            application: address,
            original_destination: false,
            mtls: None,
        }],
        labels: BTreeMap::new(),
        capture: None,
        mtls: MtlsMode::Strict,
        ready: true,
        draining: false,
        pod: None,
    })
}

#[test]
fn a_wildcard_subscription_gets_the_changed_names() {
    let hub = hub();
    hub.publish(mesh(0, 1));
    let viewer = viewer(Mode::Wildcard);
    let (id, mailbox) = hub.join(&viewer);
    hub.watch(
        id,
        &viewer,
        &SubscriptionChange { added: vec![(Kind::Cluster, "*".into())], dropped: Vec::new() },
    );
    hub.publish(mesh(7, 2));
    assert_eq!(mailbox.take(), BTreeSet::from([(Kind::Cluster, name(7))]));
}

#[test]
fn a_stream_whose_workload_moves_to_another_zone_checks_all_its_endpoints() {
    let hub = hub();
    let mesh = mesh(0, 1);
    let at = |zone: Option<&str>| {
        let labels =
            zone.map(|zone| ("topology.kubernetes.io/zone".into(), zone.into())).into_iter().collect();
        let mut registrations = Registrations::default();
        let moved = Arc::unwrap_or_clone(workload(0));
        registrations.insert(Arc::new(WorkloadEntry { labels, ..moved }));
        Arc::new(mesh.with_registrations(registrations))
    };
    hub.publish(at(None));
    let moved = Viewer { workload: workload(0).key.clone(), ..viewer(Mode::OnDemand) };
    let ((_, mailbox), (_, other)) = (hub.join(&moved), hub.join(&viewer(Mode::OnDemand)));
    hub.publish(at(Some("x")));
    assert_eq!(mailbox.take(), BTreeSet::from([(Kind::Endpoints, WILDCARD.into())]));
    assert!(other.take().is_empty());
    hub.publish(at(Some("x")));
    assert!(mailbox.take().is_empty());
}

#[test]
fn a_stream_that_leaves_is_removed_from_the_index() {
    let hub = hub();
    let viewer = viewer(Mode::Wildcard);
    let (id, _mailbox) = hub.join(&viewer);
    let all = vec![
        (Kind::Cluster, "*".into()),
        (Kind::Listener, "s1:80".into()),
        (Kind::Listener, "10.0.0.1:80".into()),
    ];
    hub.watch(id, &viewer, &SubscriptionChange { added: all.clone(), dropped: Vec::new() });
    assert!(hub.watchers() > 1);
    hub.leave(id, &viewer, all);
    assert_eq!(hub.watchers(), 0);
}
