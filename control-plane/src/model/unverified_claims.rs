//! Claims that a policy uses where no AuthenticationPolicy verifies tokens: no request has them.
//!
//! The status of the policy names them, and `findings` reports them. Where policies may share only some requests with the target, tokens count as
//! verified: what is reported is certain.

use std::collections::BTreeMap;

use outrigger_core::Name;

use super::attachment::{id_prefix, selects};
use super::authentication::Authentication;
use super::diagnostic::{Code, Problem};
use super::inventory::{Inventory, Route};
use super::mesh::Mesh;
use super::policies::ancestor;
use super::policy::{Place, Policy, ROOT_NAMESPACE};
use super::policy_targets::places;
use super::rate_limit::Entry;
use super::resource::policy::{PolicyRules, PolicySpec, TargetRef};
use super::resource::{Kind, Metadata, ResourceId};
use super::service::ServiceKey;
use super::status::RouteStatus;

/// A claim that a policy uses.
struct UsedClaim {
    /// The field that names it, such as `spec.local[0].by[1].claim`.
    field: String,
    /// The names that lead to it, with dots between them.
    name: String,
    /// What follows for requests without it.
    effect: &'static str,
}

impl UsedClaim {
    /// Returns what is wrong at targets where no request has it.
    fn message(&self, targets: &str) -> String {
        let Self { field: _, name, effect } = self;
        format!(
            "no request has the claim {name:?}, since no AuthenticationPolicy verifies tokens at {targets}: {effect}"
        )
    }
}

/// Returns the problems of a policy: one for each claim, with the targets.
pub(super) fn problems(
    inventory: &Inventory,
    mesh: &Mesh,
    metadata: &Metadata,
    spec: &PolicySpec,
) -> Vec<Problem> {
    let used = used(spec);
    let targets = if used.is_empty() { Vec::new() } else { without_tokens(inventory, mesh, metadata, spec) };
    let names: Vec<_> = targets.iter().map(|target| target_name(metadata, *target)).collect();
    let problem = |claim: UsedClaim| {
        let problem = Problem::of(Code::UnverifiedClaim, &*claim.field, claim.message(&names.join(", ")));
        problem.help("attach an AuthenticationPolicy with jwt.issuers there")
    };
    used.into_iter().filter(|_| !names.is_empty()).map(problem).collect()
}

/// Adds the claims to the status of a policy: to the message of `Accepted`, which stays True.
pub(super) fn note(inventory: &Inventory, mesh: &Mesh, id: &ResourceId, status: &mut RouteStatus) {
    let Some((metadata, spec)) = inventory.policy(id) else { return };
    let used = used(spec);
    if used.is_empty() {
        return;
    }
    for target in without_tokens(inventory, mesh, metadata, spec) {
        let (parent, name) = (ancestor(metadata, target), target_name(metadata, target));
        let entry = status.parents.iter_mut().find(|entry| entry.parent == parent);
        let mut conditions = entry.into_iter().flat_map(|entry| &mut entry.conditions);
        if let Some(accepted) = conditions.find(|condition| condition.reason == "Accepted") {
            let claims = used.iter().map(|claim| format!("{}: {}", claim.field, claim.message(&name)));
            accepted.message = claims.collect::<Vec<_>>().join("; ");
        }
    }
}

/// Returns what a target is called. None is the namespace.
fn target_name(metadata: &Metadata, target: Option<&TargetRef>) -> String {
    let (kind, name, section) = match target {
        None if *metadata.id.namespace == *ROOT_NAMESPACE => return "any place of the mesh".into(),
        None => return format!("namespace {}", metadata.id.namespace),
        Some(TargetRef::Pods(labels)) => return Place::Pods(labels.clone()).to_string(),
        Some(TargetRef::Service { name, section }) => ("Service", name, section),
        Some(TargetRef::Route { kind, name, section }) => (kind.name(), name, section),
        Some(TargetRef::Gateway { name, section }) => ("Gateway", name, section),
    };
    let section = section.as_ref().map(|section| format!("/{section}")).unwrap_or_default();
    format!("{kind} {name}{section}")
}

