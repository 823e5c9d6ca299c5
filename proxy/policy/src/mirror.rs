//! Request mirroring: copies of requests whose answers are ignored (`RouteAction.request_mirror_policies`).

use http::HeaderValue;
use outrigger_core::Name;
use outrigger_core::percentage::Percentage;
use outrigger_proto::xds::route::route_action;

use crate::field::{Unusable, non_empty, runtime_fraction, unsupported_any};
use crate::rewrite;

/// Copies a share of a route's requests to a cluster. A route may have several mirrors, each sampled independently.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// The cluster that gets the copies.
    pub cluster: Name,
    share: Percentage,
    /// Whether `-shadow` is appended to the host of a copy, which is Envoy's default.
    pub shadow_suffix: bool,
    /// The authority of the copies.
    pub host_rewrite: Option<HeaderValue>,
}

impl Mirror {
    /// Decodes one policy. Without a fraction, every request is copied.
    pub fn decode(wire: route_action::RequestMirrorPolicy) -> Result<Self, Unusable> {
        let route_action::RequestMirrorPolicy {
            cluster,
            cluster_header,
            runtime_fraction: fraction,
            // Whether the copy's span is sampled. Copies have no spans here.
            trace_sampled: _,
            disable_shadow_host_suffix_append,
            request_headers_mutations,
            host_rewrite_literal,
        } = wire;
        unsupported_any(&[
            ("cluster_header", !cluster_header.is_empty()),
            ("request_headers_mutations", !request_headers_mutations.is_empty()),
        ])?;
        Ok(Self {
            cluster: non_empty("cluster", cluster)?.into(),
            share: runtime_fraction("runtime_fraction", fraction)?.unwrap_or(Percentage::ALL),
            shadow_suffix: !disable_shadow_host_suffix_append,
            host_rewrite: rewrite::host("host_rewrite_literal", &host_rewrite_literal)?,
        })
    }

    /// Returns whether a request is copied. `sample` is random, uniform over `u32`.
    pub fn copies(&self, sample: u32) -> bool {
        self.share.holds(sample)
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::xds::{core, types};

    use super::*;

    #[test]
    fn a_share_of_the_requests_is_copied() {
        let tenth = types::FractionalPercent { numerator: 10, denominator: 0 };
        let fraction = core::RuntimeFractionalPercent { default_value: Some(tenth), runtime_key: "k".into() };
        let wire = route_action::RequestMirrorPolicy { cluster: "c".into(), ..Default::default() };
        assert!(Mirror::decode(wire.clone()).unwrap().copies(u32::MAX));
        let wire = route_action::RequestMirrorPolicy { runtime_fraction: Some(fraction), ..wire };
        let mirror = Mirror::decode(wire).unwrap();
        assert!(mirror.copies(0) && !mirror.copies(u32::MAX / 9));
    }

    #[test]
    fn a_mirror_without_a_fixed_cluster_is_refused_by_field() {
        let none = route_action::RequestMirrorPolicy::default();
        assert_eq!(Mirror::decode(none.clone()).unwrap_err().field, "cluster");
        let header = route_action::RequestMirrorPolicy { cluster_header: "x".into(), ..none };
        assert_eq!(Mirror::decode(header).unwrap_err().field, "cluster_header");
    }
}
