//! Conditions as Kubernetes' API conventions define them, and how new ones are merged into those of an object.

use jiff::Timestamp;
use serde_json::{Value, json};

/// Maximum size of a message, in bytes. The API permits 32 KiB; a reader needs less.
const MAX_MESSAGE: usize = 4096;

/// A condition that this control plane sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NewCondition {
    pub(super) kind: &'static str,
    pub(super) status: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) observed_generation: i64,
}

/// Merges conditions into those of an object. `owned` are the types that this control plane sets: one of them that is not in
/// `new` is removed; conditions of other types stay as they are, in their order. `lastTransitionTime` is that of the last change
/// of the status. A condition for a newer generation is kept: the caller's copy of the object is old.
pub(super) fn merge(
    old: Option<&Vec<Value>>,
    owned: &[&str],
    new: &[NewCondition],
    now: Timestamp,
) -> Vec<Value> {
    let mut merged = Vec::new();
    for condition in old.into_iter().flatten() {
        let kind = condition["type"].as_str().unwrap_or_default();
        match new.iter().find(|new| new.kind == kind) {
            Some(new) if newer(condition, new) => merged.push(condition.clone()),
            Some(new) => merged.push(new.to_json(Some(condition), now)),
            None if owned.contains(&kind) => {}
            None => merged.push(condition.clone()),
        }
    }
    let is_new = |new: &&NewCondition| merged.iter().all(|old| old["type"] != new.kind);
    let added: Vec<_> = new.iter().filter(is_new).map(|new| new.to_json(None, now)).collect();
    merged.extend(added);
    merged
}

fn newer(old: &Value, new: &NewCondition) -> bool {
    old["observedGeneration"].as_i64().is_some_and(|generation| generation > new.observed_generation)
}

impl NewCondition {
    fn to_json(&self, old: Option<&Value>, now: Timestamp) -> Value {
        let Self { kind, status, reason, message, observed_generation } = self;
        let status = if *status { "True" } else { "False" };
        let since =
            old.filter(|old| old["status"] == status).and_then(|old| old["lastTransitionTime"].as_str());
        let since = since.map_or_else(|| format!("{now:.0}"), str::to_owned);
        json!({
            "type": kind,
            "status": status,
            "reason": reason,
            "message": &message[..message.floor_char_boundary(MAX_MESSAGE)],
            "observedGeneration": observed_generation,
            "lastTransitionTime": since,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: &str = "2026-01-01T00:00:00Z";

    fn accepted(status: bool, generation: i64) -> NewCondition {
        let reason = if status { "Accepted" } else { "NoMatchingParent" };
        NewCondition {
            kind: "Accepted",
            status,
            reason,
            message: String::new(),
            observed_generation: generation,
        }
    }

    fn merged(old: &[Value], new: &[NewCondition]) -> Vec<Value> {
        let now = "2026-11-28T12:00:00.5Z".parse().unwrap();
        merge(Some(&old.to_vec()), &["Accepted", "Mine"], new, now)
    }

    fn old(kind: &str, status: &str) -> Value {
        json!({"type": kind, "status": status, "reason": "Accepted", "message": "", "observedGeneration": 3,
               "lastTransitionTime": THEN})
    }

    #[test]
    fn the_time_of_the_last_transition_is_kept_while_the_status_is_unchanged() {
        let kept = merged(&[old("Accepted", "True")], &[accepted(true, 4)]);
        assert_eq!(
            (&kept[0]["lastTransitionTime"], &kept[0]["observedGeneration"]),
            (&json!(THEN), &json!(4))
        );
        let changed = merged(&[old("Accepted", "True")], &[accepted(false, 4)]);
        assert_eq!(changed[0]["lastTransitionTime"], "2026-11-28T12:00:00Z");
        assert_eq!(merged(&[old("Accepted", "True")], &[accepted(true, 3)]), [old("Accepted", "True")]);
    }

    #[test]
    fn conditions_of_others_keep_their_place_and_own_ones_that_no_longer_apply_are_removed() {
        let of_others = [old("example.com/A", "True"), old("Mine", "False"), old("Accepted", "True")];
        let merged = merged(&of_others, &[accepted(true, 3)]);
        assert_eq!(merged, [of_others[0].clone(), of_others[2].clone()]);
    }

    #[test]
    fn a_condition_of_a_newer_generation_is_kept() {
        assert_eq!(merged(&[old("Accepted", "True")], &[accepted(false, 2)]), [old("Accepted", "True")]);
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let long = NewCondition { message: "\u{fc}".repeat(MAX_MESSAGE), ..accepted(true, 1) };
        assert_eq!(merged(&[], &[long])[0]["message"].as_str().unwrap().len(), MAX_MESSAGE);
    }
}
