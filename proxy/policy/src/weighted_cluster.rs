//! Which cluster a request goes to (`cluster` and `weighted_clusters` of `RouteAction` and of the TCP proxy).

use http::HeaderValue;
use outrigger_core::Name;
use outrigger_proto::xds::{route, tcp_proxy};

use crate::field::{Unusable, each, number, unsupported_any};
use crate::filter::overrides::FilterOverrides;
use crate::header_mutation::HeaderMutation;
use crate::rewrite;

/// One or more clusters that share a route's requests.
#[derive(Debug, Clone)]
pub struct WeightedClusters {
    first: Share,
    others: Box<[Share]>,
    total: u64,
}

/// One cluster's share.
#[derive(Debug, Clone)]
pub struct Share {
    /// The cluster.
    pub cluster: Name,
    /// Its weight. Never picked if zero.
    pub weight: u32,
    /// Changes to the headers of requests to this cluster. Applied before the route's.
    pub request_headers: HeaderMutation,
    /// Changes to the headers of responses from this cluster. Applied before the route's.
    pub response_headers: HeaderMutation,
    /// The authority that is sent to this cluster.
    pub host_rewrite: Option<HeaderValue>,
    /// The overrides of filters for requests to this cluster, which include the route's. `None` if it has none of its own.
    pub filters: Option<FilterOverrides>,
}

impl WeightedClusters {
    /// Creates a single cluster that gets all requests. Returns an error if its name is empty.
    pub fn one(cluster: String) -> Result<Self, Unusable> {
        Self::new("cluster", vec![share(cluster, 1)])
    }

    /// Decodes a route's clusters. `filters` has the overrides of the route.
    pub fn decode(wire: route::WeightedCluster, filters: &FilterOverrides) -> Result<Self, Unusable> {
        // The total is the sum of the weights; `total_weight` is deprecated, and ignored by Envoy. The prefix is for runtime
        // overrides, which do not exist here.
        #[allow(deprecated)]
        let route::WeightedCluster {
            clusters,
            total_weight: _,
            runtime_key_prefix: _,
            random_value_specifier,
        } = wire;
        use route::weighted_cluster::RandomValueSpecifier;
        let (header, hashed) = match random_value_specifier {
            None => (false, false),
            Some(RandomValueSpecifier::HeaderName(name)) => (!name.is_empty(), false),
            Some(RandomValueSpecifier::UseHashPolicy(hashed)) => (false, hashed.value),
        };
        unsupported_any(&[("header_name", header), ("use_hash_policy", hashed)])?;
        Self::new("clusters", each("clusters", clusters, |wire| decode_share(wire, filters))?)
    }

    /// Decodes a TCP proxy's clusters.
    pub fn decode_tcp(wire: tcp_proxy::tcp_proxy::WeightedCluster) -> Result<Self, Unusable> {
        let tcp_proxy::tcp_proxy::WeightedCluster { clusters } = wire;
        let shares = each("clusters", clusters, |wire| {
            let tcp_proxy::tcp_proxy::weighted_cluster::ClusterWeight { name, weight, metadata_match } = wire;
            unsupported_any(&[("metadata_match", metadata_match.is_some())])?;
            Ok(share(name, weight))
        })?;
        Self::new("clusters", shares)
    }

    fn new(field: &str, shares: Vec<Share>) -> Result<Self, Unusable> {
        if let Some(at) = shares.iter().position(|share| share.cluster.is_empty()) {
            return Err(Unusable::new(format!("{field}[{at}].name"), "must not be empty"));
        }
        let total = shares.iter().map(|share| u64::from(share.weight)).sum();
        if total == 0 || total > u64::from(u32::MAX) {
            return Err(Unusable::new(
                field,
                format_args!("weights add up to {total}, not to 1..=4294967295"),
            ));
        }
        let mut shares = shares.into_iter();
        let Some(first) = shares.next() else { return Err(Unusable::new(field, "must not be empty")) };
        Ok(Self { first, others: shares.collect(), total })
    }

    /// Picks the share for a request. `sample` is random, uniform over `u32`.
    pub fn pick(&self, sample: u32) -> &Share {
        let mut point = (u64::from(sample) * self.total) >> 32;
        let mut chosen = &self.first;
        for share in self.shares() {
            chosen = share;
            let Some(beyond) = point.checked_sub(u64::from(share.weight)) else { break };
            point = beyond;
        }
        chosen
    }

    /// Returns whether there is more than one share.
    pub fn are_several(&self) -> bool {
        !self.others.is_empty()
    }

