//! Which policies apply to a service: what `/policies?service=shop/payments` returns and `outrigger policy explain` prints.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use crate::admin_client::{AdminAddress, AdminError, ask};
use crate::model::authentication::Authentication;
use crate::model::authorization::{Action, Authorization};
use crate::model::backend_traffic::BackendTraffic;
use crate::model::external_authorization::ExternalAuthorization;
use crate::model::fault_injection::FaultInjection;
use crate::model::gateway_traffic::GatewayTraffic;
use crate::model::mesh::{Mesh, ServiceEntry};
use crate::model::policy::{Meaning, Place, Policy, ROOT_NAMESPACE};
use crate::model::rate_limit::RateLimit;
use crate::model::registration::WorkloadPort;
use crate::model::resource::Kind;
use crate::model::route::RouteTable;
use crate::model::service::ServiceKey;

/// The policies of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePolicies {
    /// `shop/payments`
    pub service: String,
    /// What happens to a request that no policy matches: `allowed` or `denied`.
    pub unmatched: String,
    /// The policies in the order in which they are applied. Of the same effect, those of the mesh come first, then wider places. Of kinds that
    /// are not merged, the last one that has a request applies to it.
    pub policies: Vec<AppliedPolicy>,
}

/// A policy that applies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedPolicy {
    /// Its kind.
    pub kind: String,
    /// Its namespace and name.
    pub name: String,
    /// What it does: `Deny`, `Allow`, `Audit`, `Ask`, `Limit` or `Inject`; whether requests need credentials: `Required`, `Optional` or `Off`; the
    /// settings that it has. `Limit` is followed by the ports at which its global limit is not asked, since the answers would need questions
    /// that lead back to it.
    pub effect: String,
    /// What it is attached to: `mesh`, `namespace shop`, `Service payments, port 80`.
    pub attached_to: String,
    /// The number of its rules, of its ways to authenticate, of its faults or settings.
    pub rules: usize,
    /// It was refused and has no good version, so that it denies everything.
    pub refused: bool,
    /// Why it denies everything: `refused`, or `no API key` in the policy and its Secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denies: Option<String>,
}

/// Fetches the policies of a service from a running control plane.
pub async fn fetch(
    address: &AdminAddress,
    namespace: &str,
    name: &str,
) -> Result<ServicePolicies, AdminError> {
    let body = ask(address, &path(namespace, name), None).await?;
    serde_json::from_slice(&body).map_err(|error| AdminError::Failed(address.clone(), error.to_string()))
}

/// Returns the path of the page.
pub(crate) fn path(namespace: &str, name: &str) -> String {
    format!("/policies?service={namespace}/{name}")
}

/// Parses the query of the page.
pub(crate) fn service_of(query: &str) -> Option<ServiceKey> {
    let (namespace, name) =
        query.split('&').find_map(|pair| pair.strip_prefix("service="))?.split_once('/')?;
    Some(ServiceKey::new(namespace, name))
}

/// Returns the policies of a service. Returns None if there is no such service.
pub(crate) fn explain(mesh: &Mesh, key: &ServiceKey) -> Option<ServicePolicies> {
    let service = mesh.service(key)?;
    let mut found = of_kind(mesh, service, Kind::AuthenticationPolicy, |spec: &Authentication| {
        let rules = spec.issuers.len() + usize::from(spec.api_keys.is_some());
        (0, spec.mode.name(), rules, spec.refuses_all())
    });
    found.extend(of_kind(mesh, service, Kind::AuthorizationPolicy, |spec: &Authorization| {
        let stage = match spec.action {
            Action::Deny => 1,
            Action::Allow => 2,
            Action::Audit => 3,
        };
        (stage, spec.action.name(), spec.rules.len(), spec.stands_in.then_some(REFUSED))
    }));
    found.extend(of_kind(
        mesh,
        service,
        Kind::ExternalAuthorizationPolicy,
        |spec: &ExternalAuthorization| {
            let stands_in = *spec == ExternalAuthorization::StandIn;
            (4, spec.effect(), 1, stands_in.then_some(REFUSED))
        },
    ));
    found.extend(of_kind(mesh, service, Kind::RateLimitPolicy, |spec: &RateLimit| {
        let global = spec.global.as_ref().map_or(0, |global| global.descriptors.len());
        (5, "Limit", spec.local.len() + global, None)
    }));
    found.extend(of_kind(mesh, service, Kind::FaultInjectionPolicy, |spec: &FaultInjection| {
        (LAST, "Inject", spec.count(), None)
    }));
    found.sort_by_key(|found| (found.stage, found.width));
    let denies = found.iter().any(|found| found.whole && found.line.effect == Action::Allow.name());
    Some(ServicePolicies {
        service: format!("{}/{}", key.namespace, key.name),
        unmatched: if denies { "denied" } else { "allowed" }.into(),
        policies: found.into_iter().map(|found| found.line).chain(of_callers(mesh, key)).collect(),
    })
}

