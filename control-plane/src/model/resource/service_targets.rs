//! The field `targetRefs` of policies about Services alone.
//!
//! Such a policy names at least one Service: without a target it would apply to nothing.

use schemars::JsonSchema;
use serde::Deserialize;

use super::policy::{TargetRef, distinct};
use super::strict::at;
use super::value::{Group, KindName, List, ObjectName, SectionName};

/// Services, or ports of them.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(try_from = "List<OneTarget, 1, 16>")]
#[schemars(with = "List<WireTarget, 1, 16>")]
pub(super) struct ServiceTargets(pub(super) Vec<TargetRef>);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireTarget {
    group: Group,
    kind: KindName,
    name: ObjectName,
    section_name: Option<SectionName>,
}

#[derive(Deserialize)]
#[serde(try_from = "WireTarget")]
struct OneTarget(TargetRef);

impl TryFrom<WireTarget> for OneTarget {
    type Error = String;

    fn try_from(WireTarget { group, kind, name, section_name }: WireTarget) -> Result<Self, String> {
        let (group, kind) = (&*group.0, &*kind.0);
        if (group, kind) != ("", "Service") {
            let reason = format!("{kind} of group {group:?} cannot be a target: write Service of group \"\"");
            return Err(at("kind", reason));
        }
        Ok(Self(TargetRef::Service { name: name.0, section: section_name.map(|section| section.0) }))
    }
}

impl TryFrom<List<OneTarget, 1, 16>> for ServiceTargets {
    type Error = String;

    fn try_from(List(all): List<OneTarget, 1, 16>) -> Result<Self, String> {
        distinct(all.into_iter().map(|OneTarget(target)| target)).map(Self)
    }
}
