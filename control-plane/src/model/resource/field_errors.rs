//! Collects every error of a refused resource, so that a file need not be checked again after each fix.
//!
//! Decoding stops at the first error. The field in error is removed from a copy of the document, and the copy is decoded again.
//! A removed field may cause an error of its own, which is not the author's: it is not reported, and the enclosing value is
//! removed too. So an error beside another may be reported only after a fix, but none is invented.

use std::fmt;

use serde_json::{Map, Value};

use super::service::PREFERENCES;
use crate::model::diagnostic::{Code, Problem};

/// The maximum number of errors reported for one resource.
const MAX_ERRORS: usize = 16;
/// The maximum number of unknown fields of an object. Each is found by decoding the object once more.
const MAX_IGNORED: usize = 64;

/// Returns all errors of a document in which `read` found `first`.
pub(super) fn all<T>(
    first: Problem,
    mut document: Value,
    read: impl Fn(Value) -> Result<T, Problem>,
) -> Vec<Problem> {
    let (mut errors, mut removed) = (Vec::new(), None::<Path>);
    let mut next = Some(first);
    while let Some(error) = next {
        let path = Path::resolve(&document, &error.field);
        let target = match removed.take().filter(|removed| removed.steps.starts_with(&path.steps)) {
            Some(removed) => removed.parent(),
            None => {
                errors.push(error);
                path
            }
        };
        removed = target.remove(&mut document);
        if removed.is_none() || errors.len() == MAX_ERRORS {
            break;
        }
        next = read(document.clone()).err();
    }
    errors
}

/// Reads a document without its unknown fields, and without those that may be ignored. Returns the errors about them too.
pub(super) fn read_leniently<T>(
    mut document: Value,
    read: impl Fn(Value) -> Result<T, Problem>,
) -> (Result<T, (Problem, Value)>, Vec<Problem>) {
    let mut ignored = Vec::new();
    loop {
        match read(document.clone()) {
            Ok(value) => return (Ok(value), ignored),
            Err(error) if is_ignorable(&error) && ignored.len() < MAX_IGNORED => {
                let path = Path::resolve(&document, &error.field);
                // A known field that contains the unknown one is not removed.
                if path.to_string() != error.field || !path.remove_field(&mut document) {
                    return (Err((error, document)), ignored);
                }
                ignored.push(error);
            }
            Err(error) => return (Err((error, document)), ignored),
        }
    }
}

fn is_ignorable(error: &Problem) -> bool {
    error.code == Code::UnknownField
        || (error.code == Code::UnsupportedField && PREFERENCES.contains(&error.field.as_str()))
}

/// The path of a value that exists in a document.
#[derive(Debug, Clone, PartialEq)]
struct Path {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Item(usize),
}

impl Path {
    /// Parses `spec.rules[0].matches` as far as it exists in the document. The names of fields may contain dots.
    fn resolve(mut document: &Value, text: &str) -> Self {
        let (mut steps, mut rest) = (Vec::new(), text);
        while !rest.is_empty() {
            let step = match document {
                Value::Object(fields) => field(fields, rest),
                Value::Array(items) => item(items, rest),
                _ => None,
            };
            let Some((step, value, after)) = step else { break };
            steps.push(step);
            (document, rest) = (value, after.strip_prefix('.').unwrap_or(after));
        }
        Self { steps }
    }

    /// Removes this field. Returns false if the path is not that of a field.
    fn remove_field(&self, document: &mut Value) -> bool {
        let [inner @ .., Step::Field(name)] = self.steps.as_slice() else { return false };
        let parent = inner.iter().try_fold(document, |value, step| step.of(value));
        parent.and_then(Value::as_object_mut).is_some_and(|fields| fields.remove(name).is_some())
    }

    fn parent(mut self) -> Self {
        self.steps.pop();
        self
    }