/// What a policy is that stands for a refused one.
const REFUSED: &str = "refused";

/// The stage of what happens to requests that nothing has refused.
const LAST: u8 = u8::MAX;

/// Returns the policies about the callers of the Service. Which of them applies to a port is in docs/backend-traffic.md.
fn of_callers(mesh: &Mesh, service: &ServiceKey) -> Vec<AppliedPolicy> {
    let traffic = attached(mesh, service, Kind::BackendTrafficPolicy, BackendTraffic::settings);
    let gateway = attached(mesh, service, Kind::XBackendTrafficPolicy, GatewayTraffic::settings);
    [traffic, gateway].concat()
}

/// Returns the policies of one kind that are attached to the Service itself or to a port of it.
fn attached<S: Meaning>(
    mesh: &Mesh,
    service: &ServiceKey,
    kind: Kind,
    settings: impl Fn(&S) -> Vec<String>,
) -> Vec<AppliedPolicy> {
    let mut all = Vec::new();
    for policy in mesh.policies::<S>(&service.namespace) {
        let own = |place: &&Place| matches!(place, Place::Service { service: key, .. } if key == service);
        for place in policy.places.iter().filter(own) {
            let settings = settings(&policy.spec);
            let line = AppliedPolicy {
                kind: kind.name().into(),
                name: policy.name.to_string(),
                effect: settings.join(", "),
                attached_to: place.to_string(),
                rules: settings.len(),
                refused: false,
                denies: None,
            };
            all.push((Reverse(place.width()), line));
        }
    }
    all.sort_by_key(|(width, _)| *width);
    all.into_iter().map(|(_, line)| line).collect()
}

/// A policy that applies at one of its places.
struct Found {
    /// When its effect is applied: the lowest first.
    stage: u8,
    /// How wide its place is: the widest, which is that of the mesh, is 0.
    width: u8,
    /// It applies to all requests.
    whole: bool,
    line: AppliedPolicy,
}

/// Returns the policies of one kind. `describe` returns the stage, the effect, the number of rules, and why everything is denied, if it is.
fn of_kind<S: Meaning>(
    mesh: &Mesh,
    service: &ServiceEntry,
    kind: Kind,
    describe: impl Fn(&S) -> (u8, &'static str, usize, Option<&'static str>),
) -> Vec<Found> {
    let (namespace, root) = (&service.service.key.namespace, ROOT_NAMESPACE.into());
    let found = |policy: &Policy<S>, width, attached_to, whole| {
        let (stage, effect, rules, denies) = describe(&policy.spec);
        let unasked = policy.unasked.iter().filter(|port| port.service == service.service.key);
        let unasked: Vec<_> = unasked.map(|target| format!("port {}", target.port)).collect();
        let effect = match kind {
            _ if unasked.is_empty() => effect.to_owned(),
            Kind::RateLimitPolicy => format!("{effect}, no global limit at {}", unasked.join(", ")),
            _ => "Deny".to_owned(),
        };
        let (kind, name) = (kind.name().to_owned(), policy.name.to_string());
        let (refused, denies) = (denies == Some(REFUSED), denies.map(str::to_owned));
        let line = AppliedPolicy { kind, name, effect, attached_to, rules, refused, denies };
        Found { stage, width, whole, line }
    };
    let of_mesh = mesh.policies::<S>(&root).iter().filter(|_| *namespace != root);
    let of_mesh = of_mesh.filter(|policy| policy.places.contains(&Place::Namespace));
    let mut all: Vec<_> = of_mesh.map(|policy| found(policy, 0, "mesh".into(), true)).collect();
    for policy in mesh.policies::<S>(namespace) {
        for place in policy.places.iter().filter(|place| applies(mesh, service, place)) {
            let text = match place {
                Place::Namespace if *namespace == root => "mesh".into(),
                Place::Namespace => format!("namespace {namespace}"),
                _ => place.to_string(),
            };
            let width = 1 + Place::Namespace.width() - place.width();
            all.push(found(policy, width, text, !matches!(place, Place::Route { .. })));
        }
    }
    all
}

