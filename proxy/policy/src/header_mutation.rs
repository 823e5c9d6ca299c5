//! Headers added to, set in and removed from requests and responses
//! (`request_headers_to_add`, `..._to_remove` and the same for responses, on routes, hosts, tables and backends).
//!
//! Compiled to a list of steps in Envoy's order: at each level, removals first, then additions.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use outrigger_proto::xds::core;

use crate::field::{Unusable, each, required};

/// Changes to a message's headers, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderMutation {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Remove(HeaderName),
    Append(HeaderName, HeaderValue),
    AddIfAbsent(HeaderName, HeaderValue),
    Set(HeaderName, HeaderValue),
    SetIfPresent(HeaderName, HeaderValue),
}

impl HeaderMutation {
    /// Decodes the two lists of one level. `subject` (`request` or `response`) is part of the fields' names.
    ///
    /// Returns an error for pseudo-headers and `Host`, which only rewrites may change, as in Envoy, and for the fields that frame
    /// a message or belong to one connection, because changing them would allow request smuggling.
    pub fn decode(
        subject: &str,
        to_add: Vec<core::HeaderValueOption>,
        to_remove: Vec<String>,
    ) -> Result<Self, Unusable> {
        let removals = each(&format!("{subject}_headers_to_remove"), to_remove, |name| {
            Ok(Some(Step::Remove(mutable_name("", &name)?)))
        })?;
        let additions = each(&format!("{subject}_headers_to_add"), to_add, addition)?;
        Ok(Self { steps: removals.into_iter().chain(additions).flatten().collect() })
    }

    /// Decodes a list of additions, which is the field `field`.
    pub(crate) fn decode_list(field: &str, wire: Vec<core::HeaderValueOption>) -> Result<Self, Unusable> {
        Ok(Self { steps: each(field, wire, addition)?.into_iter().flatten().collect() })
    }

    /// Adds a step that removes a field.
    pub fn remove(&mut self, name: HeaderName) {
        self.steps.push(Step::Remove(name));
    }

    /// Adds a step that adds a line to a field.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.steps.push(Step::Append(name, value));
    }

    /// Adds a step that replaces a field.
    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.steps.push(Step::Set(name, value));
    }

    /// Adds a step that sets a field where it is absent (`present` is false), or replaces it where it is present.
    pub fn set_if(&mut self, present: bool, name: HeaderName, value: HeaderValue) {
        let step = if present { Step::SetIfPresent } else { Step::AddIfAbsent };
        self.steps.push(step(name, value));
    }

    /// Appends the steps of `outer`.
    #[must_use]
    pub fn then(mut self, outer: &Self) -> Self {
        self.steps.extend(outer.steps.iter().cloned());
        self
    }

    /// Returns whether there are no changes.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Applies the changes to `headers`.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for step in &self.steps {
            match step {
                Step::Remove(name) => drop(headers.remove(name)),
                Step::Append(name, value) => drop(headers.append(name, value.clone())),
                Step::AddIfAbsent(name, value) => {
                    headers.entry(name).or_insert_with(|| value.clone());
                }
                Step::Set(name, value) => drop(headers.insert(name, value.clone())),
                Step::SetIfPresent(name, value) => {
                    if headers.contains_key(name) {
                        headers.insert(name, value.clone());
                    }
                }
            }
        }
    }
}

fn addition(wire: core::HeaderValueOption) -> Result<Option<Step>, Unusable> {
    use outrigger_proto::xds::core::header_value_option::HeaderAppendAction as Action;
    #[allow(deprecated)] // `append` is the older form of `append_action`, and still sent
    let core::HeaderValueOption { header, append, append_action, keep_empty_value } = wire;
    let core::HeaderValue { key, value, raw_value } = required("header", header)?;
    let name = mutable_name("header.key", &key)?;
    let value = match (value.is_empty(), raw_value.is_empty()) {
        (_, true) => literal("header.value", &value)?.into_bytes(),
        (true, false) => raw_value,
        (false, false) => return Err(Unusable::new("header.raw_value", "is set beside header.value")),
    };
    let value = without_outer_whitespace(&value);
    if value.is_empty() && !keep_empty_value {
        return Ok(None);
    }
    let value = HeaderValue::from_bytes(value)
        .map_err(|_| Unusable::new("header.value", "holds a character that no header may have"))?;
    let action = Action::try_from(append_action).map_err(|_| Unusable::new("append_action", "is unknown"))?;
    let action = match (append, action) {
        (None, action) => action,
        (Some(append), Action::AppendIfExistsOrAdd) if append.value => Action::AppendIfExistsOrAdd,
        (Some(_), Action::AppendIfExistsOrAdd) => Action::OverwriteIfExistsOrAdd,
        (Some(_), _) => return Err(Unusable::new("append", "is set beside append_action")),
    };
    Ok(Some(match action {
        Action::AppendIfExistsOrAdd => Step::Append(name, value),
        Action::AddIfAbsent => Step::AddIfAbsent(name, value),
        Action::OverwriteIfExistsOrAdd => Step::Set(name, value),
        Action::OverwriteIfExists => Step::SetIfPresent(name, value),
    }))
}

