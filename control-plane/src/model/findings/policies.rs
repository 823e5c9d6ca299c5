//! Targets of policies that do not exist, or cannot have one, Services that policies need and that do not exist or need each other, checks that do
//! not suit a port, and claims of tokens that nothing verifies.

use super::{add_grant, ports_of, where_is};
use crate::model::diagnostic::{Code, Problem};
use crate::model::external_authorization::ExternalAuthorization;
use crate::model::health_check::HealthCheck;
use crate::model::inventory::Inventory;
use crate::model::mesh::Mesh;
use crate::model::needed_secret::{UnusableSecret, unusable};
use crate::model::needed_service::{Unresolved, unresolved};
use crate::model::policy_targets::places;
use crate::model::question_cycles;
use crate::model::rate_limit::RateLimit;
use crate::model::resource::policy::{PolicyRules, PolicySpec, TargetRef};
use crate::model::resource::{Kind, Metadata, ResourceId};
use crate::model::route::InvalidBackend;
use crate::model::service::{ServiceKey, ServicePort};
use crate::model::similar::similar;
use crate::model::status::{CONFLICTED, ParentStatus, RouteStatus};
use crate::model::unverified_claims;

/// Returns the problems of what a policy names.
pub(super) fn of(inventory: &Inventory, mesh: &Mesh, metadata: &Metadata, spec: &PolicySpec) -> Vec<Problem> {
    let one = |(at, target): (usize, &TargetRef)| {
        let why = places(inventory, metadata, target).err()?;
        let field = format!("spec.targetRefs[{at}]");
        let problem = |code, inner: &str| Problem::of(code, format!("{field}{inner}"), why.message.clone());
        if why.reason != "TargetNotFound" {
            return Some(problem(Code::UnsupportedTarget, ""));
        }
        let TargetRef::Service { name, .. } = target else { return Some(problem(Code::UnknownTarget, "")) };
        let key = ServiceKey { namespace: metadata.id.namespace.clone(), name: name.clone() };
        Some(match inventory.service(&key) {
            Some(service) => problem(Code::UnknownTarget, ".sectionName").help(ports_of(service)),
            None => match where_is(inventory, &key) {
                Some(help) => problem(Code::UnknownTarget, ".name").help(help),
                None => problem(Code::UnknownTarget, ".name"),
            },
        })
    };
    let targets = spec.targets.iter().enumerate().filter_map(one);
    let secrets = unusable(inventory, metadata, spec).into_iter().map(|one| secret(inventory, metadata, one));
    let needed = needed(inventory, metadata, spec).chain(secrets).chain(unsuited(inventory, metadata, spec));
    targets.chain(needed).chain(unverified_claims::problems(inventory, mesh, metadata, spec)).collect()
}

/// Returns the targets to which a policy with this status does not apply, because another one does.
pub(super) fn conflicts(status: &RouteStatus) -> impl Iterator<Item = Problem> {
    status.parents.iter().flat_map(|ParentStatus { parent, conditions }| {
        let conflicts = conditions.iter().filter(|condition| condition.reason == CONFLICTED);
        conflicts.map(move |condition| {
            let message = format!("does not apply to {parent}: {}", condition.message);
            Problem::of(Code::ConflictingPolicy, "spec.targetRefs", message)
        })
    })
}

/// Returns the problems of a health check that cannot check some of the ports.
fn unsuited(inventory: &Inventory, metadata: &Metadata, spec: &PolicySpec) -> Vec<Problem> {
    let PolicyRules::BackendTraffic(traffic) = &spec.rules else { return Vec::new() };
    let Some(HealthCheck { checker, port: None, .. }) = &traffic.health_check else { return Vec::new() };
    let of_target = |target: &TargetRef| {
        let TargetRef::Service { name, section } = target else { return Vec::new() };
        let key = ServiceKey { namespace: metadata.id.namespace.clone(), name: name.clone() };
        let Some(service) = inventory.service(&key) else { return Vec::new() };
        let concerned = |port: &&ServicePort| section.as_ref().is_none_or(|name| *name == port.name);
        let unsuited = service.ports.iter().filter(concerned).filter(|port| !checker.suits(port.protocol));
        let problem = |port: &ServicePort| {
            let message = format!(
                "{} does not suit the protocol of port {} of Service {name}, which is not checked",
                checker.name(),
                port.number
            );
            Problem::of(Code::IgnoredField, "spec.healthCheck.type", message)
        };
        unsuited.map(problem).collect()
    };
    spec.targets.iter().flat_map(of_target).collect()
}

/// Returns the problem of a policy whose service is not asked about the requests to some ports.
pub(super) fn unasked(mesh: &Mesh, id: &ResourceId) -> Option<Problem> {
    let (namespace, name) = (&id.namespace, &id.name);
    let of_limits = || mesh.policies::<RateLimit>(namespace).iter().find(|of| of.name.name == *name);
    let of_decisions =
        || mesh.policies::<ExternalAuthorization>(namespace).iter().find(|of| of.name.name == *name);
    let (field, ports) = match id.kind {
        Kind::RateLimitPolicy => ("spec.global.service", &of_limits()?.unasked),
        Kind::ExternalAuthorizationPolicy => ("spec.backendRef", &of_decisions()?.unasked),
        _ => return None,
    };
    let message = || question_cycles::message(id.kind, ports);
    (!ports.is_empty()).then(|| Problem::of(Code::QuestionCycle, field, message()))
}

fn needed(inventory: &Inventory, metadata: &Metadata, spec: &PolicySpec) -> impl Iterator<Item = Problem> {
    unresolved(inventory, metadata, spec).into_iter().map(|unresolved| {
        let Unresolved { service, port: _, why, code, field, message } = unresolved; // the message names the port
        let ResourceId { kind, namespace, .. } = &metadata.id;
        let problem = Problem::of(code, field, message);
        let help = match (why, inventory.service(&service)) {
            (InvalidBackend::RefNotPermitted, _) => {
                Some(add_grant(*kind, namespace, (Kind::Service, &service.namespace, &service.name)))
            }
            (_, Some(service)) => Some(ports_of(service)),
            (_, None) => where_is(inventory, &service),
        };
        match help {
            Some(help) => problem.help(help),
            None => problem,
        }
    })
}

/// Returns the problem of a Secret that a policy refers to.
fn secret(inventory: &Inventory, metadata: &Metadata, unusable: UnusableSecret) -> Problem {
    let UnusableSecret { secret, reason: _, code, field, message } = unusable;
    let problem = Problem::of(code, field, message);
    let others = || {
        let ids = inventory.resources().map(|resource| &resource.metadata.id);
        let same = ids.filter(|id| id.kind == Kind::Secret && id.namespace == secret.namespace);
        similar(&secret.name, same.map(|id| &*id.name))
    };
    match code {
        Code::SecretNotPermitted => {
            let ResourceId { kind, namespace, .. } = &metadata.id;
            problem.help(add_grant(*kind, namespace, (Kind::Secret, &secret.namespace, &secret.name)))
        }
        Code::UnknownSecret => match &*others() {
            [] => problem,
            near => problem.help(format!("did you mean {}?", near.join(" or "))),
        },
        _ => problem,
    }
}
