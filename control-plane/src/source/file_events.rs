//! Translates the kernel's notifications about the directory to [`FileEvent`]s.
//!
//! A scan opens files and directories itself. The events that this causes are ignored.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::directory::is_configuration;
use super::write_tracker::FileEvent;

/// Subscribes to the kernel's notifications for `root`. Returns None if there are none; changes are then found by polling.
pub(super) fn watch(root: &Path, send: impl Fn(FileEvent) + Send + 'static) -> Option<RecommendedWatcher> {
    let below = root.to_owned();
    let handler = move |event| events(&event, &below).into_iter().for_each(&send);
    let watcher = notify::recommended_watcher(handler).and_then(|mut watcher| {
        watcher.watch(root, RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    watcher
        .inspect_err(|error| tracing::warn!(%error, "cannot watch the directory for changes: polling it"))
        .ok()
}

/// Translates an event, for each path that it names.
fn events(event: &notify::Result<Event>, root: &Path) -> Vec<FileEvent> {
    let event = match event {
        Ok(event) if !event.need_rescan() => event,
        // Events were lost.
        Ok(_) | Err(_) => return vec![FileEvent::EventsLost],
    };
    let each = |of: &dyn Fn(&Path, &Path) -> Vec<FileEvent>| {
        event.paths.iter().flat_map(|path| of(path, path.strip_prefix(root).unwrap_or(path))).collect()
    };
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
            each(&|_, below| vec![FileEvent::Closed(below.into())])
        }
        EventKind::Access(_) => Vec::new(),
        EventKind::Create(CreateKind::File) => each(&|path, below| match is_link(path) {
            true => vec![FileEvent::Closed(below.into()), FileEvent::TreeChanged],
            false => vec![FileEvent::Writing(below.into())],
        }),
        EventKind::Modify(ModifyKind::Data(_)) => each(&|_, below| vec![FileEvent::Writing(below.into())]),
        EventKind::Modify(ModifyKind::Metadata(_)) => {
            each(&|_, below| vec![FileEvent::AttributesChanged(below.into())])
        }
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => each(&|_, below| {
            let closed = FileEvent::Closed(below.into());
            // A directory or a link, through which other paths lead.
            if is_configuration(below) { vec![closed] } else { vec![closed, FileEvent::TreeChanged] }
        }),
        _ => vec![FileEvent::TreeChanged],
    }
}

/// Returns true if the path is a new name of an existing file, which no writer will close.
fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink() || metadata.nlink() > 1)
}

#[cfg(test)]
mod tests {
    use notify::event::{DataChange, Flag, MetadataKind, RemoveKind, RenameMode};

    use super::*;

    #[test]
    fn each_event_of_the_kernel_is_translated() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a.yaml"), "").unwrap();
        std::os::unix::fs::symlink("a.yaml", root.path().join("link.yaml")).unwrap();
        let of = |kind: EventKind, name: &str| {
            events(&Ok(Event::new(kind).add_path(root.path().join(name))), root.path())
        };
        let (written, complete) =
            (|name: &str| FileEvent::Writing(name.into()), |name: &str| FileEvent::Closed(name.into()));
        let data = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        for (kind, name, expected) in [
            (EventKind::Access(AccessKind::Open(AccessMode::Any)), "a.yaml", vec![]),
            (EventKind::Access(AccessKind::Close(AccessMode::Read)), "a.yaml", vec![]),
            (EventKind::Access(AccessKind::Close(AccessMode::Write)), "a.yaml", vec![complete("a.yaml")]),
            (EventKind::Create(CreateKind::File), "a.yaml", vec![written("a.yaml")]),
            (
                EventKind::Create(CreateKind::File),
                "link.yaml",
                vec![complete("link.yaml"), FileEvent::TreeChanged],
            ),
            (EventKind::Create(CreateKind::Folder), "folder", vec![FileEvent::TreeChanged]),
            (data, "a.yaml", vec![written("a.yaml")]),
            (
                EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)),
                "a.yaml",
                vec![FileEvent::AttributesChanged("a.yaml".into())],
            ),
            (EventKind::Modify(ModifyKind::Name(RenameMode::To)), "a.yaml", vec![complete("a.yaml")]),
            (
                EventKind::Modify(ModifyKind::Name(RenameMode::To)),
                "..data",
                vec![complete("..data"), FileEvent::TreeChanged],
            ),
            (EventKind::Remove(RemoveKind::File), "a.yaml", vec![complete("a.yaml")]),
            (
                EventKind::Remove(RemoveKind::Folder),
                "folder",
                vec![complete("folder"), FileEvent::TreeChanged],
            ),
        ] {
            assert_eq!(of(kind, name), expected, "{kind:?} of {name}");
        }
        let overflow = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert_eq!(events(&Ok(overflow), root.path()), [FileEvent::EventsLost]);
        assert_eq!(events(&Err(notify::Error::generic("x")), root.path()), [FileEvent::EventsLost]);
    }
}
