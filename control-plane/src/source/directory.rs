//! The files of the configuration directory, and which of them changed.
//!
//! Subdirectories are read too. Names that begin with a dot are ignored: editors and mounted ConfigMaps keep internal files
//! there. Links are followed, since a mounted ConfigMap consists of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::write_tracker::{FileEvent, Readiness, Stamp, WriteTracker};

/// A directory and its files as of the last scan.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    /// The stamp of every file that was read; None for one that is gone and may come back.
    seen: BTreeMap<PathBuf, Option<Stamp>>,
}

/// A file that was added, changed or removed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ChangedFile {
    /// Below the root.
    pub(super) path: PathBuf,
    /// Its text, or an error if it cannot be read. None if it is gone.
    pub(super) text: Option<Result<String, String>>,
    /// The text may be cut short, since its writer has not closed it; or the file may be gone only for a moment.
    pub(super) partial: bool,
}

/// In bytes. Larger files are refused: reading one would delay every other change.
const MAX_FILE: u64 = 64 << 20;
/// How many attempts one scan makes to read a file that changes meanwhile.
const ATTEMPTS: usize = 3;

impl Directory {
    /// Creates a directory that was not scanned yet.
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, seen: BTreeMap::new() }
    }

    /// Returns its path.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns true if a file was there at the last scan.
    pub(super) fn holds(&self, path: &Path) -> bool {
        self.seen.contains_key(path)
    }

    /// Returns the files that changed since the last scan and may be read, in order of path. Those that are pending are found
    /// by a later scan.
    ///
    /// Returns an error if a directory cannot be listed: then no file counts as removed, and the next scan lists it again.
    pub(super) fn scan(&mut self, tracker: &mut WriteTracker, at: Instant) -> io::Result<Vec<ChangedFile>> {
        self.scan_confirmed(tracker, at, &mut |_| {})
    }

    /// Like [`scan`](Self::scan). `catch_up` is called after the files were read, and records what happened to them until then:
    /// what was read is discarded if the file has changed since or is being written. An event that comes late would
    /// otherwise let a half-written file count as complete.
    pub(super) fn scan_confirmed(
        &mut self,
        tracker: &mut WriteTracker,
        at: Instant,
        catch_up: &mut dyn FnMut(&mut WriteTracker),
    ) -> io::Result<Vec<ChangedFile>> {
        let mut now = BTreeMap::new();
        list(&self.root, Path::new(""), &mut now)?;
        // A file may have several names: one that is being written under one name is not read under another.
        let inode = |path: &Path| fs::metadata(self.root.join(path)).ok().map(|metadata| metadata.ino());
        let writing: BTreeSet<u64> = tracker.writing().filter_map(inode).collect();
        let closed: BTreeSet<u64> = tracker.closed().filter_map(inode).collect();
        let (mut changed, mut pending, mut moving) = (Vec::new(), BTreeSet::new(), Vec::new());
        let paths: BTreeSet<_> = self.seen.keys().chain(now.keys()).cloned().collect();
        for path in paths {
            let stamp = now.get(&path).copied();
            let seen = self.seen.get(&path).copied().flatten();
            if stamp.is_some() && seen == stamp {
                continue;
            }
            if stamp.is_some_and(|stamp| closed.contains(&stamp.inode)) {
                tracker.record(FileEvent::Closed(path.clone()), at);
            }
            let open = stamp.is_some_and(|stamp| writing.contains(&stamp.inode));
            let readiness = tracker.readiness(&path, (seen, stamp), open, at);
            if readiness == Readiness::Pending {
                pending.insert(path);
                continue;
            }
            let (stamp, text) = match stamp.map(|stamp| (stamp, read(&self.root.join(&path), read_text))) {
                None => (None, None),
                Some((_, Ok(Some((stamp, text))))) => (Some(stamp), Some(Ok(text))),
                // It changes faster than it can be read, or has disappeared. The next scan reads it.
                Some((_, Ok(None))) => {
                    moving.push(path);
                    continue;
                }
                Some((stamp, Err(reason))) => (Some(stamp), Some(Err(reason))),
            };
            changed.push((ChangedFile { path, text, partial: readiness == Readiness::Partial }, stamp));
        }
        let complete = |file: &ChangedFile| !file.partial && matches!(file.text, Some(Ok(_)));
        if !moving.is_empty() || changed.iter().any(|(file, _)| complete(file)) {
            catch_up(tracker);
            let writing: BTreeSet<u64> = tracker.writing().filter_map(inode).collect();
            let stays = |path: &Path, stamp: Stamp| {
                let now = fs::metadata(self.root.join(path)).map(|metadata| Stamp::from(&metadata));
                now.is_ok_and(|now| now == stamp) && !writing.contains(&stamp.inode)
            };
            changed.retain(|(file, stamp)| {
                let stays = !complete(file) || stamp.is_some_and(|stamp| stays(&file.path, stamp));
                if !stays {
                    moving.push(file.path.clone());
                }
                stays
            });
        }
        for (file, stamp) in &changed {
            match (file.partial, stamp) {
                (false, None) => drop(self.seen.remove(&file.path)),
                (false, Some(_)) | (true, None) => drop(self.seen.insert(file.path.clone(), *stamp)),
                (true, Some(_)) => {}
            }
        }
        let again = moving.iter().any(|path| tracker.is_closed(path));
        pending.extend(moving);
        tracker.scanned(|path| pending.contains(path), again, at);
        Ok(changed.into_iter().map(|(file, _)| file).collect())
    }
}

