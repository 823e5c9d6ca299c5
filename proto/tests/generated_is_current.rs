//! The checked-in code was made from the checked-in .proto files.

use std::path::Path;

#[path = "../generator/src/fingerprint.rs"]
#[allow(unreachable_pub)]
mod fingerprint;

#[test]
fn the_generated_code_is_that_of_the_proto_files() {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR"));
    let expected = fingerprint::header(proto).unwrap();
    for source in fingerprint::SOURCES {
        let file = proto.join("src/generated").join(fingerprint::generated_name(source));
        let code = std::fs::read_to_string(&file).unwrap();
        assert_eq!(
            code.lines().next(),
            Some(expected.as_str()),
            "{} is stale: run `cargo run --manifest-path proto/generator/Cargo.toml`",
            file.display()
        );
    }
}
