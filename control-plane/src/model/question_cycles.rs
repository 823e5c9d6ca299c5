//! Services that policies ask about requests, and whose own requests are asked about: questions that would need each other's answers.
//!
//! A question is itself a request, about which the policies of its service ask in turn. Where that leads back to the same service, no question of the
//! cycle would be answered before its timeout. So one question of each cycle is not asked: that of a global limit, if there is one, else those of
//! external authorization, whose requests are refused.
//!
//! Known are the questions about all requests of a Service's port. What policies of routes and of selected pods ask is not known here.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_core::Name;

use super::external_authorization::ExternalAuthorization;
use super::mesh::Mesh;
use super::policy::{NamespacePolicies, Place, Policy, PolicyName, ROOT_NAMESPACE};
use super::rate_limit::{GlobalLimit, RateLimit};
use super::resource::{Kind, ResourceId};
use super::route::{BackendTarget, ExternalAuth, RouteTable};
use super::status::{ConditionKind, RouteStatus};

/// The reason in the condition `ResolvedRefs`.
const REASON: &str = "QuestionCycle";

/// The policies that ask services, and which of their questions are not asked.
#[derive(Debug, Default)]
pub(super) struct QuestionCycles {
    asking: BTreeMap<Name, Asking>,
    unasked: BTreeMap<(Kind, PolicyName), Vec<BackendTarget>>,
}

/// The policies of a namespace.
#[derive(Debug)]
struct Asking {
    authorization: Vec<Policy<ExternalAuthorization>>,
    limits: Vec<Policy<RateLimit>>,
}

/// The service of a policy is asked about the requests to a port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Question {
    policy: (Kind, PolicyName),
    about: BackendTarget,
    asked: BackendTarget,
}

impl QuestionCycles {
    /// Replaces the policies of a namespace.
    pub(super) fn set(&mut self, namespace: &Name, policies: &NamespacePolicies) {
        let NamespacePolicies { external_authorization, rate_limit, .. } = policies;
        if external_authorization.is_empty() && rate_limit.is_empty() {
            self.asking.remove(namespace);
            return;
        }
        let asking = Asking { authorization: external_authorization.clone(), limits: rate_limit.clone() };
        self.asking.insert(namespace.clone(), asking);
    }

    /// Finds the cycles. `mesh` has the routes. Returns the namespaces with policies for which this changes what is asked.
    pub(super) fn update(&mut self, mesh: &Mesh) -> BTreeSet<Name> {
        let new = unasked(&self.questions(mesh));
        let old = std::mem::replace(&mut self.unasked, new);
        let changed = |of: &(Kind, PolicyName)| old.get(of) != self.unasked.get(of);
        let all = old.keys().chain(self.unasked.keys());
        all.filter(|of| changed(of)).map(|(_, policy)| policy.namespace.clone()).collect()
    }

    /// Marks in the policies of a namespace, and in their statuses, what is not asked.
    pub(super) fn mark(&self, policies: &mut NamespacePolicies, statuses: &mut [(ResourceId, RouteStatus)]) {
        let of = |kind, name: &PolicyName| self.unasked.get(&(kind, name.clone())).cloned();
        for policy in &mut policies.external_authorization {
            policy.unasked = of(Kind::ExternalAuthorizationPolicy, &policy.name).unwrap_or_default();
        }
        for policy in &mut policies.rate_limit {
            policy.unasked = of(Kind::RateLimitPolicy, &policy.name).unwrap_or_default();
        }
        for (id, status) in statuses {
            let name = PolicyName { namespace: id.namespace.clone(), name: id.name.clone() };
            let Some(unasked) = of(id.kind, &name) else { continue };
            let conditions = status.parents.iter_mut().flat_map(|parent| &mut parent.conditions);
            for condition in conditions.filter(|of| of.kind == ConditionKind::ResolvedRefs && of.status) {
                (condition.status, condition.reason) = (false, REASON);
                condition.message = message(id.kind, &unasked);
            }
        }
    }

    /// Returns the questions about the requests of services that are asked themselves.
    fn questions(&self, mesh: &Mesh) -> Vec<Question> {
        let services = self.asking.values().flat_map(|asking| {
            let deciding = asking.authorization.iter().filter_map(|policy| decides(policy).cloned());
            deciding.chain(asking.limits.iter().filter_map(counts))
        });
        let asked: BTreeSet<_> = services.collect();
        asked.iter().flat_map(|about| self.about(about, mesh)).collect()
    }

