//! Decoding of a cluster's load balancing policy: the policy list (newer), or `lb_policy` and `common_lb_config`.
//!
//! The first known policy of a list is used (`Cluster.load_balancing_policy`). A setting that would change the distribution
//! of requests is either honoured or rejected by its field.

use outrigger_policy::field::{Unusable, number, required, unpack, unsupported, unsupported_any};
use outrigger_policy::slow_start::SlowStart;
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::{
    cluster as wire_cluster, core, lb_common, least_request, peak_ewma, random, round_robin, type_url, types,
    wrr_locality,
};
use wire_cluster::cluster::common_lb_config::ConsistentHashingLbConfig;
use wire_cluster::cluster::{CommonLbConfig, LbConfig, LbPolicy};

use super::picking::Picking;
use super::{Balancing, PanicThreshold, SessionStatuses, hashing};

/// The settings common to all policies, as far as they are honoured.
#[derive(Debug, Clone)]
struct Common {
    locality_weighted: bool,
    panic: PanicThreshold,
    session_statuses: SessionStatuses,
    consistent_hashing: Option<ConsistentHashingLbConfig>,
}

impl Picking {
    /// Decodes the policy list, or the older fields if there is none.
    pub(super) fn decode(
        lb_policy: i32,
        policies: Option<wire_cluster::LoadBalancingPolicy>,
        lb_config: Option<LbConfig>,
        common: Option<CommonLbConfig>,
    ) -> Result<Self, Unusable> {
        let Common { locality_weighted, panic, session_statuses, consistent_hashing } =
            common_config(common.unwrap_or_default()).map_err(|bad| bad.within("common_lb_config"))?;
        let picking = match policies {
            Some(list) => first_known(list, |any| Self::known(any, locality_weighted))
                .map_err(|bad| bad.within("load_balancing_policy")),
            None => {
                let (policy, slow_start) = older(lb_policy, lb_config)?;
                let picking = Self { slow_start, ..Self::new(policy, locality_weighted) };
                let hashes_names = match picking.policy {
                    Balancing::Hashing(_) => hashing::older_common(consistent_hashing)?,
                    _ => false,
                };
                Ok(Self { hashes_names, ..picking })
            }
        };
        Ok(Self { panic, session_statuses, ..picking? })
    }

    /// Decodes one policy. Returns `None` if it is unknown. `common` applies to our own policy, which has no such setting.
    fn known(any: &Any, common: bool) -> Option<Result<Self, Unusable>> {
        if any.type_url != type_url::WRR_LOCALITY {
            return Self::leaf(any, common);
        }
        let weighted = || {
            let wrr_locality::WrrLocality { endpoint_picking_policy } = unpack(any, type_url::WRR_LOCALITY)?;
            // The policy within a locality must be a leaf, so that nesting is bounded.
            let inner = required("endpoint_picking_policy", endpoint_picking_policy)?;
            let picking = first_known(inner, |any| Self::leaf(any, true))
                .map_err(|bad| bad.within("endpoint_picking_policy"))?;
            Ok(Self { locality_weighted: true, ..picking })
        };
        Some(weighted())
    }

    fn leaf(any: &Any, common: bool) -> Option<Result<Self, Unusable>> {
        match any.type_url.as_str() {
            type_url::PEAK_EWMA => Some(unpack(any, type_url::PEAK_EWMA).and_then(|wire| {
                let peak_ewma::PeakEwma { slow_start_config } = wire;
                let slow_start = SlowStart::decode(slow_start_config)?;
                Ok(Self { slow_start, ..Self::new(Balancing::PeakEwma, common) })
            })),
            type_url::LEAST_REQUEST => Some(unpack(any, type_url::LEAST_REQUEST).and_then(least_requests)),
            type_url::ROUND_ROBIN => Some(unpack(any, type_url::ROUND_ROBIN).and_then(|wire| {
                let round_robin::RoundRobin { slow_start_config, locality_lb_config } = wire;
                let slow_start = SlowStart::decode(slow_start_config)?;
                Ok(Self { slow_start, ..Self::new(Balancing::RoundRobin, is_weighted(locality_lb_config)) })
            })),
            type_url::RANDOM => Some(unpack(any, type_url::RANDOM).map(|wire| {
                let random::Random { locality_lb_config } = wire;
                Self::new(Balancing::Random, is_weighted(locality_lb_config))
            })),
            type_url::RING_HASH => Some(unpack(any, type_url::RING_HASH).and_then(hashing::ring)),
            type_url::MAGLEV => Some(unpack(any, type_url::MAGLEV).and_then(hashing::maglev)),
            _ => None,
        }
    }
}

