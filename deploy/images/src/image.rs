//! An image of one layer, as an OCI archive (OCI Image Format Specification 1.1).
//!
//! The archive is what `ctr images import`, `podman load`, `skopeo copy` and `kind load image-archive` read; it also has the
//! `manifest.json` that `docker load` reads. Its bytes depend on the image alone.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::archive::{File, Files, tar};
use crate::reference::tag;

/// Reproducible images are created at the epoch.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// What an image consists of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Image {
    /// Its full names: one image may have several.
    pub(crate) names: Vec<String>,
    /// The files of its only layer.
    pub(crate) files: Files,
    /// The program that runs, and its first arguments.
    pub(crate) entrypoint: Vec<String>,
    /// The arguments that a container replaces.
    pub(crate) command: Vec<String>,
    /// `UID:GID`; root if it is empty.
    pub(crate) user: String,
    /// `NAME=VALUE`.
    pub(crate) environment: Vec<String>,
    /// Labels of the image, which are also the annotations of its manifest.
    pub(crate) labels: BTreeMap<String, String>,
}

/// An image that was written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// The digest of its manifest, by which registries and runtimes know it.
    pub(crate) digest: String,
    /// The size of the archive in bytes.
    pub(crate) size: u64,
}

impl Image {
    /// Writes the archive to `output`, and replaces a file that is there.
    pub(crate) fn write(&self, output: &Path) -> io::Result<Written> {
        let (archive, digest) = self.archive()?;
        fs::write(output, &archive)?;
        Ok(Written { digest, size: archive.len() as u64 })
    }

    /// Returns the archive, and the digest of the manifest.
    fn archive(&self) -> io::Result<(Vec<u8>, String)> {
        let layer = tar(&self.files)?;
        let diff_id = sha256(&layer);
        let mut compressed = GzEncoder::new(Vec::new(), Compression::default());
        compressed.write_all(&layer)?;
        let mut blobs = Blobs::default();
        let layer = blobs.add("application/vnd.oci.image.layer.v1.tar+gzip", compressed.finish()?);
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "created": CREATED,
            "config": {
                "User": self.user,
                "Env": self.environment,
                "Entrypoint": self.entrypoint,
                "Cmd": self.command,
                "Labels": self.labels,
            },
            "rootfs": { "type": "layers", "diff_ids": [diff_id] },
            "history": [{ "created": CREATED, "created_by": "outrigger-images" }],
        });
        let config = blobs.add("application/vnd.oci.image.config.v1+json", bytes(&config));
        let docker = json!([{
            "Config": path_of(&config),
            "RepoTags": self.names,
            "Layers": [path_of(&layer)],
        }]);
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": config,
            "layers": [layer],
            "annotations": self.labels,
        });
        let manifest = blobs.add(manifest_type, bytes(&manifest));
        let digest = manifest["digest"].as_str().unwrap_or_default().to_owned();
        let named = |name: &String| {
            let mut manifest = manifest.clone();
            manifest["platform"] = json!({ "architecture": architecture(), "os": "linux" });
            manifest["annotations"] = json!({
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": tag(name),
            });
            manifest
        };
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": self.names.iter().map(named).collect::<Vec<_>>(),
        });
        let mut files = blobs.0;
        files.insert("index.json".into(), plain(bytes(&index)));
        files.insert("manifest.json".into(), plain(bytes(&docker)));
        files.insert("oci-layout".into(), plain(bytes(&json!({ "imageLayoutVersion": "1.0.0" }))));
        Ok((tar(&files)?, digest))
    }
}

/// The blobs of an archive, by their paths.
#[derive(Default)]
struct Blobs(Files);

impl Blobs {
    /// Adds a blob and returns its descriptor.
    fn add(&mut self, media_type: &str, contents: Vec<u8>) -> Value {
        let descriptor =
            json!({ "mediaType": media_type, "digest": sha256(&contents), "size": contents.len() });
        self.0.insert(path_of(&descriptor), plain(contents));
        descriptor
    }
}

/// Returns the path of the blob that a descriptor names.
fn path_of(descriptor: &Value) -> String {
    format!("blobs/{}", descriptor["digest"].as_str().unwrap_or_default().replace(':', "/"))
}

fn plain(contents: Vec<u8>) -> File {
    File { contents, executable: false }
}

fn bytes(json: &Value) -> Vec<u8> {
    json.to_string().into_bytes()
}

fn sha256(contents: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(contents))
}

/// Returns the name that Go, and so OCI, has for this machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests;
