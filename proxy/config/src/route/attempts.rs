//! Settings of attempts besides the retry policy: the bound of the buffered body, and attempt counts in headers.

use outrigger_policy::field::Unusable;
use outrigger_proto::xds::protobuf::{UInt32Value, UInt64Value};

/// The default bound of a buffered body: Envoy's default for a connection's buffer.
const KEPT_BYTES: usize = 1024 * 1024;

/// Body buffering for retries, and attempt counts in headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempts {
    /// Maximum bytes of a body that are buffered for another attempt (`request_body_buffer_limit`).
    pub kept_bytes: usize,
    /// Whether requests carry the attempt's number (`include_request_attempt_count`).
    pub count_in_request: bool,
    /// Whether responses carry the number of attempts (`include_attempt_count_in_response`).
    pub count_in_response: bool,
    /// Whether an attempt that exceeds its timeout continues beside the next one (`hedge_policy`).
    pub hedge_on_per_try_timeout: bool,
}

impl Attempts {
    /// Envoy's defaults.
    pub const DEFAULT: Self = Self {
        kept_bytes: KEPT_BYTES,
        count_in_request: false,
        count_in_response: false,
        hedge_on_per_try_timeout: false,
    };
}

impl Default for Attempts {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Returns the bound of a route or virtual host, if set. The older field is limited to a connection's buffer, as in Envoy.
pub(super) fn kept_bytes(
    per_request: Option<UInt32Value>,
    body: Option<UInt64Value>,
) -> Result<Option<usize>, Unusable> {
    match (per_request, body) {
        (Some(_), Some(_)) => {
            Err(Unusable::new("request_body_buffer_limit", "excludes per_request_buffer_limit_bytes"))
        }
        (_, Some(UInt64Value { value })) => Ok(Some(usize::try_from(value).unwrap_or(usize::MAX))),
        (Some(UInt32Value { value }), None) => Ok(Some((value as usize).min(KEPT_BYTES))),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::xds::route::route_action::ClusterSpecifier;
    use outrigger_proto::xds::route::{
        HedgePolicy, Route, RouteAction as Action, RouteConfiguration, RouteMatch, VirtualHost, route,
        route_match,
    };

    use super::*;
    use crate::route::{RouteAction, RouteTable};

    #[test]
    fn a_route_has_its_virtual_hosts_attempts_and_may_bound_its_bodies_itself() {
        let route = |limit: Option<u64>| Route {
            r#match: Some(RouteMatch {
                path_specifier: Some(route_match::PathSpecifier::Prefix("/".into())),
                ..Default::default()
            }),
            action: Some(route::Action::Route(Action {
                cluster_specifier: Some(ClusterSpecifier::Cluster("cart".into())),
                ..Default::default()
            })),
            request_body_buffer_limit: limit.map(|value| UInt64Value { value }),
            ..Default::default()
        };
        let host = VirtualHost {
            name: "cart".into(),
            domains: vec!["*".into()],
            routes: vec![route(None), route(Some(9))],
            request_body_buffer_limit: Some(UInt64Value { value: 7 }),
            include_request_attempt_count: true,
            include_attempt_count_in_response: true,
            ..Default::default()
        };
        let wire = RouteConfiguration { virtual_hosts: vec![host], ..Default::default() };
        let table = RouteTable::decode(wire).unwrap();
        let attempts = table.hosts[0].routes.iter().map(|route| match &route.action {
            RouteAction::Forward(forward) => forward.attempts,
            _ => Attempts::DEFAULT,
        });
        let of_host = Attempts { count_in_request: true, count_in_response: true, ..Attempts::DEFAULT };
        let expected = |kept_bytes| Attempts { kept_bytes, ..of_host };
        assert_eq!(attempts.collect::<Vec<_>>(), [expected(7), expected(9)]);
    }

    #[test]
    fn a_routes_hedge_policy_replaces_that_of_its_virtual_host() {
        let hedges = |of| Some(HedgePolicy { hedge_on_per_try_timeout: of, ..Default::default() });
        for (of_host, of_route, expected) in [
            (None, None, false),
            (hedges(true), None, true),
            (hedges(true), hedges(false), false),
            (None, hedges(true), true),
        ] {
            let action = Action {
                cluster_specifier: Some(ClusterSpecifier::Cluster("cart".into())),
                hedge_policy: of_route,
                ..Default::default()
            };
            let path_specifier = Some(route_match::PathSpecifier::Prefix("/".into()));
            let route = Route {
                r#match: Some(RouteMatch { path_specifier, ..Default::default() }),
                action: Some(route::Action::Route(action)),
                ..Default::default()
            };
            let host = VirtualHost {
                name: "cart".into(),
                domains: vec!["*".into()],
                routes: vec![route],
                hedge_policy: of_host,
                ..Default::default()
            };
            let wire = RouteConfiguration { virtual_hosts: vec![host], ..Default::default() };
            let table = RouteTable::decode(wire).unwrap();
            let RouteAction::Forward(forward) = &table.hosts[0].routes[0].action else { panic!("forwards") };
            assert_eq!(forward.attempts.hedge_on_per_try_timeout, expected);
        }
    }

    #[test]
    fn the_newer_field_applies_as_is_and_the_older_up_to_a_connections_buffer() {
        let older = |value| Some(UInt32Value { value });
        let newer = |value| Some(UInt64Value { value });
        assert_eq!(kept_bytes(None, None).unwrap(), None);
        assert_eq!(kept_bytes(older(4096), None).unwrap(), Some(4096));
        assert_eq!(kept_bytes(older(5 << 20), None).unwrap(), Some(1 << 20));
        assert_eq!(kept_bytes(None, newer(5 << 20)).unwrap(), Some(5 << 20));
        assert_eq!(kept_bytes(older(1), newer(1)).unwrap_err().field, "request_body_buffer_limit");
    }
}