fn list(root: &Path, below: &Path, found: &mut BTreeMap<PathBuf, Stamp>) -> io::Result<()> {
    let folder = root.join(below);
    let explain = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
    for entry in fs::read_dir(&folder).map_err(explain)? {
        let name = entry.map_err(explain)?.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = below.join(&name);
        let Ok(metadata) = fs::metadata(root.join(&path)) else {
            // A dangling link is a file that cannot be read: its target may come back. Anything else is gone by now.
            if is_configuration(&path)
                && let Ok(link) = fs::symlink_metadata(root.join(&path))
                && link.is_symlink()
            {
                found.insert(path, Stamp::from(&link));
            }
            continue;
        };
        if metadata.is_dir() {
            // Links may form a cycle, so the depth is bounded.
            if path.components().count() <= 16 {
                list(root, &path, found)?;
            }
        } else if metadata.is_file() && is_configuration(&path) {
            found.insert(path, Stamp::from(&metadata));
        }
    }
    Ok(())
}

/// Returns true if a file of this name is read.
pub(super) fn is_configuration(path: &Path) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|e| ["yaml", "yml", "json"].contains(&e))
}

/// Reads a file, with the stamp that belongs to the text. Returns None if it changed during every attempt, or is gone.
fn read(
    path: &Path,
    mut text_of: impl FnMut(&mut File) -> io::Result<String>,
) -> Result<Option<(Stamp, String)>, String> {
    let fail = |error: io::Error| error.to_string();
    for _ in 0..ATTEMPTS {
        let mut file = match File::open(path) {
            Err(_) if fs::symlink_metadata(path).is_err() => return Ok(None),
            opened => opened.map_err(fail)?,
        };
        let before = Stamp::from(&file.metadata().map_err(fail)?);
        if before.length > MAX_FILE {
            return Err(format!("{} bytes are more than {MAX_FILE}", before.length));
        }
        let text = text_of(&mut file);
        if Stamp::from(&file.metadata().map_err(fail)?) == before {
            return Ok(Some((before, text.map_err(fail)?)));
        }
    }
    Ok(None)
}

/// Reads a file that is not watched.
pub(super) fn read_file(path: &Path) -> Result<String, String> {
    read(path, read_text)?.map_or_else(|| Err("changes while it is read".into()), |(_, text)| Ok(text))
}