    /// Returns the questions about the requests of a port. The service there is not asked about them itself.
    fn about(&self, about: &BackendTarget, mesh: &Mesh) -> Vec<Question> {
        let namespace = &about.service.namespace;
        let own = self.asking.get(namespace);
        let of_mesh = self.asking.get(&Name::from(ROOT_NAMESPACE)).filter(|_| **namespace != *ROOT_NAMESPACE);
        let question = |kind, policy: &PolicyName, asked: BackendTarget| Question {
            policy: (kind, policy.clone()),
            about: about.clone(),
            asked,
        };
        let limits = own.into_iter().flat_map(|own| &own.limits).filter(|policy| covers(policy, about));
        let limits = limits.chain(of_mesh.into_iter().flat_map(|of_mesh| &of_mesh.limits).filter(is_whole));
        let counted =
            limits.filter_map(|policy| Some(question(Kind::RateLimitPolicy, &policy.name, counts(policy)?)));
        let of_mesh = of_mesh.and_then(|of_mesh| of_mesh.authorization.iter().find(is_whole));
        let own = own.map_or(&[][..], |own| &own.authorization);
        let decided = in_force(own, of_mesh, about, mesh).and_then(|policy| {
            let kind = Kind::ExternalAuthorizationPolicy;
            Some(question(kind, &policy.name, decides(policy)?.clone()))
        });
        counted.chain(decided).filter(|question| question.asked != question.about).collect()
    }
}

/// Returns the questions that are not asked, by their policies: about which ports.
fn unasked(questions: &[Question]) -> BTreeMap<(Kind, PolicyName), Vec<BackendTarget>> {
    let of_limits = |question: &&Question| question.policy.0 == Kind::RateLimitPolicy;
    let all: Vec<_> = questions.iter().collect();
    let limits: Vec<_> =
        all.iter().copied().filter(|question| of_limits(question) && leads_back(question, &all)).collect();
    let rest: Vec<_> = all.iter().copied().filter(|question| !limits.contains(question)).collect();
    let decisions = rest.iter().copied().filter(|question| leads_back(question, &rest));
    let mut unasked = BTreeMap::<_, Vec<_>>::new();
    for question in limits.iter().copied().chain(decisions) {
        unasked.entry(question.policy.clone()).or_default().push(question.about.clone());
    }
    unasked
}

/// Returns whether a question leads to one about the same port.
fn leads_back(question: &Question, all: &[&Question]) -> bool {
    let (mut seen, mut next) = (BTreeSet::new(), vec![&question.asked]);
    while let Some(port) = next.pop() {
        if *port == question.about {
            return true;
        }
        if seen.insert(port) {
            next.extend(all.iter().filter(|other| other.about == *port).map(|other| &other.asked));
        }
    }
    false
}

/// Returns the ExternalAuthorizationPolicy that decides about all requests to a port. Returns `None` if there is none, or if it is not known: for
/// some requests because a route is a target, or because the workloads are not.
fn in_force<'a>(
    own: &'a [Policy<ExternalAuthorization>],
    of_mesh: Option<&'a Policy<ExternalAuthorization>>,
    port: &BackendTarget,
    mesh: &Mesh,
) -> Option<&'a Policy<ExternalAuthorization>> {
    let places = || own.iter().flat_map(|policy| &policy.places);
    let table = mesh.routes(&port.service, port.port, &port.service.namespace).map(|table| &**table);
    if let Some(RouteTable::Http(routes)) = table
        && routes.iter().any(|route| places().any(|place| place.has_route(&route.id)))
    {
        return None;
    }
    let width = |policy: &'a Policy<_>| {
        let places = policy.places.iter().filter(|place| has_port(place, port));
        Some((places.map(Place::width).min()?, policy))
    };
    let narrowest = own.iter().filter_map(width).min_by_key(|(width, _)| *width);
    let (width, policy) = narrowest.or_else(|| Some((u8::MAX, of_mesh?)))?;
    let of_pods = |place: &Place| matches!(place, Place::Pods(_)) && place.width() < width;
    (!places().any(of_pods)).then_some(policy)
}

fn covers<S>(policy: &Policy<S>, port: &BackendTarget) -> bool {
    policy.places.iter().any(|place| has_port(place, port))
}

fn has_port(place: &Place, of: &BackendTarget) -> bool {
    match place {
        Place::Namespace => true,
        Place::Service { service, port } => *service == of.service && port.is_none_or(|port| port == of.port),
        Place::Pods(_) | Place::Route { .. } => false,
    }
}

