//! The cgroup of a program, in cgroup v2: a directory below the cgroup of the supervisor.
//!
//! A lock on the directory shows that its supervisor lives. What a killed supervisor left behind is removed by the next one that
//! starts in the same cgroup (systemd removes it with the unit).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PREFIX: &str = "outrigger-run-";
const KILL: &str = "cgroup.kill";

/// A cgroup without a process, until one joins it.
#[derive(Debug)]
pub(super) struct Cgroup {
    directory: PathBuf,
    /// Its inode number.
    pub(super) id: u64,
    /// The number of names in its path.
    pub(super) level: u32,
    _lock: File,
}

impl Cgroup {
    /// Creates a cgroup. Returns an error if there is no cgroup v2 or this process may not create one.
    pub(super) fn create() -> Result<Self, String> {
        let read = |path| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        let Parent { directory: parent, level } =
            parent(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?)?;
        remove_stale(&parent);
        let failed = |error: io::Error| format!("cannot create a cgroup in {}: {error}", parent.display());
        loop {
            let directory =
                tempfile::Builder::new().prefix(PREFIX).tempdir_in(&parent).map_err(failed)?.keep();
            // Another supervisor may take it for one that was left behind, and remove it.
            let lock = match File::open(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(failed)?,
            };
            if lock.try_lock().is_ok() && directory.is_dir() {
                if !directory.join(KILL).exists() {
                    remove(&directory);
                    return Err("this kernel cannot kill a cgroup: it needs Linux 5.14".to_owned());
                }
                let id = lock.metadata().map_err(failed)?.ino();
                return Ok(Self { directory, id, level: level + 1, _lock: lock });
            }
        }
    }

    /// The directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Kills every process in it, also those that the program left in the background.
    pub(super) fn kill(&self) {
        let _ = fs::write(self.directory.join(KILL), "1");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.directory);
    }
}

/// Makes this process a member of the cgroup in `directory`.
pub(super) fn join(directory: &Path) -> io::Result<()> {
    fs::write(directory.join("cgroup.procs"), "0")
}

/// Kills the processes of a cgroup and of those below it, and removes them all. Returns when the last process has ended.
pub(super) fn remove(directory: &Path) {
    remove_within(directory, 0..);
}

fn remove_within(directory: &Path, attempts: impl Iterator<Item = u32>) {
    for _ in attempts {
        match kill_and_remove(directory) {
            // Processes have not ended yet, or another one has joined.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(10));
            }
            _ => return,
        }
    }
}

fn kill_and_remove(directory: &Path) -> io::Result<()> {
    // An error in a threaded cgroup, whose processes are killed with the one above it.
    let _ = fs::write(directory.join(KILL), "1");
    for entry in fs::read_dir(directory)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = kill_and_remove(&entry.path());
        }
    }
    fs::remove_dir(directory)
}

/// Removes the cgroups in `parent` whose supervisors have ended.
fn remove_stale(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if is_ours
            && let Ok(directory) = File::open(entry.path())
            && directory.try_lock().is_ok()
        {
            // One that cannot be killed keeps no other program from starting.
            remove_within(&entry.path(), 0..100);
        }
    }
}

/// The cgroup of this process.
#[derive(Debug, PartialEq, Eq)]
struct Parent {
    directory: PathBuf,
    level: u32,
}

/// Finds it by `/proc/self/mountinfo` and `/proc/self/cgroup`.
fn parent(mounts: &str, cgroups: &str) -> Result<Parent, String> {
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
    // Root and mount point are the fields 4 and 5; the type follows a hyphen (proc(5)).
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let mut fields = mount.unwrap_or_default().split(' ').skip(3);
    let (Some(path), Some(root), Some(mount_point)) = (path, fields.next(), fields.next()) else {
        return Err("cgroup v2 is not mounted here: mount -t cgroup2 cgroup2 /sys/fs/cgroup".to_owned());
    };
    let names: Vec<_> = path.split('/').filter(|name| !name.is_empty()).collect();
    if names.iter().any(|name| name.starts_with(PREFIX)) {
        return Err("this program runs in `outrigger run` already".to_owned());
    }
    let inner = path.strip_prefix(root.trim_end_matches('/')).filter(|_| !names.contains(&".."));
    let inner =
        inner.ok_or_else(|| format!("the cgroup {path} of this process is not below {mount_point}"))?;
    let directory = Path::new(mount_point).join(inner.trim_start_matches('/'));
    Ok(Parent { directory, level: u32::try_from(names.len()).unwrap_or(u32::MAX) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFIED: &str = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const HYBRID: &str = "31 22 0:27 / /sys/fs/cgroup rw - tmpfs none rw\n\
                          32 31 0:28 / /sys/fs/cgroup/cpu rw - cgroup none rw,cpu\n\
                          41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    fn found(mounts: &str, cgroups: &str) -> Result<(String, u32), String> {
        parent(mounts, cgroups).map(|parent| (parent.directory.to_string_lossy().into_owned(), parent.level))
    }

    #[test]
    fn the_cgroup_of_a_unit_a_container_and_a_hybrid_machine_is_found() {
        let unit = found(UNIFIED, "0::/system.slice/cart.service\n");
        assert_eq!(unit, Ok(("/sys/fs/cgroup/system.slice/cart.service".into(), 2)));
        assert_eq!(found(UNIFIED, "0::/\n"), Ok(("/sys/fs/cgroup/".into(), 0)));
        let hybrid = found(HYBRID, "4:memory:/x\n0::/\n");
        assert_eq!(hybrid, Ok(("/sys/fs/cgroup/unified/".into(), 0)));
        let bound = UNIFIED.replace(" / /sys", " /docker/a /sys");
        assert_eq!(found(&bound, "0::/docker/a/b\n"), Ok(("/sys/fs/cgroup/b".into(), 3)));
        assert!(found(&bound, "0::/docker/c\n").unwrap_err().contains("/docker/c"));
    }

    #[test]
    fn machines_without_cgroup_v2_and_a_run_in_a_run_are_refused() {
        for (mounts, cgroups) in [("", "0::/\n"), (UNIFIED, "4:memory:/\n"), ("", "")] {
            assert!(found(mounts, cgroups).unwrap_err().contains("cgroup v2 is not mounted"));
        }
        let nested = found(UNIFIED, "0::/user.slice/outrigger-run-Ab12\n");
        assert!(nested.unwrap_err().contains("already"));
        assert!(found(UNIFIED, "0::/../other\n").is_err());
    }
}
