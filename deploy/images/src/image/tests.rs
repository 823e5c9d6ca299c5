//! Tests of OCI archives.

use std::io::Read as _;

use flate2::read::GzDecoder;

use super::*;

fn image() -> Image {
    let file = |contents: &str, executable| File { contents: contents.into(), executable };
    Image {
        names: vec!["docker.io/outrigger/proxy:1".into(), "example.com/proxy:1".into()],
        files: [
            ("usr/local/bin/outrigger-proxy".into(), file("program", true)),
            ("etc/motd".into(), file("hello", false)),
        ]
        .into(),
        entrypoint: vec!["/usr/local/bin/outrigger-proxy".into()],
        user: "1500:1500".into(),
        labels: [("org.opencontainers.image.version".into(), "1".into())].into(),
        ..Image::default()
    }
}

/// Returns path, mode, modification time and contents of each entry, in order.
fn entries(archive: &[u8]) -> Vec<(String, u32, u64, Vec<u8>)> {
    let mut archive = tar::Archive::new(archive);
    let entry = |entry: io::Result<tar::Entry<'_, _>>| {
        let mut entry = entry.unwrap();
        let mut contents = Vec::new();
        entry.read_to_end(&mut contents).unwrap();
        let (header, path) = (entry.header(), entry.path().unwrap().display().to_string());
        (path, header.mode().unwrap(), header.mtime().unwrap(), contents)
    };
    archive.entries().unwrap().map(entry).collect()
}

fn json_at(entries: &[(String, u32, u64, Vec<u8>)], path: &str) -> Value {
    serde_json::from_slice(&entries.iter().find(|entry| entry.0 == path).unwrap().3).unwrap()
}

#[test]
fn every_blob_is_found_by_its_digest_and_has_the_size_of_its_descriptor() {
    let (archive, digest) = image().archive().unwrap();
    let entries = entries(&archive);
    let manifest = &json_at(&entries, "index.json")["manifests"][0];
    assert_eq!(manifest["digest"], digest);
    let found = json_at(&entries, &path_of(manifest));
    for descriptor in [manifest, &found["config"], &found["layers"][0]] {
        let blob = &entries.iter().find(|entry| entry.0 == path_of(descriptor)).unwrap().3;
        assert_eq!(descriptor["digest"], sha256(blob));
        assert_eq!(descriptor["size"], blob.len());
    }
}

#[test]
fn each_name_has_a_manifest_in_the_index_and_a_tag_for_docker() {
    let (archive, _) = image().archive().unwrap();
    let entries = entries(&archive);
    let index = json_at(&entries, "index.json");
    let names = ["docker.io/outrigger/proxy:1", "example.com/proxy:1"];
    for (number, name) in names.into_iter().enumerate() {
        assert_eq!(index["manifests"][number]["annotations"]["io.containerd.image.name"], name);
    }
    assert_eq!(json_at(&entries, "manifest.json")[0]["RepoTags"], json!(names));
}

#[test]
fn the_layer_has_the_files_and_their_directories_in_order_at_the_epoch() {
    let (archive, _) = image().archive().unwrap();
    let outer = entries(&archive);
    let manifest = json_at(&outer, &path_of(&json_at(&outer, "index.json")["manifests"][0]));
    let config = json_at(&outer, &path_of(&manifest["config"]));
    let compressed = &outer.iter().find(|entry| entry.0 == path_of(&manifest["layers"][0])).unwrap().3;
    let mut layer = Vec::new();
    GzDecoder::new(&compressed[..]).read_to_end(&mut layer).unwrap();
    assert_eq!(config["rootfs"]["diff_ids"][0], sha256(&layer));
    assert_eq!(config["config"]["User"], "1500:1500");
    let (directory, none) = (0o755, Vec::new());
    assert_eq!(
        entries(&layer),
        [
            ("etc/".into(), directory, 0, none.clone()),
            ("etc/motd".into(), 0o644, 0, b"hello".into()),
            ("usr/".into(), directory, 0, none.clone()),
            ("usr/local/".into(), directory, 0, none.clone()),
            ("usr/local/bin/".into(), directory, 0, none),
            ("usr/local/bin/outrigger-proxy".into(), 0o755, 0, b"program".into()),
        ]
    );
}

#[test]
fn an_image_that_is_written_again_has_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (directory.path().join("first.tar"), directory.path().join("second.tar"));
    let written = image().write(&first).unwrap();
    assert_eq!(written, image().write(&second).unwrap());
    assert_eq!(fs::read(&first).unwrap(), fs::read(second).unwrap());
    assert_eq!(written.size, fs::metadata(first).unwrap().len());
}