    /// Returns every share, including those of weight zero.
    pub fn shares(&self) -> impl Iterator<Item = &Share> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

fn share(cluster: String, weight: u32) -> Share {
    let (request_headers, response_headers) = Default::default();
    Share {
        cluster: cluster.into(),
        weight,
        request_headers,
        response_headers,
        host_rewrite: None,
        filters: None,
    }
}

fn decode_share(
    wire: route::weighted_cluster::ClusterWeight,
    filters: &FilterOverrides,
) -> Result<Share, Unusable> {
    use route::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    let route::weighted_cluster::ClusterWeight {
        name,
        cluster_header,
        weight,
        metadata_match,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        typed_per_filter_config,
        host_rewrite_specifier,
    } = wire;
    unsupported_any(&[
        ("cluster_header", !cluster_header.is_empty()),
        ("metadata_match", metadata_match.is_some()),
    ])?;
    let host_rewrite = match host_rewrite_specifier {
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => rewrite::host("host_rewrite_literal", &host)?,
        None => None,
    };
    Ok(Share {
        cluster: name.into(),
        // Envoy requires a weight. An absent one means an equal share, never none.
        weight: number(weight).unwrap_or(1),
        request_headers: HeaderMutation::decode(
            "request",
            request_headers_to_add,
            request_headers_to_remove,
        )?,
        response_headers: HeaderMutation::decode(
            "response",
            response_headers_to_add,
            response_headers_to_remove,
        )?,
        host_rewrite,
        filters: (!typed_per_filter_config.is_empty())
            .then(|| FilterOverrides::decode(typed_per_filter_config, filters))
            .transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use outrigger_proto::xds::protobuf;
    use proptest::prelude::*;

    use super::*;

    fn weights(weights: &[u32]) -> Result<WeightedClusters, Unusable> {
        let clusters =
            weights.iter().enumerate().map(|(at, &weight)| route::weighted_cluster::ClusterWeight {
                name: format!("c{at}"),
                weight: Some(protobuf::UInt32Value { value: weight }),
                ..Default::default()
            });
        let wire = route::WeightedCluster { clusters: clusters.collect(), ..Default::default() };
        WeightedClusters::decode(wire, &FilterOverrides::default())
    }

    #[test]
    fn nothing_goes_to_weight_zero() {
        let split = weights(&[0, 1, 0]).unwrap();
        for sample in [0, 1, u32::MAX / 2, u32::MAX] {
            assert_eq!(&*split.pick(sample).cluster, "c1");
        }
    }

    proptest! {
        #[test]
        fn each_share_gets_its_part_of_the_samples(of in proptest::collection::vec(0u32..1000, 1..8)) {
            prop_assume!(of.iter().sum::<u32>() > 0);
            let split = weights(&of).unwrap();
            let mut hits = vec![0u32; of.len()];
            for step in 0..10_000u32 {
                let picked = split.pick(step * (u32::MAX / 10_000));
                hits[picked.cluster[1..].parse::<usize>().unwrap()] += 1;
            }
            let total: u32 = of.iter().sum();
            for (weight, hits) in of.iter().zip(hits) {
                let expected = f64::from(*weight) / f64::from(total) * 10_000.0;
                prop_assert!((f64::from(hits) - expected).abs() <= 2.0, "{hits} for {expected}");
                prop_assert!(*weight > 0 || hits == 0);
            }
        }
    }

    #[test]
    fn a_weight_that_is_not_there_counts_as_one() {
        let unweighted =
            |name: &str| route::weighted_cluster::ClusterWeight { name: name.into(), ..Default::default() };
        let clusters = vec![unweighted("a"), unweighted("b")];
        let split = WeightedClusters::decode(
            route::WeightedCluster { clusters, ..Default::default() },
            &Default::default(),
        )
        .unwrap();
        assert_eq!((&*split.pick(0).cluster, &*split.pick(u32::MAX).cluster), ("a", "b"));
    }

    #[test]
    fn weights_that_decide_nothing_are_refused_by_field() {
        assert_eq!(weights(&[]).unwrap_err().field, "clusters");
        assert_eq!(weights(&[0, 0]).unwrap_err().field, "clusters");
        assert_eq!(weights(&[u32::MAX, 1]).unwrap_err().field, "clusters");
        assert_eq!(WeightedClusters::one(String::new()).unwrap_err().field, "cluster[0].name");
        let header =
            route::weighted_cluster::ClusterWeight { cluster_header: "x".into(), ..Default::default() };
        let wire = route::WeightedCluster { clusters: vec![header], ..Default::default() };
        assert_eq!(
            WeightedClusters::decode(wire, &Default::default()).unwrap_err().field,
            "clusters[0].cluster_header"
        );
    }
}
