//! Services that policies ask about requests, and whose own requests are asked about: questions that would need each other's answers.
//!
//! A question is itself a request, about which the policies of its service ask in turn. Where that leads back to the same service, no question of the
//! cycle would be answered before its timeout. So the questions of all global limits on cycles are not asked. Of cycles without one, those of
//! external authorization are not asked either, and their requests are refused.
//!
//! Known are the questions about all requests of a Service's port. What policies of routes and of selected pods ask is not known here. A global
//! limit that counts no question to the port by its paths and headers asks nothing about them (`form`).

use std::collections::{BTreeMap, BTreeSet};

use outrigger_core::Name;

use super::external_authorization::ExternalAuthorization;
use super::mesh::Mesh;
use super::policy::{NamespacePolicies, Place, Policy, PolicyName, ROOT_NAMESPACE};
use super::rate_limit::RateLimit;
use super::resource::{Kind, ResourceId};
use super::route::{AuthCheck, BackendTarget, ExternalAuth, RouteTable};
use super::status::{ConditionKind, RouteStatus};
use components::components;
use form::{Form, are_counted};

mod form;
mod components;

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
        let mut asked = BTreeMap::<_, BTreeSet<_>>::new();
        for asking in self.asking.values() {
            for (port, check) in asking.authorization.iter().filter_map(decides) {
                asked.entry(port.clone()).or_default().insert(Form::of(&check.protocol));
            }
            for port in asking.limits.iter().filter_map(counts) {
                asked.entry(port).or_default().insert(Form::Limit);
            }
        }
        asked.iter().flat_map(|(about, forms)| self.about(about, forms, mesh)).collect()
    }

    /// Returns the questions about the requests to a port, which have these forms. The service there is not asked about them itself.
    fn about(&self, about: &BackendTarget, forms: &BTreeSet<Form<'_>>, mesh: &Mesh) -> Vec<Question> {
        let namespace = &about.service.namespace;
        let own = self.asking.get(namespace);
        let of_mesh = self.asking.get(&Name::from(ROOT_NAMESPACE)).filter(|_| **namespace != *ROOT_NAMESPACE);
        let question = |kind, policy: &PolicyName, asked: BackendTarget| Question {
            policy: (kind, policy.clone()),
            about: about.clone(),
            asked,
        };
        let whole = of_mesh.and_then(|of_mesh| of_mesh.authorization.iter().find(is_whole));
        let deciding = own.map_or(&[][..], |own| &own.authorization);
        let decided = in_force(deciding, whole, about, mesh).and_then(|policy| {
            let (asked, _) = decides(policy)?;
            let kind = Kind::ExternalAuthorizationPolicy;
            (asked != about).then(|| question(kind, &policy.name, asked.clone()))
        });
        // A service that decides about a question may add fields to it, which limits count afterwards.
        let in_part = |place: &Place| matches!(place, Place::Pods(_) | Place::Route { .. });
        let gets_fields = decided.is_some()
            || deciding.iter().any(|policy| decides(policy).is_some() && policy.places.iter().any(in_part));
        let limits = own.into_iter().flat_map(|own| &own.limits).filter(|policy| covers(policy, about));
        let limits = limits.chain(of_mesh.into_iter().flat_map(|of_mesh| &of_mesh.limits).filter(is_whole));
        let counted = limits.filter_map(|policy| {
            let asked = counts(policy).filter(|asked| asked != about)?;
            let counts_one = are_counted(forms, policy.spec.global.as_ref()?, gets_fields);
            counts_one.then(|| question(Kind::RateLimitPolicy, &policy.name, asked))
        });
        counted.chain(decided).collect()
    }
}

/// Returns the questions that are not asked, by their policies: about which ports.
fn unasked(questions: &[Question]) -> BTreeMap<(Kind, PolicyName), Vec<BackendTarget>> {
    let (mut limits, mut rest) = (Vec::new(), Vec::new());
    for (question, is_on_cycle) in with_cycles(questions.iter().collect()) {
        let is_limit = question.policy.0 == Kind::RateLimitPolicy;
        if is_limit && is_on_cycle { &mut limits } else { &mut rest }.push(question);
    }
    let decisions = with_cycles(rest).filter(|(_, is_on_cycle)| *is_on_cycle).map(|(question, _)| question);
    let mut unasked = BTreeMap::<_, Vec<_>>::new();
    for question in limits.into_iter().chain(decisions) {
        unasked.entry(question.policy.clone()).or_default().push(question.about.clone());
    }
    unasked
}

/// Returns each question with whether it is on a cycle: whether it leads to one about the same port.
fn with_cycles(questions: Vec<&Question>) -> impl Iterator<Item = (&Question, bool)> {
    let ports: BTreeSet<_> =
        questions.iter().flat_map(|question| [&question.about, &question.asked]).collect();
    let ports: BTreeMap<_, _> = ports.into_iter().zip(0..).collect();
    let mut edges = vec![Vec::new(); ports.len()];
    for Question { about, asked, .. } in &questions {
        edges[ports[about]].push(ports[asked]);
    }
    let components = components(&edges);
    let component = move |port| components[ports[port]];
    questions
        .into_iter()
        .map(move |question| (question, component(&question.about) == component(&question.asked)))
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

/// Returns the service that decides about requests, and how it is asked.
fn decides(policy: &Policy<ExternalAuthorization>) -> Option<(&BackendTarget, &AuthCheck)> {
    match &*policy.spec {
        ExternalAuthorization::Ask(ExternalAuth { target: Ok(target), check }) => Some((target, check)),
        ExternalAuthorization::Ask(_) | ExternalAuthorization::Off | ExternalAuthorization::StandIn => None,
    }
}

/// Returns the service that counts requests.
fn counts(policy: &Policy<RateLimit>) -> Option<BackendTarget> {
    let service = &policy.spec.global.as_ref()?.service;
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
mod tests;