/// Whitespace around a value is not part of it (RFC 9110 section 5.5), and malformed in HTTP/2 (RFC 9113 section 8.2.1).
fn without_outer_whitespace(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Unescapes `%%`. Returns an error for a single percent sign, which begins a substitution command (`%REQ(x)%`).
pub(crate) fn literal(field: &str, text: &str) -> Result<String, Unusable> {
    let without_escapes = text.replace("%%", "");
    if without_escapes.contains('%') {
        return Err(Unusable::new(field, "holds a substitution command, which is not supported"));
    }
    Ok(text.replace("%%", "%"))
}

const NOT_MUTABLE: [HeaderName; 6] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TRAILER,
];

/// Returns the name of a field, or an error if no policy may change it.
pub(crate) fn mutable_name(field: &str, name: &str) -> Result<HeaderName, Unusable> {
    if name.starts_with(':') {
        return Err(Unusable::new(
            field,
            format_args!("{name:?} is a pseudo-header, which only a rewrite may change"),
        ));
    }
    let name = HeaderName::try_from(name)
        .map_err(|_| Unusable::new(field, format_args!("{name:?} is no header name")))?;
    let per_connection = matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings");
    if per_connection || NOT_MUTABLE.contains(&name) {
        return Err(Unusable::new(field, format_args!("{name:?} may not be changed by a header modifier")));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use outrigger_proto::xds::core::header_value_option::HeaderAppendAction as Action;
    use outrigger_proto::xds::protobuf;

    use super::*;

    fn add(key: &str, value: &str, action: Action) -> core::HeaderValueOption {
        let header = core::HeaderValue { key: key.into(), value: value.into(), raw_value: vec![] };
        core::HeaderValueOption { header: Some(header), append_action: action.into(), ..Default::default() }
    }

    fn apply(to_add: Vec<core::HeaderValueOption>, to_remove: &[&str]) -> Vec<String> {
        let to_remove = to_remove.iter().map(|name| name.to_string()).collect();
        let mutation = HeaderMutation::decode("request", to_add, to_remove).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("x-a", HeaderValue::from_static("1"));
        mutation.apply(&mut headers);
        let mut lines: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    #[test]
    fn each_append_action_does_what_it_says() {
        assert_eq!(apply(vec![add("x-a", "2", Action::AppendIfExistsOrAdd)], &[]), ["x-a=1", "x-a=2"]);
        assert_eq!(apply(vec![add("x-a", "2", Action::AddIfAbsent)], &[]), ["x-a=1"]);
        assert_eq!(apply(vec![add("x-a", "2", Action::OverwriteIfExistsOrAdd)], &[]), ["x-a=2"]);
        assert_eq!(apply(vec![add("x-b", "2", Action::OverwriteIfExists)], &[]), ["x-a=1"]);
    }

    #[test]
    fn removals_come_before_additions() {
        assert_eq!(apply(vec![add("x-a", "2", Action::AddIfAbsent)], &["x-a"]), ["x-a=2"]);
    }

    #[test]
    fn the_older_append_flag_still_counts() {
        let mut set = add("x-a", "2", Action::AppendIfExistsOrAdd);
        #[allow(deprecated)]
        {
            set.append = Some(protobuf::BoolValue { value: false });
        }
        assert_eq!(apply(vec![set], &[]), ["x-a=2"]);
    }

    #[test]
    fn an_empty_value_is_added_only_on_request() {
        let mut empty = add("x-b", "", Action::AddIfAbsent);
        assert_eq!(apply(vec![empty.clone()], &[]), ["x-a=1"]);
        empty.keep_empty_value = true;
        assert_eq!(apply(vec![empty], &[]), ["x-a=1", "x-b="]);
    }

    #[test]
    fn whitespace_around_a_value_is_not_part_of_it() {
        assert_eq!(
            apply(vec![add("x-b", "\t two words ", Action::AddIfAbsent)], &[]),
            ["x-a=1", "x-b=two words"]
        );
        assert_eq!(apply(vec![add("x-b", " ", Action::AddIfAbsent)], &[]), ["x-a=1"]);
    }

    #[test]
    fn a_doubled_percent_sign_is_one() {
        assert_eq!(apply(vec![add("x-b", "100%%", Action::AddIfAbsent)], &[]), ["x-a=1", "x-b=100%"]);
    }

    #[test]
    fn what_would_break_the_message_is_refused_by_name() {
        for (key, value, problem) in [
            (":path", "/", "pseudo-header"),
            ("Host", "x", "may not be changed"),
            ("content-length", "1", "may not be changed"),
            ("Transfer-Encoding", "chunked", "may not be changed"),
            ("a b", "x", "no header name"),
            ("x", "a\r\nb: c", "no header may have"),
            ("x", "%REQ(a)%", "substitution command"),
        ] {
            let wire = vec![add("x-ok", "1", Action::AddIfAbsent), add(key, value, Action::AddIfAbsent)];
            let bad = HeaderMutation::decode("request", wire, vec![]).unwrap_err();
            assert!(bad.field.starts_with("request_headers_to_add[1].header."), "{bad}");
            assert!(bad.problem.contains(problem), "{bad}");
        }
        let bad = HeaderMutation::decode("response", vec![], vec!["connection".into()]).unwrap_err();
        assert_eq!(bad.field, "response_headers_to_remove[0]");
    }
}
