//! Translates the kernel's notifications about the directory to [`FileEvent`]s.
//!
//! A scan opens files and directories itself. The events that this causes are ignored. Events come in the order in which
//! they happened, but late: [`Watch::mark`] tells the watcher when it has all events until then.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::directory::is_configuration;
use super::write_tracker::FileEvent;

/// How long events gather in the kernel before they are read together: each reading wakes two threads.
const GATHER: Duration = Duration::from_millis(20);
/// The next event was read in the same go if the thread was not idle for this long.
const IDLE: Duration = Duration::from_micros(500);

/// A subscription to the kernel's notifications, which ends when it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    _watcher: RecommendedWatcher,
    mark: Option<File>,
}

/// What a subscription passes on.
#[derive(Debug)]
pub(super) enum Observed {
    /// An event, and when it was read.
    Event(FileEvent, Instant),
    /// All events before a [`Watch::mark`] were passed on.
    Mark,
}

impl Watch {
    /// Sends [`Observed::Mark`] after the events that the kernel has now. Returns false if that is not possible.
    pub(super) fn mark(&self) -> bool {
        self.mark.as_ref().is_some_and(|file| file.set_modified(SystemTime::now()).is_ok())
    }
}

/// Subscribes to the kernel's notifications for `root`. Returns None if there are none; changes are then found by polling. The
/// file `mark` is created for [`Watch::mark`].
pub(super) fn watch(root: &Path, mark: &Path, send: impl Fn(Observed) + Send + 'static) -> Option<Watch> {
    let (below, of_mark) = (root.to_owned(), mark.to_owned());
    let mut pace = Pace { last: None };
    let handler = move |event: notify::Result<Event>| {
        if event.as_ref().is_ok_and(|event| event.paths.contains(&of_mark)) {
            send(Observed::Mark);
        } else {
            let now = Instant::now();
            events(&event, &below).into_iter().for_each(|event| send(Observed::Event(event, now)));
        }
        pace.gather();
    };
    let subscribed = notify::recommended_watcher(handler).and_then(|mut watcher| {
        watcher.watch(root, RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    let mut watcher = subscribed
        .inspect_err(|error| tracing::warn!(%error, "cannot watch the directory for changes: polling it"))
        .ok()?;
    let file = file_to_mark(mark, root, &mut watcher);
    let file = file.inspect_err(|error| tracing::warn!(path = %mark.display(), %error, "cannot watch a file of our own: a file that is written while it is read may be read half"));
    Some(Watch { _watcher: watcher, mark: file.ok() })
}

fn file_to_mark(path: &Path, root: &Path, watcher: &mut RecommendedWatcher) -> notify::Result<File> {
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    // Below the root, it is watched already, and would be twice.
    if !path.starts_with(root) {
        watcher.watch(path, RecursiveMode::NonRecursive)?;
    }
    Ok(file)
}

/// Lets events gather in the kernel, so that a file that changes all the time does not wake threads for each event.
#[derive(Debug)]
struct Pace {
    last: Option<Instant>,
}

impl Pace {
    /// Called after an event of the watcher's thread. Waits if it is the first that the thread has read since it was idle: the
    /// others, of a burst, must be read faster than the kernel's queue fills.
    fn gather(&mut self) {
        if self.last.is_none_or(|last| last.elapsed() >= IDLE) {
            std::thread::sleep(GATHER);
        }
        self.last = Some(Instant::now());
    }
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
    use std::sync::mpsc::channel;

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

    #[test]
    fn a_mark_comes_after_the_events_before_it() {
        let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (send, observed) = channel();
        let watch = watch(root.path(), &state.path().join("mark"), move |one| drop(send.send(one))).unwrap();
        for number in 0..20 {
            let name = format!("{number}.yaml");
            fs::write(root.path().join(&name), "text").unwrap();
            assert!(watch.mark());
            let mut closed = false;
            loop {
                match observed.recv_timeout(Duration::from_secs(30)).expect("a mark") {
                    Observed::Event(FileEvent::Closed(path), _) => closed |= path == Path::new(&name),
                    Observed::Event(..) => {}
                    Observed::Mark => break,
                }
            }
            assert!(closed, "{name}");
        }
    }
}
