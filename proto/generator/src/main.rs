//! Writes `proto/src/generated`: Rust from our own .proto files, without protoc, and the descriptors of the xDS messages.
//!
//! Run it after a change to a .proto file, and with a new version of `envoy-types`:
//! `cargo run --manifest-path proto/generator/Cargo.toml`. A test of outrigger-proto fails if what it writes is not current:
//! Rust files carry the fingerprint of their sources, descriptors are read again.

mod descriptors;
mod fingerprint;

use std::error::Error;
use std::fs;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let generated = proto.join("src/generated");

    tonic_prost_build::configure()
        .out_dir(&generated)
        .btree_map(".")
        .emit_rerun_if_changed(false)
        // Without this, prost maps the well-known types to prost-types before it looks at extern_path.
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::envoy_types::pb::google::protobuf")
        .compile_fds(protox::compile(fingerprint::SOURCES, [&proto])?)?;

    let header = fingerprint::header(&proto)?;
    for source in fingerprint::SOURCES {
        let name = fingerprint::generated_name(source);
        // prost writes a package segment that is a Rust keyword as a raw identifier.
        let written = generated.join(name.replace(".type.", ".r#type."));
        let code = fs::read_to_string(&written)?;
        fs::remove_file(&written)?;
        fs::write(generated.join(name), format!("{header}\n{code}"))?;
    }

    let descriptors = descriptors::read(&proto.join(".."))?;
    fs::write(generated.join("xds-descriptors.bin"), descriptors.set)?;
    fs::write(generated.join("xds-sensitive-fields.txt"), descriptors.sensitive_fields)?;
    Ok(())
}
