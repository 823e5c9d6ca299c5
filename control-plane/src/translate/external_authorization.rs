//! The ExternalAuthorizationPolicies that apply to a port of a workload, as filters: one refuses where the service cannot be asked, then one for
//! each different configuration asks. Of several policies, that of the narrowest place applies.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_proto::xds::hcm::{HttpFilter, http_filter};
use outrigger_proto::xds::listener::Filter;
use outrigger_proto::xds::protobuf::Any;

use super::applied::Applied;
use super::external_auth::ExternalAuths;
use super::listener::network_filter;
use super::rbac::{Form, refusal};
use crate::model::external_authorization::ExternalAuthorization;
use crate::model::policy::{Place, Policy, PolicyName};
use crate::model::registration::WorkloadPort;
use crate::model::route::{BackendTarget, ExternalAuth, Route};
use crate::model::service::ServiceKey;

/// The name of the filter that refuses. Routes configure it by this.
const REFUSED: &str = "outrigger.external-authorization.refused";

/// Which services are asked about the requests of a port.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    policies: Applied<'a, ExternalAuthorization>,
    /// Those in force: for the whole port, or at one of its routes.
    used: BTreeMap<&'a PolicyName, &'a Policy<ExternalAuthorization>>,
    services: ExternalAuths<'a>,
    /// The ports of Services that lead here.
    here: Vec<BackendTarget>,
    /// The policies whose services are not asked here, because the answers would need answers about requests to here.
    unasked: BTreeSet<&'a PolicyName>,
    /// The domain of the names of services.
    domain: &'a str,
}

impl<'a> Asked<'a> {
    /// Of the workload's ports `ports`, which share a port of the application, with these routes.
    pub(super) fn new(
        policies: Applied<'a, ExternalAuthorization>,
        ports: &[&WorkloadPort],
        routes: &[&Route],
        domain: &'a str,
    ) -> Self {
        let of_routes = routes.iter().filter_map(|route| policies.narrowest_at_route(route));
        let used = policies.narrowest().into_iter().chain(of_routes);
        let used: BTreeMap<_, _> = used.map(|policy| (&policy.name, policy)).collect();
        let unasked = used.values().filter(|policy| policy.is_unasked_at(ports)).map(|policy| &policy.name);
        let unasked = unasked.collect();
        let target = |port: &&WorkloadPort| {
            let port_of =
                |service: &ServiceKey| BackendTarget { service: service.clone(), port: port.service_port };
            port.services.iter().map(port_of).collect::<Vec<_>>()
        };
        let here = ports.iter().flat_map(target).collect();
        let mut asked = Self { policies, used, services: ExternalAuths::default(), here, unasked, domain };
        asked.services = ExternalAuths::among(asked.used.values().filter_map(|policy| asked.auth(policy)));
        asked
    }

    /// Returns the HTTP filters, in order: none without a policy.
    pub(super) fn filters(&self) -> Vec<HttpFilter> {
        let whole = self.policies.narrowest();
        let refusing = self.refuses().then(|| HttpFilter {
            name: REFUSED.into(),
            config_type: Some(http_filter::ConfigType::TypedConfig(self.refused(whole, Form::Filter))),
            ..Default::default()
        });
        let asking = self.services.filters(self.domain, whole.and_then(|policy| self.auth(policy)));
        refusing.into_iter().chain(asking).collect()
    }

    /// Returns the configuration of the filters for a route, by their names. Empty if it is no target.
    pub(super) fn of_route(&self, route: &Route) -> Vec<(String, Any)> {
        let Some(policy) = self.policies.narrowest_at_route(route) else { return Vec::new() };
        let refusing = self.refuses().then(|| (REFUSED.into(), self.refused(Some(policy), Form::Route)));
        let (whole, own) =
            (self.policies.narrowest().and_then(|policy| self.auth(policy)), self.auth(policy));
        let asking = match whole == own {
            true => [None, None],
            false => [
                whole.and_then(|auth| self.services.disabling(auth)),
                own.and_then(|auth| self.services.enabling(auth)),
            ],
        };
        refusing.into_iter().chain(asking.into_iter().flatten()).collect()
    }

    /// Returns the network filter of a chain of opaque bytes, if such connections are refused: no service can be asked about them, and where one
    /// is asked about requests, requests must not pass as opaque bytes. A port of opaque bytes alone is refused only by a policy that names the
    /// port, or by one that was refused.
    pub(super) fn network_filter(&self, stat: &str, beside_requests: bool) -> Option<Filter> {
        let of_port = |policy: &Policy<_>| {
            policy.places.iter().any(|place| matches!(place, Place::Service { port: Some(_), .. }))
        };
        let refusing = self.used.values().find(|policy| {
            let asks = self.auth(policy).is_some() || self.unasked.contains(&policy.name);
            let asks = asks && (beside_requests || of_port(policy));
            asks || *policy.spec == ExternalAuthorization::StandIn
        })?;
        let config = refusal(Form::Connection(stat), Some(&refusing.name.to_string()));
        Some(network_filter(REFUSED, config))
    }

    /// Returns what is asked in the name of a policy. A service is not asked about the questions that it is asked itself, which would have no end.
    fn auth(&self, policy: &'a Policy<ExternalAuthorization>) -> Option<&'a ExternalAuth> {
        match &*policy.spec {
            _ if self.unasked.contains(&policy.name) => None,
            ExternalAuthorization::Ask(ExternalAuth { target: Ok(target), .. })
                if self.here.contains(target) =>
            {
                None
            }
            ExternalAuthorization::Ask(auth) => Some(auth),
            ExternalAuthorization::Off | ExternalAuthorization::StandIn => None,
        }
    }

    /// Returns true if the port has the filter that refuses.
    fn refuses(&self) -> bool {
        self.used.values().any(|policy| self.is_refusing(policy))
    }

    fn is_refusing(&self, policy: &Policy<ExternalAuthorization>) -> bool {
        policy.spec.refuses() || self.unasked.contains(&policy.name)
    }

    /// Returns what refuses everything if the policy does, and nothing otherwise.
    fn refused(&self, policy: Option<&Policy<ExternalAuthorization>>, form: Form<'_>) -> Any {
        let refusing = policy.filter(|policy| self.is_refusing(policy));
        refusal(form, refusing.map(|policy| format!("{} (refused)", policy.name)).as_deref())
    }
}
