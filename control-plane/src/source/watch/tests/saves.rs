//! No resource is removed while a file is saved, whichever way an editor does it.

use std::fs::{self, create_dir, remove_file, rename, write};
use std::os::unix::fs::symlink;
use std::path::Path;

use super::super::*;
use crate::model::service::ServiceKey;
use crate::source::assembler::{Assembler, View};
use crate::source::change::{Change, ChangeEvent};
use crate::source::debounce::DEBOUNCE;
use crate::source::write_tracker::REMOVED_AFTER;

const FILE: &str = "shop/mesh.yaml";

/// Two Services, the first with this port.
fn services(port: u16) -> String {
    let service = |name: &str, port: u16| {
        format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{ports: [{{port: {port}}}]}}}}\n"
        )
    };
    service("a", port) + &service("b", 80)
}

fn pause() {
    thread::sleep(Duration::from_millis(150));
}

/// Watches a directory with one file while `save` writes port 81 to it, and returns everything that changed since: the
/// directory is watched for longer than a file may be gone.
async fn changes_of(save: impl FnOnce(&Path, &Path)) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("config");
    let file = root.join(FILE);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    write(&file, services(80)).unwrap();
    let (log, events) = channel();
    let log = move |changes: &[ChangeEvent]| drop(log.send(changes.to_vec()));
    let mut assembler = Assembler::new(log);
    let _source =
        DirectorySource::start(&root, directory.path().join("retained"), assembler.add_source()).unwrap();
    let mut view = assembler.synced().await.unwrap();
    events.recv().unwrap();
    save(&root, &file);
    let key = ServiceKey::new("default", "a");
    let saved = |view: &View| view.mesh.service(&key).is_some_and(|a| a.service.port(81).is_some());
    let seen = tokio::time::timeout(Duration::from_secs(30), view.wait_for(saved)).await;
    drop(seen.expect("not saved in 30 s").unwrap());
    thread::sleep(REMOVED_AFTER + DEBOUNCE * 4);
    write(root.join("end.yaml"), "{apiVersion: v1, kind: Namespace, metadata: {name: end}}").unwrap();
    let text =
        |event: &ChangeEvent| format!("{} {:?}", event.resource.as_deref().unwrap_or("-"), event.change);
    let mut changes = Vec::new();
    while let Ok(more) = events.recv_timeout(Duration::from_secs(30)) {
        changes.extend(more.iter().map(text));
        if changes.last().is_some_and(|last| last == "Namespace end Added") {
            changes.pop();
            break;
        }
    }
    changes
}

/// The one change that a save makes.
const SAVED: [&str; 1] = ["Service default/a Changed"];

#[tokio::test]
async fn vim_and_emacs_rename_the_old_file_and_write_a_new_one() {
    let save = |_: &Path, file: &Path| {
        let backup = file.with_extension("yaml~");
        rename(file, &backup).unwrap();
        pause();
        write(file, services(81)).unwrap();
        remove_file(backup).unwrap();
    };
    assert_eq!(changes_of(save).await, SAVED);
}

#[tokio::test]
async fn sed_and_rsync_rename_a_new_file_over_the_old_one() {
    for temporary in ["sedYU2xB1", ".mesh.yaml.Fq3Zk1"] {
        let save = |_: &Path, file: &Path| {
            let new = file.with_file_name(temporary);
            write(&new, services(81)).unwrap();
            pause();
            rename(new, file).unwrap();
        };
        assert_eq!(changes_of(save).await, SAVED);
    }
}

#[tokio::test]
async fn git_removes_the_old_file_and_writes_a_new_one() {
    let save = |_: &Path, file: &Path| {
        remove_file(file).unwrap();
        pause();
        write(file, services(81)).unwrap();
    };
    assert_eq!(changes_of(save).await, SAVED);
}

