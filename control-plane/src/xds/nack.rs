//! Reads a NACK's text: which resources of the response it rejects, and why.
//!
//! The protocol has one free text for a whole response. Our proxy names every rejected resource in quotation marks, then lists
//! each reason as `"name": reason`, as far as the text's limit allows. Envoy names resources without quotation marks.
//! A text that names nothing of the response, or may be incomplete, rejects all of it: a resource counts as
//! acknowledged only if the client certainly uses it.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use outrigger_core::Name;

/// Maximum size of the reason that is kept for a resource, in bytes.
const MAX_REASON: usize = 1024;
/// Maximum size of a text that is read, in bytes: an update has at most a thousand names.
const MAX_TEXT: usize = 1 << 20;
/// The same for a text that does not quote names, which is searched once for each of them.
const MAX_FREE_TEXT: usize = 64 * 1024;
/// How Envoy ends a text that it has cut at 4096 bytes (`truncateGrpcStatusMessage`).
const TRUNCATED: &str = "...(truncated)";
/// Replaces the omitted middle of a reason.
const OMISSION: &str = " [...] ";

/// Returns the rejected ones of `names` with their reasons.
pub(super) fn rejected(text: &str, names: &[&Name]) -> HashMap<Name, Arc<str>> {
    let parts: Vec<_> = if text.len() > MAX_TEXT { Vec::new() } else { text.split('"').collect() };
    let quoted: HashSet<_> = parts.iter().copied().collect();
    let listed: HashSet<&str> =
        names.iter().map(|name| name.as_ref()).filter(|name| quoted.contains(name)).collect();
    if !listed.is_empty() {
        return with_own_reasons(text, &parts, &listed);
    }
    let complete = text.len() <= MAX_FREE_TEXT && !text.ends_with(TRUNCATED);
    let named: Vec<_> = names.iter().filter(|name| complete && mentions(text, name)).collect();
    let rejected = if named.is_empty() { names.iter().collect() } else { named };
    let reason: Arc<str> = shorten(text).into();
    rejected.into_iter().map(|name| ((*name).clone(), Arc::clone(&reason))).collect()
}

/// Assigns each listed name the text between `"name": ` and the next listed name. `parts` is `text` split at quotation marks.
fn with_own_reasons(text: &str, parts: &[&str], listed: &HashSet<&str>) -> HashMap<Name, Arc<str>> {
    let mut starts = Vec::new();
    let mut end = 0;
    for pair in parts.windows(2) {
        end += pair[0].len() + 1;
        if listed.contains(pair[0]) && pair[1].starts_with(": ") {
            starts.push((pair[0], end));
        }
    }
    let mut reasons = HashMap::new();
    for (index, (name, start)) in starts.iter().enumerate() {
        let own = match starts.get(index + 1) {
            // A separator and the kind of resource precede the next name.
            Some((next, at)) => {
                let until = &text[*start..at - next.len() - 2];
                until.rsplit_once("; ").map_or(until, |(reason, _)| reason)
            }
            None => &text[*start..],
        };
        let own = own.trim_start_matches(':').trim();
        if !own.is_empty() {
            reasons.entry(Name::from(*name)).or_insert_with(|| shorten(own).into());
        }
    }
    // A text without any such reason is one statement about all of them.
    let other: Arc<str> = match reasons.is_empty() {
        true => shorten(text).into(),
        false => "the client's text was too long for the reason".into(),
    };
    for name in listed {
        reasons.entry(Name::from(*name)).or_insert_with(|| Arc::clone(&other));
    }
    reasons
}

/// Returns true if the text names the resource, and not merely one of which its name is a part (`cart:8` in `cart:80`).
fn mentions(text: &str, name: &str) -> bool {
    let part = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || b"._-|@/".contains(b));
    let bytes = text.as_bytes();
    text.match_indices(name).any(|(at, _)| {
        let before = at.checked_sub(1).and_then(|at| bytes.get(at));
        let after = bytes.get(at + name.len());
        // A full stop or a colon may end the sentence; what follows it then is no part of a name.
        let ends = matches!(after, Some(b'.' | b':')) && !part(bytes.get(at + name.len() + 1));
        !part(before) && (ends || !(part(after) || after == Some(&b':')))
    })
}

