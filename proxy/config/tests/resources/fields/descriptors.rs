//! The descriptors of the xDS API, as the crate that generates its types has them: what fields there are is theirs to say.

use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use prost_reflect::DescriptorPool;

/// Every message of the API.
pub static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let bytes = std::fs::read(sources().join("src/generated/types.bin")).unwrap();
    DescriptorPool::decode(bytes.as_slice()).unwrap()
});

/// Where cargo has the sources of `envoy-types`, in the version that is linked.
fn sources() -> PathBuf {
    let told = run("rustc", &["-vV"]);
    let host = told.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    // Without the platform cargo asks for the sources of all others too.
    let metadata =
        run(env!("CARGO"), &["metadata", "--format-version=1", "--offline", "--filter-platform", host]);
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == "envoy-types").unwrap();
    let manifest = PathBuf::from(package["manifest_path"].as_str().unwrap());
    manifest.parent().unwrap().into()
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
