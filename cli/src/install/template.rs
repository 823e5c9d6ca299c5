//! The part of Helm's template language that the chart uses: `{{ .Values.name }}`. Anything else is an error.

use serde_json::Value;

/// Returns the template with its values. Returns an error if it has an action that is not a known value.
pub(super) fn render(template: &str, values: &[(&'static str, String)]) -> Result<String, String> {
    let mut parts = template.split("{{");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let unknown =
            || format!("the chart has an unknown action: {{{{{}", part.lines().next().unwrap_or_default());
        let (action, rest) = part.split_once("}}").ok_or_else(unknown)?;
        let name = action.trim().strip_prefix(".Values.").ok_or_else(unknown)?;
        let (_, value) = values.iter().find(|(known, _)| *known == name).ok_or_else(unknown)?;
        text.push_str(value);
        text.push_str(rest);
    }
    Ok(text)
}

/// Returns the objects of a template, whose values do not matter.
pub(super) fn objects(template: &str) -> Result<Vec<Value>, String> {
    let text = template.replace("{{", "").replace("}}", "");
    serde_saphyr::from_multiple(&text).map_err(|error| error.to_string())
}
