//! The kernel's notifications about the directory, as [`Notice`]s.
//!
//! Looking opens files and folders, which is noticed too, and is no reason to look again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::directory::is_configuration;
use super::settling::Notice;

/// Subscribes to the kernel's notifications for `root`. Returns None if there are none; changes are then found by polling.
pub(super) fn watch(root: &Path, tell: impl Fn(Notice) + Send + 'static) -> Option<RecommendedWatcher> {
    let below = root.to_owned();
    let notice = move |event| notices(&event, &below).into_iter().for_each(&tell);
    let watcher = notify::recommended_watcher(notice).and_then(|mut watcher| {
        watcher.watch(root, RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    watcher.inspect_err(|error| tracing::warn!(%error, "no notices of changed files: looking for them")).ok()
}

/// What an event means, for each path that it names.
fn notices(event: &notify::Result<Event>, root: &Path) -> Vec<Notice> {
    let event = match event {
        Ok(event) if !event.need_rescan() => event,
        // Reports lost notifications.
        Ok(_) | Err(_) => return vec![Notice::Lost],
    };
    let each = |of: &dyn Fn(&Path, &Path) -> Vec<Notice>| {
        event.paths.iter().flat_map(|path| of(path, path.strip_prefix(root).unwrap_or(path))).collect()
    };
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
            each(&|_, below| vec![Notice::Complete(below.into())])
        }
        EventKind::Access(_) => Vec::new(),
        EventKind::Create(CreateKind::File) => each(&|path, below| match is_link(path) {
            true => vec![Notice::Complete(below.into()), Notice::Structure],
            false => vec![Notice::Written(below.into())],
        }),
        EventKind::Modify(ModifyKind::Data(_)) => each(&|_, below| vec![Notice::Written(below.into())]),
        EventKind::Modify(ModifyKind::Metadata(_)) => each(&|_, below| vec![Notice::Touched(below.into())]),
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => each(&|_, below| {
            let whole = Notice::Complete(below.into());
            // A folder or a link: others lead through it.
            if is_configuration(below) { vec![whole] } else { vec![whole, Notice::Structure] }
        }),
        _ => vec![Notice::Structure],
    }
}

/// Whether a name was made for a file that is there already: nobody will close it.
fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink() || metadata.nlink() > 1)
}

#[cfg(test)]
mod tests {
    use notify::event::{DataChange, Flag, MetadataKind, RemoveKind, RenameMode};

    use super::*;

    #[test]
    fn each_event_means_what_it_says_of_the_file() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a.yaml"), "").unwrap();
        std::os::unix::fs::symlink("a.yaml", root.path().join("link.yaml")).unwrap();
        let of = |kind: EventKind, name: &str| {
            notices(&Ok(Event::new(kind).add_path(root.path().join(name))), root.path())
        };
        let (written, complete) =
            (|name: &str| Notice::Written(name.into()), |name: &str| Notice::Complete(name.into()));
        let data = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        for (kind, name, expected) in [
            (EventKind::Access(AccessKind::Open(AccessMode::Any)), "a.yaml", vec![]),
            (EventKind::Access(AccessKind::Close(AccessMode::Read)), "a.yaml", vec![]),
            (EventKind::Access(AccessKind::Close(AccessMode::Write)), "a.yaml", vec![complete("a.yaml")]),
            (EventKind::Create(CreateKind::File), "a.yaml", vec![written("a.yaml")]),
            (
                EventKind::Create(CreateKind::File),
                "link.yaml",
                vec![complete("link.yaml"), Notice::Structure],
            ),
            (EventKind::Create(CreateKind::Folder), "folder", vec![Notice::Structure]),
            (data, "a.yaml", vec![written("a.yaml")]),
            (
                EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)),
                "a.yaml",
                vec![Notice::Touched("a.yaml".into())],
            ),
            (EventKind::Modify(ModifyKind::Name(RenameMode::To)), "a.yaml", vec![complete("a.yaml")]),
            (
                EventKind::Modify(ModifyKind::Name(RenameMode::To)),
                "..data",
                vec![complete("..data"), Notice::Structure],
            ),
            (EventKind::Remove(RemoveKind::File), "a.yaml", vec![complete("a.yaml")]),
            (EventKind::Remove(RemoveKind::Folder), "folder", vec![complete("folder"), Notice::Structure]),
        ] {
            assert_eq!(of(kind, name), expected, "{kind:?} of {name}");
        }
        let overflow = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert_eq!(notices(&Ok(overflow), root.path()), [Notice::Lost]);
        assert_eq!(notices(&Err(notify::Error::generic("x")), root.path()), [Notice::Lost]);
    }
}
