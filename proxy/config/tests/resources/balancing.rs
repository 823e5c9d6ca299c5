//! The load balancing policy, in each of the forms in which control planes send it.

use outrigger_config::cluster::Balancing;
use outrigger_config::endpoint::hashing::{HashFunction, Hashing};
use outrigger_proto::xds::cluster::cluster::common_lb_config::LocalityConfigSpecifier;
use outrigger_proto::xds::cluster::cluster::{
    CommonLbConfig, LbConfig, LbPolicy, LeastRequestLbConfig, RingHashLbConfig, RoundRobinLbConfig,
    SlowStartConfig, ring_hash_lb_config,
};
use outrigger_proto::xds::core::RuntimeDouble;
use outrigger_proto::xds::protobuf::{Any, UInt64Value};
use outrigger_proto::xds::{
    cluster, core, lb_common, least_request, maglev, peak_ewma, random, ring_hash, round_robin, type_url,
    wrr_locality,
};

use crate::fixture::*;

fn list(policies: Vec<Any>) -> cluster::LoadBalancingPolicy {
    let policy = |any| cluster::load_balancing_policy::Policy {
        typed_extension_config: Some(core::TypedExtensionConfig {
            name: "x".into(),
            typed_config: Some(any),
        }),
    };
    cluster::LoadBalancingPolicy { policies: policies.into_iter().map(policy).collect() }
}

/// Returns the decoded policy, and the locality weight of an endpoint whose locality has weight 3. Returns the refused field if
/// the cluster is refused.
fn read(change: impl FnOnce(&mut cluster::Cluster)) -> Result<(Balancing, Option<u32>), String> {
    let mut wire = cart_cluster();
    wire.load_balancing_policy = None;
    change(&mut wire);
    let mut builder = Mesh::default();
    if let Some(refused) = apply(&mut builder, CART, "1", cluster_body(wire)) {
        return Err(refused.field);
    }
    let mut endpoints = assignment(CART, &["10.0.0.7:80"]);
    endpoints.endpoints[0].load_balancing_weight = number(3);
    accept(&mut builder, CART, "1", packed(type_url::CLUSTER_LOAD_ASSIGNMENT, &endpoints));
    let snapshot = build(&mut builder);
    let cluster = snapshot.cluster(CART).unwrap();
    Ok((cluster.balancing, cluster.endpoints.load().list[0].locality_weight))
}

fn read_list(policies: Vec<Any>) -> Result<(Balancing, Option<u32>), String> {
    read(|wire| wire.load_balancing_policy = Some(list(policies)))
}

fn least_request(change: impl FnOnce(&mut least_request::LeastRequest)) -> Any {
    let mut wire = least_request::LeastRequest::default();
    change(&mut wire);
    packed(type_url::LEAST_REQUEST, &wire)
}

fn weighted() -> Option<lb_common::LocalityLbConfig> {
    use lb_common::locality_lb_config::LocalityConfigSpecifier as Specifier;
    let locality_config_specifier = Some(Specifier::LocalityWeightedLbConfig(Default::default()));
    Some(lb_common::LocalityLbConfig { locality_config_specifier })
}

#[test]
fn the_first_known_policy_of_the_list_counts() {
    let unknown = || packed("type.googleapis.com/unknown", &());
    let least = least_request(|wire| wire.choice_count = number(5));
    let random = packed(type_url::RANDOM, &random::Random::default());
    let choices = Balancing::LeastRequest { choices: 5 };
    assert_eq!(read_list(vec![unknown(), least, random.clone()]), Ok((choices, None)));
    assert_eq!(read_list(vec![random]), Ok((Balancing::Random, None)));
    assert_eq!(read_list(vec![unknown()]).unwrap_err(), "load_balancing_policy.policies");
}

#[test]
fn a_full_scan_looks_at_all() {
    use least_request::least_request::SelectionMethod;
    let scan = least_request(|wire| wire.selection_method = SelectionMethod::FullScan.into());
    assert_eq!(read_list(vec![scan]), Ok((Balancing::LeastRequest { choices: u32::MAX }, None)));
}

