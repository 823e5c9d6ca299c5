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

/// How long events gather in the kernel before they are read together, if they keep waking the thread: each time wakes another
/// thread, too.
const GATHER: Duration = Duration::from_millis(20);
/// The thread may wake so often without that: this many times in a burst, and once per [`SPARED_EVERY`]. A folder that appears
/// is watched from its event on, so that in a quiet directory the event must not wait.
const SPARED: u32 = 20;
const SPARED_EVERY: Duration = Duration::from_millis(100);
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
    let mut pace = Pace::new(Instant::now());
    let handler = move |event: notify::Result<Event>| {
        let now = Instant::now();
        if event.as_ref().is_ok_and(|event| event.paths.contains(&of_mark)) {
            send(Observed::Mark);
        } else {
            events(&event, &below).into_iter().for_each(|event| send(Observed::Event(event, now)));
        }
        std::thread::sleep(pace.pause(now));
        pace.read_until(Instant::now());
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

/// Decides when events gather in the kernel, so that a file that changes all the time does not wake threads for each event.
#[derive(Debug)]
struct Pace {
    /// When the thread last had an event.
    last: Instant,
    /// Until when the wake-ups so far are spared.
    spared: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { last: now, spared: now }
    }

    /// Returns how long to wait after an event that was read at `now`. It is zero for the second of a burst and the following
    /// ones, which must be read faster than the kernel's queue fills.
    fn pause(&mut self, now: Instant) -> Duration {
        if now.saturating_duration_since(self.last) < IDLE {
            return Duration::ZERO;
        }
        let next = self.spared.max(now) + SPARED_EVERY;
        if next > now + SPARED_EVERY * SPARED {
            return GATHER;
        }
        self.spared = next;
        Duration::ZERO
    }

    fn read_until(&mut self, now: Instant) {
        self.last = now;
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
    fn events_gather_only_if_they_keep_waking_the_thread() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let mut pauses = |count: u32, after: Duration| {
            let wake = |_: &u32| {
                now += after;
                let pause = pace.pause(now);
                now += pause;
                pace.read_until(now);
                !pause.is_zero()
            };
            (0..count).filter(wake).count()
        };
        let often = Duration::from_millis(2);
        assert_eq!(pauses(SPARED, often), 0);
        assert!(pauses(100, often) > 70);
        assert_eq!(pauses(1_000, IDLE / 2), 0, "a burst");
        assert_eq!(pauses(100, Duration::from_secs(1)), 0);
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
