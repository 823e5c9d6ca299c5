//! Targets of policies that do not exist, or cannot have one, and Services that policies need and that do not exist.

use super::{add_grant, ports_of, where_is};
use crate::model::diagnostic::{Code, Problem};
use crate::model::inventory::Inventory;
use crate::model::needed_service::{Unresolved, unresolved};
use crate::model::policies::places;
use crate::model::resource::policy::{PolicySpec, TargetRef};
use crate::model::resource::{Metadata, ResourceId};
use crate::model::route::InvalidBackend;
use crate::model::service::ServiceKey;

/// Returns the problems of what a policy names.
pub(super) fn of(inventory: &Inventory, metadata: &Metadata, spec: &PolicySpec) -> Vec<Problem> {
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
    targets.chain(needed(inventory, metadata, spec)).collect()
}

fn needed(inventory: &Inventory, metadata: &Metadata, spec: &PolicySpec) -> impl Iterator<Item = Problem> {
    unresolved(inventory, metadata, spec).into_iter().map(|unresolved| {
        let Unresolved { service, port: _, why, code, field, message } = unresolved; // the message names the port
        let ResourceId { kind, namespace, .. } = &metadata.id;
        let problem = Problem::of(code, field, message);
        let help = match (why, inventory.service(&service)) {
            (InvalidBackend::RefNotPermitted, _) => Some(add_grant(*kind, namespace, &service)),
            (_, Some(service)) => Some(ports_of(service)),
            (_, None) => where_is(inventory, &service),
        };
        match help {
            Some(help) => problem.help(help),
            None => problem,
        }
    })
}