fn read_text(file: &mut File) -> io::Result<String> {
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::write_tracker::REMOVED_AFTER;
    use super::*;

    fn texts(changed: Vec<ChangedFile>) -> Vec<(String, Option<String>)> {
        let text = |text: Option<Result<String, String>>| text.map(Result::unwrap);
        changed.into_iter().map(|file| (file.path.display().to_string(), text(file.text))).collect()
    }

    /// A scan for which every file is complete.
    fn scan(directory: &mut Directory) -> io::Result<Vec<ChangedFile>> {
        directory.scan(&mut WriteTracker::default(), Instant::now())
    }

    #[test]
    fn a_scan_returns_added_changed_and_removed_files() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(root.path().join(name), text).unwrap();
        let mut directory = Directory::new(root.path().into());
        write("a.yaml", "1");
        write("notes.txt", "no");
        write(".hidden.yaml", "no");
        fs::create_dir(root.path().join("below")).unwrap();
        write("below/b.yml", "2");
        let some = |path: &str, text: &str| (path.to_string(), Some(text.to_string()));
        assert_eq!(texts(scan(&mut directory).unwrap()), [some("a.yaml", "1"), some("below/b.yml", "2")]);
        assert_eq!(scan(&mut directory).unwrap(), []);
        write(".new", "3");
        fs::rename(root.path().join(".new"), root.path().join("a.yaml")).unwrap();
        fs::remove_file(root.path().join("below/b.yml")).unwrap();
        assert_eq!(texts(scan(&mut directory).unwrap()), [some("a.yaml", "3"), ("below/b.yml".into(), None)]);
        assert_eq!(scan(&mut directory).unwrap(), []);
    }

    #[test]
    fn a_directory_that_disappears_is_waited_for_and_read_again_when_it_is_back() {
        let root = tempfile::tempdir().unwrap();
        let (inside, outside) = (root.path().join("config/below"), root.path().join("away"));
        fs::create_dir_all(&inside).unwrap();
        fs::write(inside.join("a.yaml"), "1").unwrap();
        let mut directory = Directory::new(root.path().join("config"));
        let (mut tracker, start) = (WriteTracker::default(), Instant::now());
        let mut look = |after: Duration| {
            tracker.record(FileEvent::TreeChanged, start + after);
            let changed = directory.scan(&mut tracker, start + after).unwrap();
            changed.into_iter().map(|file| (file.text.map(Result::unwrap), file.partial)).collect::<Vec<_>>()
        };
        let here = [(Some("1".to_owned()), false)];
        assert_eq!(look(Duration::ZERO), here);
        fs::rename(&inside, &outside).unwrap();
        assert_eq!(look(Duration::ZERO), [(None, true)]);
        assert_eq!(look(REMOVED_AFTER / 2), []);
        fs::rename(&outside, &inside).unwrap();
        assert_eq!(look(REMOVED_AFTER * 2), here);
        fs::rename(&inside, &outside).unwrap();
        assert_eq!(look(REMOVED_AFTER * 3), [(None, true)]);
        assert_eq!(look(REMOVED_AFTER * 4), [(None, false)]);
        assert_eq!(look(REMOVED_AFTER * 5), []);
    }

    #[test]
    fn a_root_that_disappears_removes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("a.yaml"), "1").unwrap();
        let mut directory = Directory::new(inner.clone());
        assert_eq!(scan(&mut directory).unwrap().len(), 1);
        fs::rename(&inner, root.path().join("away")).unwrap();
        assert!(scan(&mut directory).unwrap_err().to_string().contains("inner"));
        fs::rename(root.path().join("away"), &inner).unwrap();
        assert_eq!(scan(&mut directory).unwrap(), []);
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_read_again() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.yaml");
        fs::write(&path, "old").unwrap();
        let mut attempts = 0;
        let read_text_while_written = |file: &mut File| {
            let text = read_text(file);
            attempts += 1;
            if attempts == 1 {
                fs::write(&path, "newer").unwrap();
            }
            text
        };
        let (stamp, text) = read(&path, read_text_while_written).unwrap().unwrap();
        assert_eq!((text.as_str(), stamp), ("newer", Stamp::from(&fs::metadata(&path).unwrap())));
        let mut length = 5;
        let always = read(&path, |file| {
            length += 1;
            fs::write(&path, "x".repeat(length)).unwrap();
            read_text(file)
        });
        assert_eq!((always, length), (Ok(None), 5 + ATTEMPTS));
        fs::remove_file(&path).unwrap();
        assert_eq!(read(&path, read_text), Ok(None));
    }

    #[test]
    fn a_dangling_link_is_an_error_and_no_removal() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().join("a.yaml");
        fs::write(&target, "1").unwrap();
        std::os::unix::fs::symlink(&target, root.path().join("a.yaml")).unwrap();
        let mut directory = Directory::new(root.path().into());
        assert_eq!(texts(scan(&mut directory).unwrap()), [("a.yaml".to_owned(), Some("1".to_owned()))]);
        fs::remove_file(&target).unwrap();
        let dangling = scan(&mut directory).unwrap().remove(0);
        assert!(dangling.text.unwrap().unwrap_err().contains("No such file"));
        assert_eq!(scan(&mut directory).unwrap(), []);
        fs::write(&target, "2").unwrap();
        assert_eq!(texts(scan(&mut directory).unwrap()), [("a.yaml".to_owned(), Some("2".to_owned()))]);
        fs::remove_file(root.path().join("a.yaml")).unwrap();
        assert_eq!(texts(scan(&mut directory).unwrap()), [("a.yaml".to_owned(), None)]);
    }

    #[test]
    fn a_file_that_is_being_written_is_read_under_none_of_its_names() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join(".hidden")).unwrap();
        fs::write(root.path().join(".hidden/a.yaml"), "1").unwrap();
        std::os::unix::fs::symlink(".hidden/a.yaml", root.path().join("a.yaml")).unwrap();
        let (mut directory, mut tracker) = (Directory::new(root.path().into()), WriteTracker::default());
        let now = Instant::now();
        assert_eq!(directory.scan(&mut tracker, now).unwrap().len(), 1);
        fs::write(root.path().join(".hidden/a.yaml"), "half").unwrap();
        tracker.record(FileEvent::Writing(".hidden/a.yaml".into()), now);
        tracker.record(FileEvent::TreeChanged, now);
        assert_eq!(directory.scan(&mut tracker, now).unwrap(), []);
        fs::write(root.path().join(".hidden/a.yaml"), "half and half").unwrap();
        tracker.record(FileEvent::Closed(".hidden/a.yaml".into()), now);
        let read = texts(directory.scan(&mut tracker, now).unwrap());
        assert_eq!(read, [("a.yaml".to_owned(), Some("half and half".to_owned()))]);
    }

    #[test]
    fn a_file_that_is_written_again_while_the_scan_reads_it_is_left_for_the_next_scan() {
        let root = tempfile::tempdir().unwrap();
        let write = |text: &str| fs::write(root.path().join("a.yaml"), text).unwrap();
        let event = |of: fn(PathBuf) -> FileEvent| of("a.yaml".into());
        let (mut directory, mut tracker) = (Directory::new(root.path().into()), WriteTracker::default());
        let now = Instant::now();
        write("whole");
        assert_eq!(directory.scan(&mut tracker, now).unwrap().len(), 1);
        // The event of the second writing is late.
        tracker.record(event(FileEvent::Closed), now);
        write("ha");
        let mut late = |tracker: &mut WriteTracker| {
            tracker.record(event(FileEvent::Writing), now);
        };
        assert_eq!(directory.scan_confirmed(&mut tracker, now, &mut late).unwrap(), []);
        assert_eq!(tracker.due(), None);
        // It is written once more, and closed, during the scan.
        write("half");
        tracker.record(event(FileEvent::Closed), now);
        let mut again = |tracker: &mut WriteTracker| {
            write("half and half");
            tracker.record(event(FileEvent::Closed), now);
        };
        assert_eq!(directory.scan_confirmed(&mut tracker, now, &mut again).unwrap(), []);
        assert!(tracker.due().is_some());
        let read = texts(directory.scan(&mut tracker, now).unwrap());
        assert_eq!(read, [("a.yaml".to_owned(), Some("half and half".to_owned()))]);
        assert_eq!((directory.scan(&mut tracker, now).unwrap(), tracker.due()), (vec![], None));
    }
}
