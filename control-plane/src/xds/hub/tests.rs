use outrigger_core::identity::{SpiffeId, TrustDomain};

use super::*;
use crate::model::endpoint::{Endpoint, EndpointHealth, Endpoints, Peer};
use crate::model::mesh::ServiceEntry;
use crate::model::registration::WorkloadKey;
use crate::model::service::{AppProtocol, Reach, Service, ServiceKey, ServicePort, TargetPort};
use crate::translate::catalog::Mode;

fn entry(number: u32, endpoint: u16) -> ServiceEntry {
    let port = ServicePort {
        name: "".into(),
        number: 80,
        target: TargetPort::Number(80),
        protocol: AppProtocol::Http,
    };
    let endpoint = Endpoint {
        address: ([10, 0, (number >> 8) as u8, number as u8], endpoint).into(),
        health: EndpointHealth::Ready,
        peer: Peer::Plaintext,
        instance: None,
        version: None,
        zone: None,
    };
    ServiceEntry {
        service: Arc::new(Service {
            key: ServiceKey::new("shop", format!("s{number}")),
            reach: Reach::ClusterIps(Vec::new()),
            ports: vec![port],
            service_accounts: Vec::new(),
            publish_not_ready: false,
        }),
        endpoints: Arc::new(Endpoints { ports: vec![(80, [endpoint].into())] }),
        routes: Arc::default(),
    }
}

fn mesh(changed: u32, endpoint: u16) -> Arc<Mesh> {
    Arc::new((0..200).map(|number| entry(number, if number == changed { endpoint } else { 1 })).collect())
}

fn hub() -> Hub {
    let trust_domain = TrustDomain::parse("cluster.local").unwrap();
    Hub::new(Settings { cluster_domain: "cluster.local".into(), trust_domain })
}

fn viewer(mode: Mode) -> Viewer {
    let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
    Viewer { workload: WorkloadKey { identity, instance: "cart-1".into() }, mode }
}

fn name(number: u32) -> Name {
    format!("s{number}.shop.svc.cluster.local:80").into()
}

#[test]
fn a_change_wakes_only_the_streams_that_use_what_changed() {
    let hub = hub();
    hub.publish(mesh(0, 1));
    let (viewer, (five, quiet), (one, woken)) = (viewer(Mode::OnDemand), hub.join(), hub.join());
    let added = (0..5).flat_map(|n| [(Kind::Cluster, name(n)), (Kind::Endpoints, name(n))]).collect();
    hub.watch(five, &viewer, &Interest { added, dropped: Vec::new() });
    hub.watch(one, &viewer, &Interest { added: vec![(Kind::Endpoints, name(100))], dropped: Vec::new() });
    for port in 2..22 {
        hub.publish(mesh(100, port));
    }
    assert!(quiet.take().is_empty());
    assert_eq!(woken.take(), BTreeSet::from([(Kind::Endpoints, name(100))]), "twenty changes are one name");
}

#[test]
fn who_watches_everything_is_told_the_names_that_changed() {
    let hub = hub();
    hub.publish(mesh(0, 1));
    let (viewer, (id, mailbox)) = (viewer(Mode::Wildcard), hub.join());
    hub.watch(id, &viewer, &Interest { added: vec![(Kind::Cluster, "*".into())], dropped: Vec::new() });
    hub.publish(mesh(7, 2));
    assert_eq!(mailbox.take(), BTreeSet::from([(Kind::Cluster, name(7))]));
}

#[test]
fn a_stream_leaves_nothing_behind() {
    let hub = hub();
    let (viewer, (id, _mailbox)) = (viewer(Mode::Wildcard), hub.join());
    let all = vec![
        (Kind::Cluster, "*".into()),
        (Kind::Listener, "s1:80".into()),
        (Kind::Listener, "10.0.0.1:80".into()),
    ];
    hub.watch(id, &viewer, &Interest { added: all.clone(), dropped: Vec::new() });
    assert!(hub.watchers() > 1);
    hub.leave(id, &viewer, all);
    assert_eq!(hub.watchers(), 0);
}