fn first_known(
    list: wire_cluster::LoadBalancingPolicy,
    known: impl Fn(&Any) -> Option<Result<Picking, Unusable>>,
) -> Result<Picking, Unusable> {
    let wire_cluster::LoadBalancingPolicy { policies } = list;
    for (at, policy) in policies.into_iter().enumerate() {
        let wire_cluster::load_balancing_policy::Policy { typed_extension_config } = policy;
        // The name is informational; the type determines the policy.
        let Some(core::TypedExtensionConfig { name: _, typed_config: Some(any) }) = typed_extension_config
        else {
            continue;
        };
        if let Some(picking) = known(&any) {
            return picking.map_err(|bad| bad.within(format_args!("policies[{at}]")));
        }
    }
    Err(Unusable::new("policies", "holds no policy that is known here"))
}

fn least_requests(wire: least_request::LeastRequest) -> Result<Picking, Unusable> {
    use least_request::least_request::SelectionMethod;
    #[allow(deprecated)] // the older form of the selection method
    let least_request::LeastRequest {
        choice_count,
        active_request_bias,
        slow_start_config,
        locality_lb_config,
        enable_full_scan,
        selection_method,
    } = wire;
    let slow_start = SlowStart::decode(slow_start_config)?;
    unbiased(active_request_bias)?;
    let selection_method = SelectionMethod::try_from(selection_method)
        .map_err(|_| Unusable::new("selection_method", "is unknown"))?;
    let all =
        selection_method == SelectionMethod::FullScan || outrigger_policy::field::flag(enable_full_scan);
    let choices = if all { u32::MAX } else { choices(number(choice_count))? };
    let picking = Picking::new(Balancing::LeastRequest { choices }, is_weighted(locality_lb_config));
    Ok(Picking { slow_start, ..picking })
}

fn older(lb_policy: i32, config: Option<LbConfig>) -> Result<(Balancing, Option<SlowStart>), Unusable> {
    let balancing = match (LbPolicy::try_from(lb_policy), config) {
        (Ok(LbPolicy::RoundRobin), Some(LbConfig::RoundRobinLbConfig(config))) => {
            let wire_cluster::cluster::RoundRobinLbConfig { slow_start_config } = config;
            let slow_start =
                older_slow_start(slow_start_config).map_err(|bad| bad.within("round_robin_lb_config"))?;
            return Ok((Balancing::RoundRobin, slow_start));
        }
        (Ok(LbPolicy::LeastRequest), Some(LbConfig::LeastRequestLbConfig(config))) => {
            let wire_cluster::cluster::LeastRequestLbConfig {
                choice_count,
                active_request_bias,
                slow_start_config,
            } = config;
            let decoded = || {
                unbiased(active_request_bias)?;
                let choices = choices(number(choice_count))?;
                Ok((Balancing::LeastRequest { choices }, older_slow_start(slow_start_config)?))
            };
            return decoded().map_err(|bad: Unusable| bad.within("least_request_lb_config"));
        }
        (Ok(LbPolicy::RingHash), Some(LbConfig::RingHashLbConfig(config))) => {
            hashing::older_ring(Some(config))
        }
        (Ok(LbPolicy::Maglev), Some(LbConfig::MaglevLbConfig(config))) => hashing::older_maglev(Some(config)),
        // Settings of a policy that is not selected are ignored, as in Envoy.
        (Ok(LbPolicy::RoundRobin | LbPolicy::ClusterProvided), _) => Ok(Balancing::RoundRobin),
        (Ok(LbPolicy::Random), _) => Ok(Balancing::Random),
        (Ok(LbPolicy::LeastRequest), _) => Ok(Balancing::LeastRequest { choices: 2 }),
        (Ok(LbPolicy::RingHash), _) => hashing::older_ring(None),
        (Ok(LbPolicy::Maglev), _) => hashing::older_maglev(None),
        (Ok(LbPolicy::LoadBalancingPolicyConfig), _) => {
            Err(Unusable::new("load_balancing_policy", "is required"))
        }
        (Err(_), _) => Err(Unusable::new("lb_policy", "is unknown")),
    };
    Ok((balancing?, None))
}