#[test]
fn localities_are_weighted_where_the_cluster_says_so_and_only_there() {
    let robin = |locality_lb_config| {
        packed(type_url::ROUND_ROBIN, &round_robin::RoundRobin { locality_lb_config, ..Default::default() })
    };
    assert_eq!(read_list(vec![robin(None)]), Ok((Balancing::RoundRobin, None)));
    assert_eq!(read_list(vec![robin(weighted())]), Ok((Balancing::RoundRobin, Some(3))));
    let wrr = |inner| {
        let endpoint_picking_policy = Some(list(vec![inner]));
        packed(type_url::WRR_LOCALITY, &wrr_locality::WrrLocality { endpoint_picking_policy })
    };
    assert_eq!(read_list(vec![wrr(robin(None))]), Ok((Balancing::RoundRobin, Some(3))));
    let nested = read_list(vec![wrr(wrr(robin(None)))]).unwrap_err();
    assert_eq!(nested, "load_balancing_policy.policies[0].endpoint_picking_policy.policies");
    let specifier = LocalityConfigSpecifier::LocalityWeightedLbConfig(Default::default());
    let older = read(|wire| {
        let locality_config_specifier = Some(specifier);
        wire.common_lb_config = Some(CommonLbConfig { locality_config_specifier, ..Default::default() });
    });
    assert_eq!(older, Ok((Balancing::RoundRobin, Some(3))));
}

#[test]
fn settings_in_the_deprecated_fields_apply() {
    let older = |config| {
        read(|wire| {
            wire.lb_policy = LbPolicy::LeastRequest.into();
            wire.lb_config = Some(LbConfig::LeastRequestLbConfig(config));
        })
    };
    let config = LeastRequestLbConfig { choice_count: number(9), ..Default::default() };
    assert_eq!(older(config), Ok((Balancing::LeastRequest { choices: 9 }, None)));
    let aggression = Some(RuntimeDouble { default_value: 0.0, runtime_key: String::new() });
    let slow = SlowStartConfig { aggression, ..Default::default() };
    let config = LeastRequestLbConfig { slow_start_config: Some(slow), ..Default::default() };
    assert_eq!(older(config).unwrap_err(), "least_request_lb_config.slow_start_config.aggression");
}

#[test]
fn slow_start_is_the_same_in_each_form() {
    let decoded = |change: &dyn Fn(&mut cluster::Cluster)| {
        let mut wire = cart_cluster();
        wire.load_balancing_policy = None;
        change(&mut wire);
        let mut builder = cart();
        accept(&mut builder, CART, "2", cluster_body(wire));
        build(&mut builder).cluster(CART).unwrap().slow_start
    };
    let window = || seconds(60);
    let newer = || Some(lb_common::SlowStartConfig { slow_start_window: window(), ..Default::default() });
    let older = || Some(SlowStartConfig { slow_start_window: window(), ..Default::default() });
    let listed = |any: Any| decoded(&|wire| wire.load_balancing_policy = Some(list(vec![any.clone()])));
    let forms = [
        listed(packed(type_url::PEAK_EWMA, &peak_ewma::PeakEwma { slow_start_config: newer() })),
        listed(least_request(|wire| wire.slow_start_config = newer())),
        decoded(&|wire| {
            wire.lb_policy = LbPolicy::RoundRobin.into();
            let slow_start_config = older();
            wire.lb_config = Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config }));
        }),
        decoded(&|wire| {
            wire.lb_policy = LbPolicy::LeastRequest.into();
            let config = LeastRequestLbConfig { slow_start_config: older(), ..Default::default() };
            wire.lb_config = Some(LbConfig::LeastRequestLbConfig(config));
        }),
    ];
    assert!(forms[0].is_some());
    assert!(forms.iter().all(|form| *form == forms[0]), "{forms:?}");
    assert_eq!(listed(packed(type_url::PEAK_EWMA, &peak_ewma::PeakEwma::default())), None);
}