#[tokio::test]
async fn a_copy_in_place_truncates_the_file_and_writes_it_in_pieces() {
    let save = |_: &Path, file: &Path| {
        use std::io::Write;
        let mut file = fs::File::create(file).unwrap();
        for piece in services(81).as_bytes().chunks(64) {
            pause();
            file.write_all(piece).unwrap();
        }
    };
    assert_eq!(changes_of(save).await, SAVED);
}

#[tokio::test]
async fn a_file_that_gets_another_name_is_one_change() {
    let save = |_: &Path, file: &Path| {
        let new = file.with_file_name("renamed.yaml");
        rename(file, &new).unwrap();
        pause();
        write(new, services(81)).unwrap();
    };
    assert_eq!(changes_of(save).await, SAVED);
    let save = |_: &Path, file: &Path| {
        remove_file(file).unwrap();
        write(file.with_file_name("new.yaml"), services(81)).unwrap();
    };
    assert_eq!(changes_of(save).await, SAVED);
}

#[tokio::test]
async fn kubelet_replaces_a_link_and_removes_its_old_target() {
    let save = |root: &Path, file: &Path| {
        let version = |name: &str, port: u16| {
            create_dir(root.join(name)).unwrap();
            write(root.join(name).join("mesh.yaml"), services(port)).unwrap();
            symlink(name, root.join("..data_tmp")).unwrap();
            rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        };
        version("..2026_1", 80);
        symlink("..data/mesh.yaml", root.join("mesh.yaml")).unwrap();
        remove_file(file).unwrap();
        pause();
        version("..2026_2", 81);
        fs::remove_dir_all(root.join("..2026_1")).unwrap();
        // The name of a key is removed and added again.
        remove_file(root.join("mesh.yaml")).unwrap();
        pause();
        symlink("..data/mesh.yaml", root.join("mesh.yaml")).unwrap();
    };
    assert_eq!(changes_of(save).await, SAVED);
}

#[tokio::test]
async fn a_directory_is_moved_away_and_back() {
    let save = |root: &Path, file: &Path| {
        let folder = file.parent().unwrap();
        rename(folder, root.join(".away")).unwrap();
        pause();
        rename(root.join(".away"), folder).unwrap();
        pause();
        write(file, services(81)).unwrap();
    };
    assert_eq!(changes_of(save).await, SAVED);
}

#[tokio::test]
async fn the_folder_that_a_link_leads_to_is_replaced() {
    let save = |root: &Path, file: &Path| {
        let folder = file.parent().unwrap();
        for (release, port) in [("one", 80), ("two", 81)] {
            create_dir(root.parent().unwrap().join(release)).unwrap();
            write(root.parent().unwrap().join(release).join("mesh.yaml"), services(port)).unwrap();
        }
        fs::remove_dir_all(folder).unwrap();
        symlink("../one", folder).unwrap();
        pause();
        remove_file(folder).unwrap();
        pause();
        symlink("../two", folder).unwrap();
    };
    assert_eq!(changes_of(save).await, SAVED);
}

#[tokio::test]
async fn a_removal_is_applied_once_and_does_not_delay_an_addition() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let namespace = |name: &str| format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}");
    write(file("old.yaml"), namespace("old")).unwrap();
    let (log, events) = channel();
    let log =
        move |changes: &[ChangeEvent]| changes.iter().for_each(|one| drop(log.send(one.change.clone())));
    let mut assembler = Assembler::new(log);
    let _source =
        DirectorySource::start(directory.path(), file(".retained"), assembler.add_source()).unwrap();
    assembler.synced().await.unwrap();
    assert_eq!(events.recv().unwrap(), Change::Added);
    remove_file(file("old.yaml")).unwrap();
    write(file("new.yaml"), namespace("new")).unwrap();
    let changes: Vec<_> = [(); 2].map(|()| events.recv_timeout(Duration::from_secs(30)).unwrap()).into();
    assert_eq!(changes, [Change::Added, Change::Removed]);
}
