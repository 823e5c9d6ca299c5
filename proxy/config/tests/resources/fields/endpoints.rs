//! The endpoints of a cluster.

use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::{core, endpoint, type_url};

use super::place::Place;
use crate::fixture::*;

fn in_assignment(of: endpoint::ClusterLoadAssignment) -> (String, Any) {
    (of.cluster_name.clone(), packed(type_url::CLUSTER_LOAD_ASSIGNMENT, &of))
}

fn one() -> endpoint::ClusterLoadAssignment {
    let mut wire = assignment(CART, &["10.0.0.7:8080"]);
    wire.endpoints[0].load_balancing_weight = number(3);
    wire
}

fn in_locality(of: endpoint::LocalityLbEndpoints) -> (String, Any) {
    in_assignment(endpoint::ClusterLoadAssignment { endpoints: vec![of], ..one() })
}

fn in_lb_endpoint(of: endpoint::LbEndpoint) -> (String, Any) {
    in_locality(endpoint::LocalityLbEndpoints { lb_endpoints: vec![of], ..one().endpoints.remove(0) })
}

fn lb_endpoint() -> endpoint::LbEndpoint {
    one().endpoints.remove(0).lb_endpoints.remove(0)
}

#[expect(deprecated, reason = "older forms are still sent")]
pub fn places() -> Vec<Place> {
    let host = || {
        let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(host)) = lb_endpoint().host_identifier
        else {
            panic!()
        };
        host
    };
    vec![
        Place::new(
            "ClusterLoadAssignment",
            "envoy.config.endpoint.v3.ClusterLoadAssignment",
            one(),
            in_assignment,
        )
        .probe("cluster_name", |of: &mut endpoint::ClusterLoadAssignment| of.cluster_name = "other".into())
        .probe("policy", |of: &mut endpoint::ClusterLoadAssignment| {
            of.policy = Some(endpoint::cluster_load_assignment::Policy {
                overprovisioning_factor: number(7),
                ..Default::default()
            });
        }),
        Place::new(
            "ClusterLoadAssignment.Policy",
            "envoy.config.endpoint.v3.ClusterLoadAssignment.Policy",
            Default::default(),
            |of: endpoint::cluster_load_assignment::Policy| {
                in_assignment(endpoint::ClusterLoadAssignment { policy: Some(of), ..one() })
            },
        )
        .harmless(
            "assignments stay until they are replaced, as the whole configuration does",
            &["endpoint_stale_after"],
        ),
        Place::new(
            "LocalityLbEndpoints",
            "envoy.config.endpoint.v3.LocalityLbEndpoints",
            one().endpoints.remove(0),
            in_locality,
        )
        .probe("locality", |of: &mut endpoint::LocalityLbEndpoints| {
            of.locality = Some(core::Locality { zone: "a".into(), ..Default::default() })
        })
        .probe("load_balancing_weight", |of: &mut endpoint::LocalityLbEndpoints| {
            of.load_balancing_weight = number(9)
        })
        .probe("load_balancer_endpoints", |of: &mut endpoint::LocalityLbEndpoints| {
            of.lb_config =
                Some(endpoint::locality_lb_endpoints::LbConfig::LoadBalancerEndpoints(Default::default()));
        })
        .harmless("for Envoy's subset balancer, which a cluster cannot have here", &["metadata"])
        .harmless("Envoy does not use it either", &["proximity"]),
        Place::new("Locality", "envoy.config.core.v3.Locality", core::Locality::default(), |of| {
            in_locality(endpoint::LocalityLbEndpoints { locality: Some(of), ..one().endpoints.remove(0) })
        }),
        Place::new("LbEndpoint", "envoy.config.endpoint.v3.LbEndpoint", lb_endpoint(), in_lb_endpoint)
            .harmless("is the default", &["health_status"]),
        Place::new(
            "Metadata (of an endpoint)",
            "envoy.config.core.v3.Metadata",
            lb_endpoint().metadata.unwrap(),
            |of| in_lb_endpoint(endpoint::LbEndpoint { metadata: Some(of), ..lb_endpoint() }),
        )
        .harmless("what is read is untyped", &["typed_filter_metadata"]),
        Place::new("Endpoint", "envoy.config.endpoint.v3.Endpoint", host(), |of| {
            in_lb_endpoint(endpoint::LbEndpoint {
                host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(of)),
                ..lb_endpoint()
            })
        })
        .probe("health_check_config", |of: &mut endpoint::Endpoint| {
            of.health_check_config =
                Some(endpoint::endpoint::HealthCheckConfig { port_value: 7, ..Default::default() });
        })
        .harmless("is hashed if the cluster says so; routes do not rewrite hosts to it", &["hostname"])
        .harmless("its instance is its name", &["observability_name"]),
        Place::new(
            "Endpoint.HealthCheckConfig",
            "envoy.config.endpoint.v3.Endpoint.HealthCheckConfig",
            Default::default(),
            move |of: endpoint::endpoint::HealthCheckConfig| {
                in_lb_endpoint(endpoint::LbEndpoint {
                    host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(
                        endpoint::Endpoint { health_check_config: Some(of), ..host() },
                    )),
                    ..lb_endpoint()
                })
            },
        )
        .probe("address", |of: &mut endpoint::endpoint::HealthCheckConfig| {
            of.address = address("10.0.0.9:80")
        }),
    ]
}