#[test]
fn both_forms_of_hashing_policies_say_the_same() {
    let ring = |max| Hashing::Ring { min: 1024, max, function: HashFunction::Murmur2 };
    let maximum_ring_size = Some(UInt64Value { value: 4096 });
    let older = read(|wire| {
        wire.lb_policy = LbPolicy::RingHash.into();
        let hash_function = ring_hash_lb_config::HashFunction::MurmurHash2.into();
        let config = RingHashLbConfig { hash_function, maximum_ring_size, ..Default::default() };
        wire.lb_config = Some(LbConfig::RingHashLbConfig(config));
    });
    let hash_function = ring_hash::ring_hash::HashFunction::MurmurHash2.into();
    let newer = ring_hash::RingHash { hash_function, maximum_ring_size, ..Default::default() };
    assert_eq!(older, Ok((Balancing::Hashing(ring(4096)), None)));
    assert_eq!(read_list(vec![packed(type_url::RING_HASH, &newer)]), older);
    let older = read(|wire| wire.lb_policy = LbPolicy::Maglev.into());
    assert_eq!(older, Ok((Balancing::Hashing(Hashing::Maglev { size: 65_537 }), None)));
    assert_eq!(read_list(vec![packed(type_url::MAGLEV, &maglev::Maglev::default())]), older);
    let few = |size| {
        let wire = maglev::Maglev { table_size: Some(UInt64Value { value: size }), ..Default::default() };
        read_list(vec![packed(type_url::MAGLEV, &wire)]).is_ok()
    };
    assert!(few(251) && few(5_000_011) && !few(0) && !few(1) && !few(65_536) && !few(6_000_011));
}

#[test]
fn what_would_change_shares_and_is_not_done_is_refused_by_field() {
    let field = |any| read_list(vec![any]).unwrap_err().replace("load_balancing_policy.policies[0].", "");
    let bias = |default_value| Some(RuntimeDouble { default_value, runtime_key: String::new() });
    assert_eq!(field(least_request(|wire| wire.choice_count = number(1))), "choice_count");
    assert_eq!(field(least_request(|wire| wire.active_request_bias = bias(2.0))), "active_request_bias");
    assert!(read_list(vec![least_request(|wire| wire.active_request_bias = bias(1.0))]).is_ok());
    let percent = |value| Some(outrigger_proto::xds::types::Percent { value });
    let slow = least_request(|wire| {
        let min_weight_percent = percent(101.0);
        wire.slow_start_config =
            Some(lb_common::SlowStartConfig { min_weight_percent, ..Default::default() });
    });
    assert_eq!(field(slow), "slow_start_config.min_weight_percent");
    let closing = read(|wire| {
        let close_connections_on_host_set_change = true;
        wire.common_lb_config =
            Some(CommonLbConfig { close_connections_on_host_set_change, ..Default::default() });
    });
    assert_eq!(closing.unwrap_err(), "common_lb_config.close_connections_on_host_set_change");
}

#[test]
fn the_overprovisioning_factor_of_an_assignment_counts() {
    use outrigger_proto::xds::endpoint::cluster_load_assignment::Policy;
    let mut builder = cart();
    let mut wire = assignment(CART, &["10.0.0.7:80"]);
    wire.policy = Some(Policy { overprovisioning_factor: number(100), ..Default::default() });
    accept(&mut builder, CART, "2", packed(type_url::CLUSTER_LOAD_ASSIGNMENT, &wire));
    let snapshot = build(&mut builder);
    assert_eq!(snapshot.cluster(CART).unwrap().endpoints.load().overprovisioning, 100);
    wire.policy = Some(Policy { weighted_priority_health: true, ..Default::default() });
    let refused = apply(&mut builder, CART, "3", packed(type_url::CLUSTER_LOAD_ASSIGNMENT, &wire)).unwrap();
    assert_eq!(refused.field, "policy.weighted_priority_health");
}