fn is_whole<S>(policy: &&Policy<S>) -> bool {
    policy.places.contains(&Place::Namespace)
}

/// Returns the service that decides about requests.
fn decides(policy: &Policy<ExternalAuthorization>) -> Option<&BackendTarget> {
    match &*policy.spec {
        ExternalAuthorization::Ask(ExternalAuth { target: Ok(target), .. }) => Some(target),
        ExternalAuthorization::Ask(_) | ExternalAuthorization::Off | ExternalAuthorization::StandIn => None,
    }
}

/// Returns the service that counts requests.
fn counts(policy: &Policy<RateLimit>) -> Option<BackendTarget> {
    let GlobalLimit { service, .. } = policy.spec.global.as_ref()?;
    Some(BackendTarget { service: service.key(&policy.name.namespace), port: service.port })
}

/// Returns what is not asked by a policy, and what follows from that, for users.
pub(super) fn message(kind: Kind, unasked: &[BackendTarget]) -> String {
    let name = |BackendTarget { service, port }: &BackendTarget| {
        format!("{}/{}:{port}", service.namespace, service.name)
    };
    let ports: Vec<_> = unasked.iter().map(name).collect();
    let effect = match kind {
        Kind::RateLimitPolicy => "its global limits do not apply there",
        _ => "they are refused",
    };
    format!(
        "the answers about requests to {} would need questions that lead back to it: {effect}",
        ports.join(" and to ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::mesh_builder::MeshBuilder;
    use crate::model::mesh_builder::testing::{route, service};

    fn policy(kind: &str, name: &str, targets: &str, asks: &str) -> String {
        let (name, namespace) = name.split_once('.').unwrap_or((name, "shop"));
        format!(
            "{{apiVersion: outrigger.dev/v1alpha1, kind: {kind}, metadata: {{name: {name}, namespace: {namespace}}},
               spec: {{targetRefs: [{targets}], {asks}}}}}"
        )
    }

    fn decided(name: &str, targets: &str, by: &str) -> String {
        let asks = format!("protocol: GRPC, backendRef: {{name: {by}, port: 80}}");
        policy("ExternalAuthorizationPolicy", name, targets, &asks)
    }

    fn off(name: &str, targets: &str) -> String {
        policy("ExternalAuthorizationPolicy", name, targets, "mode: 'Off'")
    }

    fn limited(name: &str, targets: &str, by: &str) -> String {
        let asks = format!(
            "global: {{service: {{name: {by}, port: 80}}, descriptors: [{{by: [{{caller: {{}}}}]}}]}}"
        );
        policy("RateLimitPolicy", name, targets, &asks)
    }

    fn to(service: &str) -> String {
        format!("{{group: '', kind: Service, name: {service}}}")
    }

    fn mesh(policies: &[&str]) -> MeshBuilder {
        let mut builder = MeshBuilder::default();
        for name in ["app", "judge", "jury", "limits"] {
            builder.with(&[&service(name, 80, "grpc")]);
        }
        builder.with(policies);
        builder
    }

    /// The questions of policies that are not asked, and about which ports.
    fn unasked(builder: &MeshBuilder) -> Vec<String> {
        let mesh = builder.mesh();
        let mut all = Vec::new();
        let mut add = |name: &PolicyName, ports: &[BackendTarget]| {
            let port = |BackendTarget { service, port }: &BackendTarget| {
                format!("{name} {}/{}:{port}", service.namespace, service.name)
            };
            all.extend(ports.iter().map(port));
        };
        for namespace in ["office", "outrigger-system", "shop"].map(Name::from) {
            let decisions = mesh.policies::<ExternalAuthorization>(&namespace);
            decisions.iter().for_each(|policy| add(&policy.name, &policy.unasked));
            let limits = mesh.policies::<RateLimit>(&namespace);
            limits.iter().for_each(|policy| add(&policy.name, &policy.unasked));
        }
        all
    }

    #[test]
    fn the_limit_of_a_cycle_is_not_asked_for() {
        let (authorized, limit) = (decided("a", "", "judge"), limited("l", "", "limits"));
        let mut builder = mesh(&[&authorized, &limit]);
        assert_eq!(unasked(&builder), ["shop/l shop/judge:80"]);
        assert_eq!(
            builder.conditions("RateLimitPolicy shop/l")[1],
            "ResolvedRefs=False (QuestionCycle): the answers about requests to shop/judge:80 would need questions that lead back to it: \
             its global limits do not apply there"
        );
        assert!(builder.conditions("ExternalAuthorizationPolicy shop/a")[1].starts_with("ResolvedRefs=True"));
        builder.with(&[&off("o", &to("limits"))]);
        assert_eq!(unasked(&builder), [""; 0], "the service of limits is asked without authorization");
        assert!(builder.conditions("RateLimitPolicy shop/l")[1].starts_with("ResolvedRefs=True"));
        builder.without(&off("o", ""));
        assert_eq!(unasked(&builder).len(), 1);
        let two = [limited("x", &to("limits"), "judge"), limited("y", &to("judge"), "limits")];
        let builder = mesh(&two.each_ref().map(String::as_str));
        assert_eq!(unasked(&builder), ["shop/x shop/limits:80", "shop/y shop/judge:80"]);
    }

    #[test]
    fn where_all_of_a_cycle_is_authorization_none_is_asked_for() {
        let (all, of_judge) = (decided("all", "", "judge"), decided("b", &to("judge"), "jury"));
        let mut builder = mesh(&[&all, &of_judge]);
        assert_eq!(unasked(&builder), ["shop/all shop/jury:80", "shop/b shop/judge:80"]);
        assert_eq!(
            builder.conditions("ExternalAuthorizationPolicy shop/all")[1],
            "ResolvedRefs=False (QuestionCycle): the answers about requests to shop/jury:80 would need questions that lead back to it: they \
             are refused"
        );
        builder.with(&[&off("o", &to("jury"))]);
        assert_eq!(unasked(&builder), [""; 0]);
        let longer = mesh(&[
            &decided("a", &to("app"), "judge"),
            &of_judge,
            &decided("c", &to("jury"), "limits"),
            &decided("d", &to("limits"), "judge"),
        ]);
        let expected = ["shop/b shop/judge:80", "shop/c shop/jury:80", "shop/d shop/limits:80"];
        assert_eq!(unasked(&longer), expected, "app asks, since no answer depends on it");
    }

    #[test]
    fn a_cycle_through_namespaces_is_found_from_either_end() {
        let asks = |policy: String, namespace: &str| {
            let asked = format!("{{namespace: {namespace}, name: ");
            let policy = policy.replace("service: {name: ", &format!("service: {asked}"));
            policy.replace("backendRef: {name: ", &format!("backendRef: {asked}"))
        };
        let here = asks(limited("here", &to("judge"), "counter"), "office");
        let there = asks(limited("there.office", "", "judge"), "shop");
        let counter = service("counter.office", 80, "grpc");
        for order in [[&here, &there, &counter], [&counter, &there, &here], [&there, &counter, &here]] {
            let mut builder = mesh(&order.map(String::as_str));
            assert_eq!(unasked(&builder), ["office/there office/counter:80", "shop/here shop/judge:80"]);
            builder.without(&there);
            assert_eq!(unasked(&builder), [""; 0]);
        }
        let of_mesh = asks(decided("all.outrigger-system", "", "judge"), "shop");
        let grant = "{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {name: g, namespace: shop},
            spec: {from: [{group: outrigger.dev, kind: ExternalAuthorizationPolicy, namespace: outrigger-system}], to: [{group: '', kind: Service}]}}";
        let builder = mesh(&[&of_mesh, grant, &decided("b", &to("judge"), "jury")]);
        assert_eq!(unasked(&builder), ["outrigger-system/all shop/jury:80", "shop/b shop/judge:80"]);
    }

    #[test]
    fn what_is_not_known_is_no_cycle() {
        let pods = "{group: '', kind: Pod, selector: {matchLabels: {app: jury}}}";
        let (all, of_judge) = (decided("all", "", "judge"), decided("b", &to("judge"), "jury"));
        assert_eq!(unasked(&mesh(&[&all, &of_judge, &off("o", pods)])), [""; 0]);
        let of_route = "{group: gateway.networking.k8s.io, kind: GRPCRoute, name: r}";
        let routed = route("GRPCRoute", "r", "name: jury", "{backendRefs: [{name: jury, port: 80}]}");
        assert_eq!(unasked(&mesh(&[&routed, &all, &of_judge, &off("o", of_route)])), [""; 0]);
        assert_eq!(unasked(&mesh(&[&routed, &all, &of_judge])).len(), 2, "the route is no target");
    }
}
