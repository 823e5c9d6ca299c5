//! Policies as they apply: each with the places that it is attached to, found by Gateway API's rules (GEP-713), and with what it means.
//!
//! Translation reads them from the mesh. Every value was validated when it was read. `policies` resolves the targets that a resource names.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use outrigger_core::Name;

use super::authentication::Authentication;
use super::authorization::Authorization;
use super::backend_traffic::BackendTraffic;
use super::external_authorization::ExternalAuthorization;
use super::fault_injection::FaultInjection;
use super::gateway_traffic::GatewayTraffic;
use super::rate_limit::RateLimit;
use super::registration::{WorkloadEntry, WorkloadPort};
use super::route::BackendTarget;
use super::service::ServiceKey;

/// The root namespace: a policy of it that has no targets applies to the whole mesh.
pub const ROOT_NAMESPACE: &str = "outrigger-system";

/// The active policies of one namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespacePolicies {
    /// AuthenticationPolicies, the oldest first. Of those that apply to a place, that of the narrowest place is in force.
    pub authentication: Vec<Policy<Authentication>>,
    /// AuthorizationPolicies, the oldest first. All that apply to a place are merged.
    pub authorization: Vec<Policy<Authorization>>,
    /// BackendTrafficPolicies. A Service has one at most, and each of its ports too.
    pub backend_traffic: Vec<Policy<BackendTraffic>>,
    /// XBackendTrafficPolicies. A Service has one at most.
    pub gateway_traffic: Vec<Policy<GatewayTraffic>>,
    /// ExternalAuthorizationPolicies, the oldest first. Of those that apply to a request, that of the narrowest place is in force.
    pub external_authorization: Vec<Policy<ExternalAuthorization>>,
    /// FaultInjectionPolicies, the oldest first. Of those that apply to a request, that of the narrowest place is used.
    pub fault_injection: Vec<Policy<FaultInjection>>,
    /// RateLimitPolicies, the oldest first. All that apply to a place are merged.
    pub rate_limit: Vec<Policy<RateLimit>>,
}

/// What a kind of policies means.
pub trait Meaning: Sized {
    /// Returns the policies of this kind, the oldest first.
    fn of(policies: &NamespacePolicies) -> &[Policy<Self>];
}

impl Meaning for Authentication {
    fn of(policies: &NamespacePolicies) -> &[Policy<Self>] {
        &policies.authentication
    }
}

impl Meaning for Authorization {
    fn of(policies: &NamespacePolicies) -> &[Policy<Self>] {
        &policies.authorization
    }
}

impl Meaning for BackendTraffic {
    fn of(policies: &NamespacePolicies) -> &[Policy<Self>] {
        &policies.backend_traffic
    }
}

impl Meaning for GatewayTraffic {
    fn of(policies: &NamespacePolicies) -> &[Policy<Self>] {
        &policies.gateway_traffic
    }
}

impl Meaning for ExternalAuthorization {
    fn of(policies: &NamespacePolicies) -> &[Policy<Self>] {
        &policies.external_authorization
    }
}

impl Meaning for FaultInjection {
    fn of(policies: &NamespacePolicies) -> &[Policy<Self>] {
        &policies.fault_injection
    }
}

impl Meaning for RateLimit {
    fn of(policies: &NamespacePolicies) -> &[Policy<Self>] {
        &policies.rate_limit
    }
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy<S> {
    /// Its namespace and name.
    pub name: PolicyName,
    /// Where it applies. Targets that do not exist are not in it.
    pub places: Vec<Place>,
    /// What it means.
    pub spec: Arc<S>,
    /// The ports about whose requests its service is not asked, because the answer would need such an answer itself.
    pub unasked: Vec<BackendTarget>,
}

impl<S> Policy<S> {
    /// Returns true if its service is not asked about the requests to these ports of a workload, which share a port of the application.
    pub fn is_unasked_at(&self, ports: &[&WorkloadPort]) -> bool {
        let is_here = |target: &BackendTarget| {
            ports
                .iter()
                .any(|port| port.service_port == target.port && port.services.contains(&target.service))
        };
        self.unasked.iter().any(is_here)
    }
}

/// The namespace and name of a policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyName {
    /// The namespace.
    pub namespace: Name,
    /// The name.
    pub name: Name,
}

