//! What the tests of the kinds share.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::model::diagnostic::Code;

use super::*;

/// Decodes YAML of one document.
pub(crate) fn read(yaml: &str) -> Vec<Decoded> {
    let options = serde_saphyr::options! { strict_booleans: true };
    decode(serde_saphyr::from_str_with_options(yaml, options).unwrap())
}

/// Checks that a resource is accepted with each of `accepted` in place of `@`, and refused with each of `refused`, at the path
/// and for a reason that contains the text.
pub(crate) fn check_table(template: &str, accepted: &[&str], refused: &[(&str, &str, &str)]) {
    for part in accepted {
        let decoded = read(&template.replace('@', part));
        let problems = decoded[0].problems();
        assert!(problems.is_empty(), "{part}: {problems:?}");
        assert!(
            is_valid(&template.replace('@', part)).is_none_or(|valid| valid),
            "the schema refuses {part}"
        );
    }
    for (part, path, reason) in refused {
        let decoded = read(&template.replace('@', part));
        let Some(error) = decoded[0].problems().first() else { panic!("accepted: {part}") };
        assert_eq!(error.field, *path, "{part}: {error}");
        assert!(error.message.contains(reason), "{part}: {error}");
        let by_structure = error.code == Code::UnknownField && !error.message.contains("annotation")
            || error.message.starts_with("invalid type")
            || error.message.starts_with("unknown value")
            || error.message.starts_with("is not an object");
        if by_structure {
            let valid = is_valid(&template.replace('@', part));
            assert!(valid.is_none_or(|valid| !valid), "the schema accepts {part}: {error}");
        }
    }
}

impl Decoded {
    /// Returns the errors; none if the resource is accepted or not handled.
    pub(crate) fn problems(&self) -> &[Problem] {
        if let Outcome::Refused(problems) = &self.outcome { problems } else { &[] }
    }

    /// Returns the resource.
    pub(crate) fn resource(&self) -> Option<&Arc<Resource>> {
        if let Outcome::Accepted(resource) = &self.outcome { Some(resource) } else { None }
    }
}

/// Validates YAML of one document with the schema of its kind, if it is one that the mesh reads.
fn is_valid(yaml: &str) -> Option<bool> {
    static SCHEMAS: LazyLock<BTreeMap<Kind, jsonschema::Validator>> = LazyLock::new(|| {
        Kind::all().map(|kind| (kind, jsonschema::draft7::new(&schema::schema(kind)).unwrap())).collect()
    });
    let options = serde_saphyr::options! { strict_booleans: true };
    let mut document: Value = serde_saphyr::from_str_with_options(yaml, options).unwrap();
    strict::drop_nulls(&mut document);
    Some(SCHEMAS[&Kind::of(&document).ok()??].is_valid(&document))
}
