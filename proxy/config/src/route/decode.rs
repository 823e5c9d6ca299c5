//! Decoding of routes, with the settings that they inherit from their virtual host and table.

use std::sync::Arc;

use http::StatusCode;
use outrigger_core::Name;
use outrigger_policy::descriptor::{DescriptorRule, RouteDescriptors};
use outrigger_policy::direct_response::DirectResponse;
use outrigger_policy::field::{Unusable, each, flag, non_empty, required, unsupported, unsupported_any};
use outrigger_policy::filter::overrides::FilterOverrides;
use outrigger_policy::hash_policy::HashPolicies;
use outrigger_policy::header_mutation::HeaderMutation;
use outrigger_policy::hedging;
use outrigger_policy::mirror::Mirror;
use outrigger_policy::redirect::Redirect;
use outrigger_policy::retry::RetryPolicy;
use outrigger_policy::rewrite::{self, PathRewrite, Rewrite};
use outrigger_policy::timeout::Timeouts;
use outrigger_policy::upgrade::Upgrades;
use outrigger_policy::weighted_cluster::{Share, WeightedClusters};
use outrigger_proto::xds::route;

use super::attempts::{Attempts, kept_bytes};
use super::{Forward, Route, RouteAction, RouteMatcher};

/// Inherited settings, resolved once so that requests need no lookup.
#[derive(Debug, Clone)]
pub(super) struct Outer {
    pub(super) request_headers: HeaderMutation,
    pub(super) response_headers: HeaderMutation,
    pub(super) filters: FilterOverrides,
    pub(super) retry: Option<RetryPolicy>,
    pub(super) attempts: Attempts,
    pub(super) mirrors: Vec<Mirror>,
    /// How requests are described to rate limits.
    pub(super) descriptors: Arc<[DescriptorRule]>,
    /// Maximum body size of a direct response, in bytes.
    pub(super) max_body: usize,
}