/// Returns the claims that a policy uses.
fn used(spec: &PolicySpec) -> Vec<UsedClaim> {
    let claim = |field, path: &[Name], effect| UsedClaim { field, name: path.join("."), effect };
    match &spec.rules {
        PolicyRules::RateLimit(spec) => {
            let local = spec.local.iter().enumerate();
            let local = local.map(|(at, limit)| (format!("spec.local[{at}]"), &limit.by));
            let global = spec.global.iter().flat_map(|global| global.descriptors.iter().enumerate());
            let global = global.map(|(at, by)| (format!("spec.global.descriptors[{at}]"), by));
            let of_limit = |(limit, by): (String, &Vec<Entry>)| -> Vec<_> {
                let entries = by.iter().enumerate().filter_map(|(at, entry)| {
                    let Entry::Claim(path) = entry else { return None };
                    Some(claim(
                        format!("{limit}.by[{at}].claim"),
                        path,
                        "the limit does not distinguish requests by it",
                    ))
                });
                entries.collect()
            };
            local.chain(global).flat_map(of_limit).collect()
        }
        PolicyRules::Authorization(spec) => {
            let rules = spec.rules.iter().enumerate();
            let sources =
                rules.flat_map(|(rule, of)| of.from.iter().enumerate().map(move |from| (rule, from)));
            let claims = sources.flat_map(|(rule, (from, source))| {
                let claims = source.claims.iter().enumerate();
                claims
                    .map(move |(at, of)| (format!("spec.rules[{rule}].from[{from}].claims[{at}]"), &of.path))
            });
            claims.map(|(field, path)| claim(field, path, "this condition matches nothing")).collect()
        }
        _ => Vec::new(),
    }
}

/// Returns the targets of a policy at which no AuthenticationPolicy verifies tokens; None is its namespace. Targets that do not exist are not
/// among them.
fn without_tokens<'a>(
    inventory: &Inventory,
    mesh: &Mesh,
    metadata: &Metadata,
    spec: &'a PolicySpec,
) -> Vec<Option<&'a TargetRef>> {
    let namespace = &metadata.id.namespace;
    if spec.targets.is_empty() {
        let verified = has_tokens(inventory, mesh, namespace, &Place::Namespace);
        return if verified { Vec::new() } else { vec![None] };
    }
    let targets = spec.targets.iter().filter(|target| {
        let places = places(inventory, metadata, target).unwrap_or_default();
        !places.is_empty() && !places.iter().any(|place| has_tokens(inventory, mesh, namespace, place))
    });
    targets.map(Some).collect()
}

/// Returns true if an AuthenticationPolicy verifies tokens at a place of a namespace, or at a part of it. Of those for the whole place, the
/// narrowest is in force.
fn has_tokens(inventory: &Inventory, mesh: &Mesh, namespace: &Name, target: &Place) -> bool {
    let root = Name::from(ROOT_NAMESPACE);
    if *namespace == root && *target == Place::Namespace {
        return mesh.all_policies::<Authentication>().any(verifies);
    }
    let own = mesh.policies::<Authentication>(namespace);
    let is_whole = |policy: &&Policy<Authentication>| policy.places.contains(&Place::Namespace);
    let of_mesh = || mesh.policies::<Authentication>(&root).iter().find(is_whole);
    let everywhere = own.iter().find(is_whole).or_else(of_mesh).is_some_and(verifies);
    // Without a policy that says otherwise, the places need not be compared.
    if own.iter().all(|policy| verifies(policy) == everywhere) {
        return everywhere;
    }
    let (mut whole, mut in_part) = (None, false);
    for policy in own {
        for place in &policy.places {
            match common(inventory, place, target) {
                Common::None => {}
                Common::Part => in_part |= verifies(policy),
                Common::Whole if whole.is_none_or(|(width, _)| place.width() < width) => {
                    whole = Some((place.width(), policy));
                }
                Common::Whole => {}
            }
        }
    }
    in_part || whole.map(|(_, policy)| policy).or_else(of_mesh).is_some_and(verifies)
}

/// A refused policy is reported as such.
fn verifies(policy: &Policy<Authentication>) -> bool {
    policy.spec.stands_in || !policy.spec.issuers.is_empty()
}

/// The requests of a target that another place has.
enum Common {
    None,
    /// Some of them, or it is not known which.
    Part,
    Whole,
}