/// Decodes the slow start of the older fields, which has the same settings (`Cluster.SlowStartConfig`).
fn older_slow_start(
    wire: Option<wire_cluster::cluster::SlowStartConfig>,
) -> Result<Option<SlowStart>, Unusable> {
    SlowStart::decode(wire.map(|wire| {
        let wire_cluster::cluster::SlowStartConfig { slow_start_window, aggression, min_weight_percent } =
            wire;
        lb_common::SlowStartConfig { slow_start_window, aggression, min_weight_percent }
    }))
}

/// Decodes the settings common to all policies.
fn common_config(wire: CommonLbConfig) -> Result<Common, Unusable> {
    use wire_cluster::cluster::common_lb_config::LocalityConfigSpecifier;
    let CommonLbConfig {
        healthy_panic_threshold,
        // Each assignment is published when received; merging them would only save work.
        update_merge_window: _,
        ignore_new_hosts_until_first_hc,
        close_connections_on_host_set_change,
        consistent_hashing_lb_config,
        override_host_status,
        locality_config_specifier,
    } = wire;
    unsupported_any(&[("close_connections_on_host_set_change", close_connections_on_host_set_change)])?;
    let locality_weighted = match locality_config_specifier {
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => true,
        // Needs a local cluster, which Envoy's bootstrap names. Without one Envoy ignores this, too.
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(_)) | None => false,
    };
    let threshold = match healthy_panic_threshold {
        // Ejected endpoints are used if no others are left, and those that the control plane marks unhealthy never, whatever this is.
        Some(types::Percent { value }) if (0.0..=100.0).contains(&value) => value,
        Some(_) => return Err(Unusable::new("healthy_panic_threshold", "must be from 0 to 100")),
        None => PanicThreshold::default().threshold,
    };
    let panic = PanicThreshold { threshold, ignores_new: ignore_new_hosts_until_first_hc };
    let session_statuses = SessionStatuses::decode(override_host_status);
    Ok(Common {
        locality_weighted,
        panic,
        session_statuses: session_statuses.map_err(|bad| bad.within("override_host_status"))?,
        consistent_hashing: consistent_hashing_lb_config,
    })
}

/// Returns whether localities are weighted. Zone-aware balancing is ignored for the reason given in [`common_config`].
fn is_weighted(config: Option<lb_common::LocalityLbConfig>) -> bool {
    use lb_common::locality_lb_config::LocalityConfigSpecifier::LocalityWeightedLbConfig;
    let specifier = config
        .and_then(|lb_common::LocalityLbConfig { locality_config_specifier }| locality_config_specifier);
    matches!(specifier, Some(LocalityWeightedLbConfig(_)))
}

/// Returns an error unless the bias is 1, its default. Envoy divides an endpoint's weight by its active requests to this power.
fn unbiased(bias: Option<core::RuntimeDouble>) -> Result<(), Unusable> {
    let Some(core::RuntimeDouble { default_value, runtime_key: _ }) = bias else { return Ok(()) }; // there is no runtime
    unsupported("active_request_bias", default_value != 1.0)
}

fn choices(wire: Option<u32>) -> Result<u32, Unusable> {
    match wire {
        Some(0 | 1) => Err(Unusable::new("choice_count", "must be at least 2")),
        choices => Ok(choices.unwrap_or(2)),
    }
}
