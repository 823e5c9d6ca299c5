//! Tells the program which version of pingora is in its lock file.

fn main() {
    println!("cargo::rerun-if-changed=Cargo.lock");
    let lock = std::fs::read_to_string("Cargo.lock").expect("Cargo.lock");
    let rest = lock.split("name = \"pingora\"\nversion = \"").nth(1).expect("pingora in Cargo.lock");
    println!("cargo::rustc-env=PINGORA_VERSION={}", rest.split('"').next().unwrap_or_default());
}