    /// Removes the value at this path. An item of a list is emptied instead, so that the others keep their indexes; if it cannot
    /// be emptied, its list is removed. Returns the path of what was removed, or None if only a whole `metadata` or `spec` is
    /// left to remove.
    fn remove(mut self, document: &mut Value) -> Option<Self> {
        while let [inner @ .., last] = self.steps.as_slice() {
            let value = inner.iter().try_fold(&mut *document, |value, step| step.of(value))?;
            match last {
                Step::Field(_) if inner.is_empty() => return None,
                Step::Field(name) => {
                    value.as_object_mut()?.remove(name);
                    return Some(self);
                }
                Step::Item(at) => match value.get_mut(at) {
                    Some(Value::Object(fields)) if !fields.is_empty() => {
                        fields.clear();
                        return Some(self);
                    }
                    _ => {}
                },
            }
            self.steps.pop();
        }
        None
    }
}

impl Step {
    fn of<'v>(&self, value: &'v mut Value) -> Option<&'v mut Value> {
        match self {
            Self::Field(name) => value.get_mut(name),
            Self::Item(at) => value.get_mut(at),
        }
    }
}

/// `spec.rules[0].matches`
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.steps.iter().enumerate() {
            match step {
                Step::Field(name) if at == 0 => write!(f, "{name}")?,
                Step::Field(name) => write!(f, ".{name}")?,
                Step::Item(number) => write!(f, "[{number}]")?,
            }
        }
        Ok(())
    }
}

fn field<'v, 't>(fields: &'v Map<String, Value>, text: &'t str) -> Option<(Step, &'v Value, &'t str)> {
    let whole = |after: &str| after.is_empty() || after.starts_with(['.', '[']);
    let found = fields.iter().filter_map(|(name, value)| {
        let after = text.strip_prefix(name.as_str()).filter(|after| whole(after))?;
        Some((Step::Field(name.clone()), value, after))
    });
    found.min_by_key(|(_, _, after)| after.len())
}

fn item<'v, 't>(items: &'v [Value], text: &'t str) -> Option<(Step, &'v Value, &'t str)> {
    let (number, after) = text.strip_prefix('[')?.split_once(']')?;
    let at = number.parse().ok()?;
    Some((Step::Item(at), items.get(at)?, after))
}

#[cfg(test)]
mod tests {
    use super::super::testing::read;

    fn paths(spec: &str) -> Vec<String> {
        let route = format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: a}}, spec: {spec}}}"
        );
        let decoded = read(&route).remove(0);
        decoded.problems().iter().cloned().map(|error| error.field).collect()
    }

    #[test]
    fn every_error_of_a_route_is_reported_at_once() {
        let spec = "{parentRefs: [{name: b, prot: 80}], hostnames: [A], rules: [
            {matches: [{path: {valeu: /a}}, {path: {type: RegularExpression, value: '('}, method: get}]},
            {timeouts: {request: 1.5s}, backendRefs: [{name: b, port: 1}]},
            {filters: [{type: RequestRedirect, requestRedirect: {statusCode: 300, scheme: ftp}}]}]}";
        let mut paths = paths(spec);
        paths.sort();
        assert_eq!(
            paths,
            [
                "spec.hostnames[0]",
                "spec.parentRefs[0].prot",
                "spec.rules[0].matches[0].path.valeu",
                "spec.rules[0].matches[1].method",
                "spec.rules[0].matches[1].path.value",
                "spec.rules[1].timeouts.request",
                "spec.rules[2].filters[0].requestRedirect.scheme",
                "spec.rules[2].filters[0].requestRedirect.statusCode",
            ]
        );
    }

    #[test]
    fn consequential_errors_are_not_reported() {
        let [port, kind, name] =
            ["[{name: b, port: x}]", "[{name: b, port: 1, kind: 1b}]", "[{name: '', port: 1}]"].map(|refs| {
                let rule = format!("{{backendRefs: {refs}, timeouts: {{request: soon}}}}");
                paths(&format!("{{rules: [{rule}]}}"))
            });
        for (paths, field) in [(port, "port"), (kind, "kind"), (name, "name")] {
            let expected =
                [format!("spec.rules[0].backendRefs[0].{field}"), "spec.rules[0].timeouts.request".into()];
            assert_eq!(paths, expected);
        }
    }

    #[test]
    fn the_number_of_errors_is_bounded() {
        let fields: Vec<_> = (0..100).map(|number| format!("x{number}: 1")).collect();
        assert_eq!(paths(&format!("{{{}}}", fields.join(", "))).len(), super::MAX_ERRORS);
    }
}
