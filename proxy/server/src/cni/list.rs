//! The plugin's entry in a network configuration list (CNI specification, section 1).

use serde_json::{Value, json};

use super::plugin::POD_ANNOTATIONS;

/// The name of the plugin's program, which is its type.
pub(super) const PLUGIN: &str = "outrigger-cni";

/// Returns the list with the plugin at its end. Returns None if it is there already.
pub(super) fn with_plugin(list: &str) -> Result<Option<String>, String> {
    let own = json!({ "type": PLUGIN, "capabilities": { POD_ANNOTATIONS: true } });
    edited(list, |plugins| plugins.push(own))
}

/// Returns the list without the plugin. Returns None if it is not there.
pub(super) fn without_plugin(list: &str) -> Result<Option<String>, String> {
    edited(list, |_| ())
}

fn edited(list: &str, edit: impl FnOnce(&mut Vec<Value>)) -> Result<Option<String>, String> {
    let mut list: Value = serde_json::from_str(list).map_err(|error| format!("no JSON: {error}"))?;
    let plugins = list.get_mut("plugins").and_then(Value::as_array_mut).ok_or("no list of plugins")?;
    let before = plugins.clone();
    plugins.retain(|plugin| plugin["type"] != PLUGIN);
    edit(plugins);
    if *plugins == before {
        return Ok(None);
    }
    let text = serde_json::to_string_pretty(&list).map_err(|error| error.to_string())?;
    Ok(Some(text + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"name":"pods","plugins":[{"type":"bridge","x":1},{"type":"portmap"}]}"#;

    fn types(list: &str) -> Vec<String> {
        let list: Value = serde_json::from_str(list).unwrap();
        list["plugins"]
            .as_array()
            .unwrap()
            .iter()
            .map(|plugin| plugin["type"].as_str().unwrap().into())
            .collect()
    }

    #[test]
    fn the_plugin_is_added_once_and_removed_without_a_trace() {
        let added = with_plugin(LIST).unwrap().unwrap();
        assert_eq!(types(&added), ["bridge", "portmap", PLUGIN]);
        assert_eq!(with_plugin(&added), Ok(None));
        let removed = without_plugin(&added).unwrap().unwrap();
        let value = |text: &str| -> Value { serde_json::from_str(text).unwrap() };
        assert_eq!(value(&removed), value(LIST));
        assert_eq!(without_plugin(&removed), Ok(None));
    }

    #[test]
    fn a_plugin_that_another_one_follows_is_moved_to_the_end() {
        let list = format!(r#"{{"plugins":[{{"type":"{PLUGIN}"}},{{"type":"portmap"}}]}}"#);
        assert_eq!(types(&with_plugin(&list).unwrap().unwrap()), ["portmap", PLUGIN]);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in ["", "{}", r#"{"type":"bridge"}"#, r#"{"plugins":{}}"#] {
            assert!(with_plugin(text).is_err(), "{text}");
        }
    }
}
