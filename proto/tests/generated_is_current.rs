//! The checked-in code was made from the checked-in .proto files, and the descriptors from those of `envoy-types`.

use std::path::Path;

#[path = "../generator/src/fingerprint.rs"]
#[allow(unreachable_pub)]
mod fingerprint;
#[path = "../generator/src/descriptors.rs"]
#[allow(unreachable_pub)]
mod descriptors;

const REGENERATE: &str = "run `cargo run --manifest-path proto/generator/Cargo.toml`";

#[test]
fn the_generated_code_is_that_of_the_proto_files() {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR"));
    let expected = fingerprint::header(proto).unwrap();
    for source in fingerprint::SOURCES {
        let file = proto.join("src/generated").join(fingerprint::generated_name(source));
        let code = std::fs::read_to_string(&file).unwrap();
        assert_eq!(code.lines().next(), Some(expected.as_str()), "{} is stale: {REGENERATE}", file.display());
    }
}

#[test]
fn the_descriptors_are_those_of_the_linked_xds_api() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let current = descriptors::read(&workspace).unwrap();
    assert_eq!(outrigger_proto::XDS_SENSITIVE_FIELDS, current.sensitive_fields, "stale: {REGENERATE}");
    assert!(outrigger_proto::XDS_DESCRIPTORS == current.set, "xds-descriptors.bin is stale: {REGENERATE}");
}
