//! `outrigger-images build`: the images of the mesh.
//!
//! The binaries are static (glibc, `crt-static`), so that an image needs nothing beside its program. Two builds of the same source
//! with the same toolchain have the same digests, wherever the source and the target directory are.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use serde_json::Value;

use crate::archive::File;
use crate::image::Image;
use crate::pack::{read, write};
use crate::reference::full_name;

/// User and group of the daemons. Capture recognizes the traffic of the proxy by it.
const DAEMON: &str = "1500:1500";
/// User and group of the command line. Its sample services are applications, whose traffic is captured.
const NONROOT: &str = "65532:65532";
/// Maximum size of an archive in bytes.
const MAX_SIZE: u64 = 25 << 20;
/// The directory of the binaries.
const BIN: &str = "usr/local/bin";

/// An image of the mesh. Its first binary is the program that runs.
struct MeshImage {
    name: &'static str,
    title: &'static str,
    user: &'static str,
    binaries: &'static [&'static str],
}

const IMAGES: [MeshImage; 3] = [
    MeshImage {
        name: "proxy",
        title: "Outrigger, the sidecar proxy",
        user: DAEMON,
        binaries: &["outrigger-proxy"],
    },
    MeshImage {
        name: "control-plane",
        title: "Outrigger, the control plane",
        user: DAEMON,
        binaries: &["outrigger-control-plane"],
    },
    MeshImage { name: "cli", title: "Outrigger, the command line", user: NONROOT, binaries: &["outrigger"] },
];

/// Writes DIR/outrigger-{proxy,control-plane,cli}.tar and prints the digests.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  # The images of a release, and into the containerd of a node
  cargo run --release -p outrigger-images -- build --output target/images
  for image in target/images/*.tar; do ctr -n k8s.io images import $image; done")]
pub(crate) struct BuildArgs {
    /// Directory of the archives; created if it does not exist.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Profile of cargo to build with. The paths in a dev build are those of this machine, for debuggers.
    #[arg(long, value_name = "PROFILE", default_value = "release")]
    profile: String,
    /// Take static binaries from this directory instead of building them.
    #[arg(long, value_name = "DIR", conflicts_with = "profile")]
    binaries: Option<PathBuf>,
    /// Registry in the names of the images.
    #[arg(long, value_name = "REGISTRY", default_value = "docker.io")]
    image_registry: String,
    /// Tag of the images.
    #[arg(long, value_name = "TAG", default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,
}

/// Builds the binaries, unless they are given, and writes the images.
pub(crate) fn run(args: BuildArgs) -> Result<(), String> {
    let binaries = match &args.binaries {
        Some(directory) => binaries().map(|name| (name.to_owned(), directory.join(name))).collect(),
        None => build(&args.profile)?,
    };
    fs::create_dir_all(&args.output)
        .map_err(|error| format!("cannot create {}: {error}", args.output.display()))?;
    for MeshImage { name, title, user, binaries: files } in IMAGES {
        let labels = [
            ("title", title),
            ("description", "Part of Outrigger, a service mesh"),
            ("version", &args.tag),
            ("licenses", env!("CARGO_PKG_LICENSE")),
        ];
        let label =
            |(key, value): (&str, &str)| (format!("org.opencontainers.image.{key}"), value.to_owned());
        let mut image = Image {
            names: vec![full_name(&format!("{}/outrigger/{name}:{}", args.image_registry, args.tag))?],
            entrypoint: vec![format!("/{BIN}/{}", files[0])],
            user: user.into(),
            environment: vec![format!("PATH=/{BIN}")],
            labels: labels.map(label).into(),
            ..Image::default()
        };
        for file in files {
            let path = binaries.get(*file).ok_or_else(|| format!("cargo has not built {file}"))?;
            image.files.insert(format!("{BIN}/{file}"), stripped(path, &args.output)?);
        }
        let output = args.output.join(format!("outrigger-{name}.tar"));
        let size = write(&image, &output)?;
        if size > MAX_SIZE && args.binaries.is_none() && args.profile == "release" {
            return Err(format!("{}: more than {} MiB", output.display(), MAX_SIZE >> 20));
        }
    }
    Ok(())
}

fn binaries() -> impl Iterator<Item = &'static str> {
    IMAGES.into_iter().flat_map(|image| image.binaries).copied()
}

/// Builds all binaries and returns their paths by name.
fn build(profile: &str) -> Result<BTreeMap<String, PathBuf>, String> {
    let metadata = cargo(&["metadata", "--no-deps", "--format-version=1", "--locked"], "")?;
    let metadata: Value = serde_json::from_str(&metadata).map_err(|error| error.to_string())?;
    let directory =
        |name: &str| metadata[name].as_str().map(PathBuf::from).ok_or(format!("cargo: no {name}"));
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    if profile != "dev" {
        let home =
            env::var_os("CARGO_HOME").map(PathBuf::from).or(env::home_dir().map(|home| home.join(".cargo")));
        // The last prefix that fits counts, and the target directory may be in the workspace.
        let remapped = [
            (home, "/cargo"),
            (Some(directory("workspace_root")?), "/outrigger"),
            (Some(directory("target_directory")?), "/target"),
        ];
        let remap = |(from, to): (Option<PathBuf>, &str)| {
            from.map(|from| format!("--remap-path-prefix={}={to}", from.display()))
        };
        flags.extend(remapped.into_iter().filter_map(remap));
    }
    let target = format!("--target={}-unknown-linux-gnu", env::consts::ARCH);
    let profile = format!("--profile={profile}");
    let mut arguments =
        vec!["build", "--locked", "--message-format=json-render-diagnostics", &target, &profile];
    for name in binaries() {
        arguments.extend(["-p", name]);
    }
    let messages = cargo(&arguments, &flags.join("\u{1f}"))?;
    let artifact = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let path = message["executable"].as_str()?;
        Some((message["target"]["name"].as_str()?.to_owned(), path.into()))
    };
    Ok(messages.lines().filter_map(artifact).collect())
}

/// Runs cargo in the current directory and returns its output. `flags` are rustc's, separated as cargo wants them.
fn cargo(arguments: &[&str], flags: &str) -> Result<String, String> {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(program);
    cargo.args(arguments).env("CARGO_INCREMENTAL", "0").stderr(Stdio::inherit());
    if !flags.is_empty() {
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags);
    }
    let output = cargo.output().map_err(|error| format!("cannot run cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo {}: {}", arguments[0], output.status));
    }
    String::from_utf8(output.stdout).map_err(|error| error.to_string())
}

/// Reads a binary without its debug information, by way of a copy in `directory`. Its symbols stay, for the backtrace of a panic.
fn stripped(binary: &Path, directory: &Path) -> Result<File, String> {
    let copy = directory.join("stripped");
    let status = Command::new("strip").arg("--strip-debug").arg("-o").args([&copy, binary]).status();
    let status = status.map_err(|error| format!("cannot run strip (of binutils): {error}"))?;
    if !status.success() {
        return Err(format!("strip {}: {status}", binary.display()));
    }
    let file = read(&copy);
    fs::remove_file(&copy).map_err(|error| format!("cannot remove {}: {error}", copy.display()))?;
    file
}
