//! The part of Helm's template language that the chart uses: `{{ .Values.name }}`, and blocks of lines from
//! `{{ if .Values.name }}` to `{{ end }}`, which are not nested. Anything else is an error.

use serde_json::Value;

/// Returns the template with its values. Returns an error if it has an action that is not known.
pub(super) fn render<'v>(
    template: &str,
    value_of: &dyn Fn(&str) -> Option<&'v str>,
) -> Result<String, String> {
    let (mut text, mut shown, mut in_block) = (String::new(), true, false);
    for line in template.split_inclusive('\n') {
        let unknown = || format!("the chart has an unknown action: {}", line.trim());
        let value = |name: &str| name.trim().strip_prefix(".Values.").and_then(value_of).ok_or_else(unknown);
        let block = line.trim().strip_prefix("{{").and_then(|action| action.strip_suffix("}}"));
        if let Some(condition) = block.and_then(|action| action.trim().strip_prefix("if ")) {
            if in_block {
                return Err(unknown());
            }
            (shown, in_block) = (value(condition)? == "true", true);
        } else if in_block && block.is_some_and(|action| action.trim() == "end") {
            (shown, in_block) = (true, false);
        } else if shown {
            let mut parts = line.split("{{");
            text.push_str(parts.next().unwrap_or_default());
            for part in parts {
                let (action, rest) = part.split_once("}}").ok_or_else(unknown)?;
                text.push_str(value(action)?);
                text.push_str(rest);
            }
        }
    }
    if in_block { Err("the chart has a block without an end".to_owned()) } else { Ok(text) }
}

/// Returns the objects of a template, with those that are optional. The values do not matter.
pub(super) fn objects(template: &str) -> Result<Vec<Value>, String> {
    let text = render(template, &|_| Some("true"))?;
    serde_saphyr::from_multiple(&text).map_err(|error| error.to_string())
}
