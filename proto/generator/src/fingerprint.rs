//! What the generated code was made from, as a header line: the generators' versions and a SHA-256 over every
//! .proto file. Shared by the generator, which writes it, and by the test that recomputes it.

use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};

/// Our .proto files, relative to `proto/`; each is in the folder of its package.
pub const SOURCES: [&str; 3] = [
    "istio/v1/auth/ca.proto",
    "outrigger/demo/v1/payments.proto",
    "outrigger/registration/v1/registration.proto",
];

/// Raised by hand when the settings of the generator change.
const GENERATOR: &str = "tonic-prost-build 0.14, revision 1";

/// The first line of every generated file. Fails when a .proto file cannot be read.
pub fn header(proto: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    for source in SOURCES {
        hash.update(source.as_bytes());
        hash.update([0]);
        hash.update(std::fs::read(proto.join(source))?);
        hash.update([0]);
    }
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("// Made by proto/generator ({GENERATOR}) from sources with SHA-256 {digest}. Do not edit."))
}

/// The file that prost writes for a source: its package, which is its folder with dots.
pub fn generated_name(source: &str) -> String {
    let folder = source.rsplit_once('/').map_or("", |(folder, _)| folder);
    format!("{}.rs", folder.replace('/', "."))
}