/// Omits the middle of a long text: Envoy names the resource first and the reason last.
pub(super) fn shorten(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_REASON {
        return text.into();
    }
    let head = text.floor_char_boundary(MAX_REASON / 3);
    let tail = text.ceil_char_boundary(text.len() - (MAX_REASON - head - OMISSION.len()));
    [&text[..head], OMISSION, &text[tail..]].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(text: &str, names: &[&str]) -> Vec<(String, String)> {
        let names: Vec<Name> = names.iter().map(|name| Name::from(*name)).collect();
        let rejected = rejected(text, &names.iter().collect::<Vec<_>>());
        let mut all: Vec<_> =
            rejected.into_iter().map(|(name, reason)| (name.to_string(), reason.to_string())).collect();
        all.sort();
        all
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, reason)| ((*name).into(), (*reason).into())).collect()
    }

    #[test]
    fn each_rejected_resource_has_its_own_reason() {
        let expected = pairs(&[("a:80", "field \"name\": empty; or so"), ("b", "unknown field")]);
        for text in [
            r#"clusters rejected: "a:80", "b"; cluster "a:80": field "name": empty; or so; cluster "b": unknown field"#,
            r#"cluster "a:80": field "name": empty; or so; cluster "b": unknown field"#,
            r#""a:80", "b": "a:80": field "name": empty; or so; "b": unknown field"#,
        ] {
            assert_eq!(reasons(text, &["a:80", "b", "name:80", "a"]), expected, "{text}");
        }
    }

    #[test]
    fn every_rejected_resource_counts_though_its_reason_was_cut_off() {
        let names: Vec<_> = (0..1_000).map(|n| format!("service-{n}.shop.svc.cluster.local:80")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let list: Vec<_> = names[1..].iter().map(|name| format!("{name:?}")).collect();
        let text = format!("{}; {}: no such filter; {}: no", list.join(", "), list[0], list[1]);
        let rejected = reasons(&text, &names);
        assert_eq!(rejected.len(), 999);
        assert_eq!(rejected[0], (names[1].into(), "no such filter".into()));
        assert!(rejected.iter().all(|(name, _)| name != names[0]), "this one was accepted");
        assert!(rejected.iter().filter(|(_, reason)| reason.contains("too long")).count() == 997);
    }

    #[test]
    fn a_free_text_rejects_what_it_names_and_everything_if_it_names_nothing_or_is_cut() {
        let envoy = "Error adding/updating cluster(s) web:1: no endpoints";
        assert_eq!(reasons(envoy, &["web:1", "cart:80"]), pairs(&[("web:1", envoy)]));
        assert_eq!(reasons("no memory", &["a", "bb"]), pairs(&[("a", "no memory"), ("bb", "no memory")]));
        let cut = format!("{envoy}, other: {}...(truncated)", "x".repeat(4096));
        assert_eq!(reasons(&cut, &["web:1", "cart:80"]).len(), 2);
        for long in ["web:1 ".repeat(MAX_FREE_TEXT), "\"web:1\" ".repeat(MAX_TEXT)] {
            assert_eq!(reasons(&long, &["web:1", "cart:80"]).len(), 2);
        }
    }

    #[test]
    fn both_ends_of_a_long_text_are_kept() {
        let long = format!("Error adding cluster cart: {}: unknown field", "x".repeat(5_000));
        let kept = shorten(&long);
        assert!(
            kept.starts_with("Error adding cluster cart: ") && kept.ends_with(": unknown field"),
            "{kept}"
        );
        assert_eq!(kept.len(), MAX_REASON);
        assert_eq!(shorten(&"x".repeat(MAX_REASON)).len(), MAX_REASON);
        for text in ["\u{fc}".repeat(2_000), format!("x{}", "\u{20ac}".repeat(2_000))] {
            let kept = shorten(&text);
            assert!(kept.len() <= MAX_REASON && kept.len() > MAX_REASON - 8, "{}", kept.len());
        }
    }

    #[test]
    fn a_text_names_whole_resources_only() {
        let text = "cluster cart.shop:80: bad; also web:1.";
        assert!(mentions(text, "cart.shop:80") && mentions(text, "web:1"));
        for other in ["cart.shop:8", "art.shop:80", "shop:80", "cart.shop", "web"] {
            assert!(!mentions(text, other), "{other}");
        }
    }
}