/// Returns which requests of the place `target` are in another `place` of the namespace.
fn common(inventory: &Inventory, place: &Place, target: &Place) -> Common {
    let part = |is_part| if is_part { Common::Part } else { Common::None };
    let shares = |service: &ServiceKey, prefix: &Name| {
        let parents = route_of(inventory, prefix).into_iter().flat_map(services);
        part(parents.into_iter().any(|parent| may_share_pods(inventory, service, &parent)))
    };
    match (place, target) {
        (place, target) if place == target => Common::Whole,
        (Place::Namespace, _) => Common::Whole,
        (_, Place::Namespace) => Common::Part,
        (Place::Service { service, .. }, Place::Service { service: other, .. }) if service != other => {
            part(may_share_pods(inventory, service, other))
        }
        (Place::Service { port: None, .. }, Place::Service { .. }) => Common::Whole,
        (Place::Service { .. }, Place::Service { port, .. }) => part(port.is_none()),
        (Place::Route { prefix, .. }, Place::Route { prefix: other, .. }) if prefix != other => Common::None,
        (Place::Route { rules: None, .. }, Place::Route { .. }) => Common::Whole,
        (Place::Route { rules: Some(rules), .. }, Place::Route { rules: of_target, .. }) => {
            part(of_target.as_ref().is_none_or(|all| all.iter().any(|rule| rules.contains(rule))))
        }
        (Place::Service { service, port }, Place::Route { prefix, .. }) => {
            let Some(route) = route_of(inventory, prefix) else { return Common::None };
            if has_all(inventory, service, *port, route) { Common::Whole } else { shares(service, prefix) }
        }
        (Place::Route { prefix, .. }, Place::Service { service, .. }) => shares(service, prefix),
        (Place::Pods(labels), Place::Pods(other)) => part(agree(labels, other)),
        (Place::Pods(labels), Place::Service { service, .. })
        | (Place::Service { service, .. }, Place::Pods(labels)) => {
            part(inventory.service(service).is_some_and(|service| agree(labels, &service.selector)))
        }
        (Place::Pods(_), Place::Route { .. }) | (Place::Route { .. }, Place::Pods(_)) => Common::Part,
    }
}

/// Returns the route whose IDs in the mesh begin like this.
fn route_of<'a>(inventory: &'a Inventory, prefix: &str) -> Option<Route<'a>> {
    let mut parts = prefix.split('/').skip(1);
    let (namespace, name) = (parts.next()?, parts.next()?);
    let id = |kind| ResourceId { kind, namespace: namespace.into(), name: name.into() };
    let mut kinds = [Kind::HttpRoute, Kind::GrpcRoute].into_iter().map(id);
    kinds.find(|id| id_prefix(id) == prefix).and_then(|id| inventory.route(&id))
}

/// Returns the Services that a route names as parents.
fn services(route: Route<'_>) -> impl Iterator<Item = ServiceKey> {
    let parents = route.spec.parents.0.iter().filter(|parent| parent.is_service());
    parents.map(move |parent| route.parent(parent))
}

/// Returns true if all requests of a route are to a Service, or to a port of it.
fn has_all(inventory: &Inventory, service: &ServiceKey, port: Option<u16>, route: Route<'_>) -> bool {
    let [parent] = &*route.spec.parents.0 else { return false };
    let is_port = |number| {
        let ports = inventory.service(service).into_iter().flat_map(|service| &service.ports);
        let selected: Vec<_> = ports.filter(|port| selects(parent, port)).map(|port| port.number).collect();
        selected == [number]
    };
    parent.is_service() && route.parent(parent) == *service && port.is_none_or(is_port)
}

/// Returns true if a workload may be of both Services. Any may register for one without a selector.
fn may_share_pods(inventory: &Inventory, one: &ServiceKey, other: &ServiceKey) -> bool {
    let selectors = [one, other].map(|key| inventory.service(key).map(|service| &service.selector));
    let [Some(one), Some(other)] = selectors else { return false };
    agree(one, other)
}

/// Returns true unless no pod can have the labels of both.
fn agree(one: &BTreeMap<Name, Name>, other: &BTreeMap<Name, Name>) -> bool {
    one.iter().all(|(key, value)| other.get(key).is_none_or(|of_other| of_other == value))
}

#[cfg(test)]
mod tests;