/// `shop/payments`
impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A place in the namespace of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Every workload of the namespace; every workload of the mesh, if it is the root namespace.
    Namespace,
    /// The workloads that have all of these labels.
    Pods(BTreeMap<Name, Name>),
    /// The workloads of a service.
    Service {
        /// The service.
        service: ServiceKey,
        /// The port of the service, or all of them.
        port: Option<u16>,
    },
    /// The requests that match a route, at the workloads of the services that the route is attached to.
    Route {
        /// `httproute/<namespace>/<name>/`: how the IDs of its routes in the mesh begin.
        prefix: Name,
        /// The indexes of the rules, or all of them.
        rules: Option<Vec<usize>>,
    },
}

impl Place {
    /// Returns true if it has every request and connection to these ports of a workload, which share a port of the application.
    pub fn covers(&self, workload: &WorkloadEntry, ports: &[&WorkloadPort]) -> bool {
        match self {
            Self::Namespace => true,
            Self::Pods(labels) => labels.iter().all(|(name, value)| workload.labels.get(name) == Some(value)),
            Self::Service { service, port: number } => ports.iter().any(|port| {
                port.services.contains(service) && number.is_none_or(|number| number == port.service_port)
            }),
            Self::Route { .. } => false,
        }
    }

    /// Returns how wide it is. Of policies that are not merged, the one of the narrowest place applies: a rule of a route, a route, a port, a
    /// Service, pods, the namespace.
    pub fn width(&self) -> u8 {
        match self {
            Self::Route { rules: Some(_), .. } => 0,
            Self::Route { rules: None, .. } => 1,
            Self::Service { port: Some(_), .. } => 2,
            Self::Service { port: None, .. } => 3,
            Self::Pods(_) => 4,
            Self::Namespace => 5,
        }
    }

    /// Returns true if a route of the mesh, by its ID `<prefix><rule>/<match>`, is in this place.
    pub fn has_route(&self, id: &str) -> bool {
        let Self::Route { prefix, rules } = self else { return false };
        let Some(rest) = id.strip_prefix(&**prefix) else { return false };
        let rule = rest.split('/').next().and_then(|rule| rule.parse().ok());
        rules.as_ref().is_none_or(|rules| rule.is_some_and(|rule| rules.contains(&rule)))
    }
}

/// `Service payments, port 80`
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace => f.write_str("namespace"),
            Self::Pods(labels) => {
                let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
                write!(f, "pods {}", labels.join(","))
            }
            Self::Service { service, port: None } => write!(f, "Service {}", service.name),
            Self::Service { service, port: Some(port) } => write!(f, "Service {}, port {port}", service.name),
            Self::Route { prefix, rules } => {
                write!(f, "route {}", prefix.trim_end_matches('/'))?;
                match rules {
                    None => Ok(()),
                    Some(rules) => write!(f, ", rules {rules:?}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_in_a_place_by_its_name_and_rule() {
        let place = |rules: Option<Vec<usize>>| Place::Route { prefix: "httproute/shop/pay/".into(), rules };
        for (rules, id, inside) in [
            (None, "httproute/shop/pay/0/0", true),
            (None, "httproute/shop/pay/7/1", true),
            (None, "httproute/shop/payments/0/0", false),
            (None, "grpcroute/shop/pay/0/0", false),
            (Some(vec![1]), "httproute/shop/pay/1/3", true),
            (Some(vec![1]), "httproute/shop/pay/10/0", false),
            (Some(vec![]), "httproute/shop/pay/0/0", false),
        ] {
            assert_eq!(place(rules.clone()).has_route(id), inside, "{rules:?} {id}");
        }
        assert!(!Place::Namespace.has_route("httproute/shop/pay/0/0"));
    }
}