/// Returns true if a place has requests of the service. A service shares the ports of its workloads with others.
fn applies(mesh: &Mesh, entry: &ServiceEntry, place: &Place) -> bool {
    let key = &entry.service.key;
    match place {
        Place::Namespace => true,
        Place::Service { service, .. } if service == key => true,
        Place::Route { .. } => {
            entry.routes.ports.iter().any(|(_, routes)| match routes.producer.as_deref() {
                Some(RouteTable::Http(routes)) => routes.iter().any(|route| place.has_route(&route.id)),
                Some(RouteTable::Tcp(_)) | None => false,
            })
        }
        Place::Pods(_) | Place::Service { .. } => {
            mesh.registrations().of_service(key).iter().any(|workload| {
                let mut serving = workload.ports.iter().filter(|port| port.services.contains(key));
                serving.any(|port| {
                    let same = |other: &&WorkloadPort| other.application.port() == port.application.port();
                    place.covers(workload, &workload.ports.iter().filter(same).collect::<Vec<_>>())
                })
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::mesh_builder::MeshBuilder;
    use crate::model::mesh_builder::testing::{route, service};

    fn policy(name: &str, namespace: &str, spec: &str) -> String {
        format!(
            "{{apiVersion: outrigger.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {{name: {name}, namespace: {namespace}}},
               spec: {{{spec}}}}}"
        )
    }

    #[test]
    fn what_concerns_the_callers_follows() {
        let traffic = |name: &str, target: &str, spec: &str| {
            policy(
                name,
                "shop",
                &format!("targetRefs: [{{group: '', kind: Service, name: {target}}}], {spec}"),
            )
            .replace("AuthorizationPolicy", "BackendTrafficPolicy")
        };
        let mut builder = MeshBuilder::default();
        let named = service("payments", 80, "http").replace("[{port", "[{name: http, port");
        builder.with(&[
            &named,
            &service("other", 80, "http"),
            &policy("all", "shop", "action: Deny, rules: [{}]"),
            &traffic("port", "payments, sectionName: http", "loadBalancer: {type: Random}"),
            &traffic("service", "payments", "overload: Disabled, limits: {maxRetries: 1, maxRequests: 9}"),
            &traffic("other", "other", "connectTimeout: 1s"),
        ]);
        let found = explain(&builder.mesh(), &ServiceKey::new("shop", "payments")).unwrap();
        let line =
            |policy: &AppliedPolicy| format!("{} {} by {}", policy.name, policy.effect, policy.attached_to);
        assert_eq!(
            found.policies.iter().map(line).collect::<Vec<_>>(),
            [
                "shop/all Deny by namespace shop",
                "shop/service maxRequests 9, maxRetries 1, overload Disabled by Service payments",
                "shop/port loadBalancer Random by Service payments, port 80",
            ]
        );
    }

    #[test]
    fn where_a_service_cannot_be_asked_the_effect_says_so() {
        let mut builder = MeshBuilder::default();
        let of_kind = |kind: &str, name: &str, spec: &str| {
            policy(name, "shop", spec).replace("AuthorizationPolicy", kind)
        };
        let (judge, limits) = ("{name: judge, port: 80}", "{name: limits, port: 80}");
        let ask =
            of_kind("ExternalAuthorizationPolicy", "ask", &format!("protocol: GRPC, backendRef: {judge}"));
        let limit = format!("global: {{service: {limits}, descriptors: [{{by: [{{caller: {{}}}}]}}]}}");
        builder.with(&[
            &service("app", 80, "http"),
            &service("judge", 80, "grpc"),
            &service("limits", 80, "grpc"),
        ]);
        builder.with(&[&ask, &of_kind("RateLimitPolicy", "limit", &limit)]);
        let effects = |builder: &MeshBuilder, name: &str| {
            let found = explain(&builder.mesh(), &ServiceKey::new("shop", name)).unwrap();
            found.policies.into_iter().map(|policy| policy.effect).collect::<Vec<_>>()
        };
        assert_eq!(effects(&builder, "app"), ["Ask", "Limit"]);
        assert_eq!(effects(&builder, "judge"), ["Ask", "Limit, no global limit at port 80"]);
        let to_judge = "targetRefs: [{group: '', kind: Service, name: judge}], protocol: GRPC";
        let back = of_kind(
            "ExternalAuthorizationPolicy",
            "back",
            &format!("{to_judge}, backendRef: {{name: app, port: 80}}"),
        );
        builder.with(&[&back]);
        assert!(effects(&builder, "judge").contains(&"Deny".to_owned()));
    }

    #[test]
    fn deny_comes_before_allow_and_the_mesh_before_the_service() {
        let to = |kind: &str, name: &str| {
            let group = if kind == "Service" { "''" } else { "gateway.networking.k8s.io" };
            format!("targetRefs: [{{group: {group}, kind: {kind}, name: {name}}}]")
        };
        let mut builder = MeshBuilder::default();
        builder.with(&[
            &service("payments", 80, "http"),
            &service("other", 80, "http"),
            &route("HTTPRoute", "r", "name: payments", "{}"),
            &policy("mesh", ROOT_NAMESPACE, "action: Deny, rules: [{}]"),
            &policy("allow", "shop", &format!("action: Allow, {}", to("Service", "payments"))),
            &policy("all", "shop", "action: Audit"),
            &policy("route", "shop", &format!("action: Deny, rules: [{{}}], {}", to("HTTPRoute", "r"))),
            &policy("other", "shop", &format!("action: Deny, rules: [{{}}], {}", to("Service", "other"))),
            &policy("elsewhere", "office", "action: Allow"),
            &policy("off", "shop", &format!("mode: 'Off', {}", to("HTTPRoute", "r")))
                .replace("AuthorizationPolicy", "AuthenticationPolicy"),
            &policy("keys", "shop", "apiKeys: {secrets: [{name: none}], from: [{header: x}]}")
                .replace("AuthorizationPolicy", "AuthenticationPolicy"),
            &policy("limit", "shop", "local: [{requests: 1, per: Day}]")
                .replace("AuthorizationPolicy", "RateLimitPolicy"),
        ]);
        let explained = |name: &str| explain(&builder.mesh(), &ServiceKey::new("shop", name)).unwrap();
        let payments = explained("payments");
        let lines: Vec<_> = payments
            .policies
            .iter()
            .map(|policy| format!("{} {} by {}", policy.effect, policy.name, policy.attached_to))
            .collect();
        assert_eq!(
            lines,
            [
                "Required shop/keys by namespace shop",
                "Off shop/off by route httproute/shop/r",
                "Deny outrigger-system/mesh by mesh",
                "Deny shop/route by route httproute/shop/r",
                "Allow shop/allow by Service payments",
                "Audit shop/all by namespace shop",
                "Limit shop/limit by namespace shop",
            ]
        );
        let denying =
            payments.policies.iter().filter_map(|policy| Some((&*policy.name, policy.denies.as_deref()?)));
        assert_eq!(denying.collect::<Vec<_>>(), [("shop/keys", "no API key")]);
        assert_eq!((&*payments.unmatched, &*explained("other").unmatched), ("denied", "allowed"));
        assert_eq!(explain(&builder.mesh(), &ServiceKey::new("shop", "none")), None);
        assert_eq!(service_of("service=shop/payments"), Some(ServiceKey::new("shop", "payments")));
        assert_eq!(service_of("service=payments"), None);
    }
}