impl Route {
    #[allow(deprecated)]
    pub(super) fn decode(wire: route::Route, outer: &Outer) -> Result<Self, Unusable> {
        let route::Route {
            name,
            r#match,
            // Metadata for other filters; ours read none.
            metadata: _,
            // Span names and sampling, which are configured for the whole proxy.
            decorator: _,
            tracing: _,
            typed_per_filter_config,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            per_request_buffer_limit_bytes,
            request_body_buffer_limit,
            stat_prefix: _, // statistics use the route's name
            route_specifiers,
            action,
        } = wire;
        unsupported("route_specifiers", !route_specifiers.is_empty())?;
        let matcher = RouteMatcher::decode(required("match", r#match)?).map_err(|bad| bad.within("match"))?;
        let filters = FilterOverrides::decode(typed_per_filter_config, &outer.filters)?;
        use route::route::Action;
        let action = match required("action", action)? {
            Action::Route(wire) => {
                let mut forward =
                    Forward::decode(wire, outer, &filters).map_err(|bad| bad.within("route"))?;
                let kept = kept_bytes(per_request_buffer_limit_bytes, request_body_buffer_limit)?;
                forward.attempts.kept_bytes = kept.unwrap_or(forward.attempts.kept_bytes);
                RouteAction::Forward(Box::new(forward))
            }
            Action::Redirect(wire) => {
                RouteAction::Redirect(Redirect::decode(wire).map_err(|bad| bad.within("redirect"))?)
            }
            Action::DirectResponse(wire) => RouteAction::Respond(
                DirectResponse::decode(wire, outer.max_body).map_err(|bad| bad.within("direct_response"))?,
            ),
            Action::FilterAction(_) => return Err(Unusable::new("filter_action", "is not supported")),
            Action::NonForwardingAction(_) => {
                return Err(Unusable::new("non_forwarding_action", "is not supported"));
            }
        };
        let request = HeaderMutation::decode("request", request_headers_to_add, request_headers_to_remove)?;
        let response =
            HeaderMutation::decode("response", response_headers_to_add, response_headers_to_remove)?;
        Ok(Self {
            name: name.into(),
            template: matcher.template(),
            matcher,
            action,
            request_headers: request.then(&outer.request_headers),
            response_headers: response.then(&outer.response_headers),
            filters,
        })
    }

    /// Returns every cluster that it may forward or mirror to, and those that filters send questions to.
    pub(super) fn clusters(&self) -> impl Iterator<Item = &Name> {
        let forward = match &self.action {
            RouteAction::Forward(forward) => Some(forward),
            RouteAction::Redirect(_) | RouteAction::Respond(_) => None,
        };
        let of_forward = forward.into_iter().flat_map(|forward| {
            let shares = || forward.clusters.shares().filter(|share| share.weight > 0);
            let of_filters = shares().filter_map(|share| share.filters.as_ref());
            (shares().map(|Share { cluster, .. }| cluster))
                .chain(forward.mirrors.iter().map(|mirror| &mirror.cluster))
                .chain(of_filters.flat_map(FilterOverrides::clusters))
        });
        of_forward.chain(self.filters.clusters())
    }
}

impl Forward {
    #[allow(deprecated)] // deprecated fields that Envoy still accepts must be decoded or rejected, not overlooked
    fn decode(wire: route::RouteAction, outer: &Outer, filters: &FilterOverrides) -> Result<Self, Unusable> {
        use route::route_action::{ClusterSpecifier, HostRewriteSpecifier};
        let route::RouteAction {
            cluster_not_found_response_code,
            metadata_match,
            prefix_rewrite,
            regex_rewrite,
            path_rewrite_policy,
            path_rewrite,
            append_x_forwarded_host,
            timeout,
            idle_timeout,
            flush_timeout,
            early_data_policy: _, // there is no early data
            retry_policy,
            retry_policy_typed_config,
            request_mirror_policies,
            priority,
            rate_limits,
            include_vh_rate_limits,
            hash_policy,
            cors,
            max_grpc_timeout,
            grpc_timeout_offset,
            upgrade_configs,
            internal_redirect_policy,
            internal_redirect_action,
            max_internal_redirects: _, // applies only with the two above
            hedge_policy,
            max_stream_duration,
            cluster_specifier,
            host_rewrite_specifier,
        } = wire;
        unsupported_any(&[
            // An empty match selects every endpoint.
            ("metadata_match", metadata_match.is_some_and(|of| of != Default::default())),
            // The idle timeout also covers blocked writes; there is no shorter timeout for them.
            ("flush_timeout", flush_timeout.is_some()),
            ("path_rewrite_policy", path_rewrite_policy.is_some()),
            ("retry_policy_typed_config", retry_policy_typed_config.is_some()),
            ("priority", priority != 0),
            ("cors", cors.is_some()),
            ("max_grpc_timeout", max_grpc_timeout.is_some()),
            ("grpc_timeout_offset", grpc_timeout_offset.is_some()),
            ("internal_redirect_policy", internal_redirect_policy.is_some()),
            ("internal_redirect_action", internal_redirect_action != 0),
        ])?;
        let clusters = match required("cluster", cluster_specifier)? {
            ClusterSpecifier::Cluster(name) => WeightedClusters::one(non_empty("cluster", name)?)?,
            ClusterSpecifier::WeightedClusters(wire) => {
                WeightedClusters::decode(wire, filters).map_err(|bad| bad.within("weighted_clusters"))?
            }
            ClusterSpecifier::ClusterHeader(_) => {
                return Err(Unusable::new("cluster_header", "is not supported"));
            }
            ClusterSpecifier::ClusterSpecifierPlugin(_) => {
                return Err(Unusable::new("cluster_specifier_plugin", "is not supported"));
            }
            ClusterSpecifier::InlineClusterSpecifierPlugin(_) => {
                return Err(Unusable::new("inline_cluster_specifier_plugin", "is not supported"));
            }
        };
        let host = match host_rewrite_specifier {
            None => None,
            Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
                rewrite::host("host_rewrite_literal", &host)?
            }
            Some(HostRewriteSpecifier::AutoHostRewrite(auto)) if !flag(Some(auto)) => None,
            Some(HostRewriteSpecifier::AutoHostRewrite(_)) => {
                return Err(Unusable::new("auto_host_rewrite", "is not supported"));
            }
            Some(HostRewriteSpecifier::HostRewriteHeader(_)) => {
                return Err(Unusable::new("host_rewrite_header", "is not supported"));
            }
            Some(HostRewriteSpecifier::HostRewritePathRegex(_)) => {
                return Err(Unusable::new("host_rewrite_path_regex", "is not supported"));
            }
            Some(HostRewriteSpecifier::HostRewrite(_)) => {
                return Err(Unusable::new("host_rewrite", "is not supported"));
            }
        };
        let retry =
            retry_policy.map(|wire| RetryPolicy::decode(wire).map_err(|bad| bad.within("retry_policy")));
        let mirrors = each("request_mirror_policies", request_mirror_policies, Mirror::decode)?;
        let hedges = hedging::on_per_try_timeout(hedge_policy).map_err(|bad| bad.within("hedge_policy"))?;
        Ok(Self {
            clusters,
            cluster_not_found: not_found(cluster_not_found_response_code)?,
            upgrades: Upgrades::of_route(upgrade_configs)?,
            timeouts: Timeouts::decode(timeout, idle_timeout, max_stream_duration)?,
            // A route's policy replaces the whole policy of its virtual host (VirtualHost.retry_policy).
            retry: retry.transpose()?.or_else(|| outer.retry.clone()),
            attempts: Attempts {
                hedge_on_per_try_timeout: hedges.unwrap_or(outer.attempts.hedge_on_per_try_timeout),
                ..outer.attempts
            },
            rewrite: Rewrite {
                path: PathRewrite::decode(prefix_rewrite, regex_rewrite, path_rewrite)?,
                host,
                append_x_forwarded_host,
            },
            hash_policies: HashPolicies::decode(hash_policy)?,
            mirrors: if mirrors.is_empty() { outer.mirrors.clone().into() } else { mirrors.into() },
            descriptors: RouteDescriptors::decode(
                rate_limits,
                &outer.descriptors,
                flag(include_vh_rate_limits),
            )?,
        })
    }
}

fn not_found(wire: i32) -> Result<StatusCode, Unusable> {
    use route::route_action::ClusterNotFoundResponseCode as Wire;
    match Wire::try_from(wire) {
        Ok(Wire::ServiceUnavailable) => Ok(StatusCode::SERVICE_UNAVAILABLE),
        Ok(Wire::NotFound) => Ok(StatusCode::NOT_FOUND),
        Ok(Wire::InternalServerError) => Ok(StatusCode::INTERNAL_SERVER_ERROR),
        Err(_) => Err(Unusable::new("cluster_not_found_response_code", "is unknown")),
    }
}
