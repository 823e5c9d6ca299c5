//! What the tests of the kinds share.

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
        let outcome = &read(&template.replace('@', part))[0].outcome;
        assert!(outcome.is_ok(), "{part}: {:?}", outcome.as_ref().unwrap_err());
    }
    for (part, path, reason) in refused {
        let decoded = read(&template.replace('@', part));
        let Err(errors) = &decoded[0].outcome else { panic!("accepted: {part}") };
        let error = &errors[0];
        assert_eq!(error.path, *path, "{part}: {error}");
        assert!(error.reason.contains(reason), "{part}: {error}");
    }
}
