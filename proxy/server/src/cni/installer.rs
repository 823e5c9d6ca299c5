//! Installs the plugin on a node: its program, and its entry in the configuration that the container runtime reads.
//!
//! The runtime reads the first file of the directory, by name. Files are replaced by rename, so that no reader sees half of one.

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::CniError;
use super::list::{PLUGIN, with_plugin, without_plugin};

/// The extensions of files that the runtime reads.
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];

/// The number of bytes of two programs that are compared at a time.
const COMPARED: usize = 1 << 16;
/// This program.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// Copies this program to `directory`, under the name of the plugin.
pub(super) fn copy_program(directory: &Path) -> Result<(), CniError> {
    let copied = || {
        let new = directory.join(format!(".{PLUGIN}.new"));
        fs::copy(OWN_PROGRAM, &new)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
        // After a crash of the node, an empty program would let no pod start.
        fs::File::open(&new)?.sync_all()?;
        fs::rename(&new, directory.join(PLUGIN))
    };
    copied().map_err(|source| CniError::File { path: directory.join(PLUGIN), source })
}

/// Returns whether `directory` has a program under the name of the plugin.
pub(super) fn has_program(directory: &Path) -> bool {
    directory.join(PLUGIN).exists()
}

/// Returns an error unless this program is in `programs` and the configuration that the runtime reads has the plugin.
pub(super) fn check(configs: &Path, programs: &Path) -> Result<(), CniError> {
    let first = first_file(configs)?;
    let text = fs::read_to_string(&first).map_err(|source| CniError::File { path: first.clone(), source })?;
    let missing = with_plugin(&text).map_err(|problem| CniError::Format { path: first.clone(), problem })?;
    if missing.is_some() {
        return Err(CniError::NotInstalled(first));
    }
    let program = programs.join(PLUGIN);
    if !has_program(programs) {
        return Err(CniError::NotInstalled(program));
    }
    match same_content(&program, Path::new(OWN_PROGRAM)) {
        Ok(true) => Ok(()),
        Ok(false) => Err(CniError::OtherProgram(program)),
        Err(source) => Err(CniError::File { path: program, source }),
    }
}

fn same_content(a: &Path, b: &Path) -> io::Result<bool> {
    let [a, b] = [fs::File::open(a)?, fs::File::open(b)?];
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let [mut a, mut b] = [a, b].map(|file| BufReader::with_capacity(COMPARED, file));
    loop {
        let (left, right) = (a.fill_buf()?, b.fill_buf()?);
        let count = left.len().min(right.len());
        if left[..count] != right[..count] {
            return Ok(false);
        }
        if count == 0 {
            return Ok(left.len() == right.len());
        }
        a.consume(count);
        b.consume(count);
    }
}

/// Adds the plugin to the configuration that the runtime reads, unless it is there. Returns the file if it was changed.
pub(super) fn add(directory: &Path) -> Result<Option<PathBuf>, CniError> {
    let first = first_file(directory)?;
    let changed = edit(&first, with_plugin)?;
    Ok(changed.then_some(first))
}

/// Removes the plugin from every configuration in `configs`, then its program from `programs`.
pub(super) fn remove(configs: &Path, programs: &Path) -> Result<(), CniError> {
    for file in files(configs)? {
        // Another plugin's file in another format cannot have our entry.
        match edit(&file, without_plugin) {
            Ok(_) | Err(CniError::Format { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let program = programs.join(PLUGIN);
    match fs::remove_file(&program) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(CniError::File { path: program, source })
        }
        _ => Ok(()),
    }
}

/// Returns the file that the runtime reads.
fn first_file(directory: &Path) -> Result<PathBuf, CniError> {
    let first = files(directory)?.into_iter().next();
    first.ok_or_else(|| CniError::NoNetwork(directory.to_owned()))
}

/// Returns the files that the runtime considers, in its order.
fn files(directory: &Path) -> Result<Vec<PathBuf>, CniError> {
    let failed = |source| CniError::File { path: directory.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|of| EXTENSIONS.iter().any(|known| of == *known)) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Replaces a file by what `change` returns. Returns whether it was changed.
fn edit(path: &Path, change: fn(&str) -> Result<Option<String>, String>) -> Result<bool, CniError> {
    let failed = |source| CniError::File { path: path.to_owned(), source };
    let text = fs::read_to_string(path).map_err(failed)?;
    let changed = change(&text).map_err(|problem| CniError::Format { path: path.to_owned(), problem })?;
    let Some(changed) = changed else { return Ok(false) };
    let new = path.with_file_name(format!(".{PLUGIN}.new"));
    let replaced = || {
        fs::write(&new, changed)?;
        fs::set_permissions(&new, fs::metadata(path)?.permissions())?;
        fs::File::open(&new)?.sync_all()?;
        fs::rename(&new, path)
    };
    replaced().map_err(failed)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_configuration_is_repaired_whenever_it_is_rewritten() {
        let directory = tempfile::tempdir().unwrap();
        let [configs, programs] = ["net.d", "bin"].map(|name| directory.path().join(name));
        fs::create_dir(&configs).unwrap();
        fs::create_dir(&programs).unwrap();
        assert!(matches!(add(&configs), Err(CniError::NoNetwork(_))), "no network plugin yet");
        let first = configs.join("10-pods.conflist");
        let write = || fs::write(&first, r#"{"plugins":[{"type":"bridge"}]}"#).unwrap();
        write();
        fs::write(configs.join("20-other.conf"), r#"{"type":"other"}"#).unwrap();
        fs::write(configs.join("00-notes.txt"), "").unwrap();
        let has = || fs::read_to_string(&first).unwrap().contains(PLUGIN);
        assert_eq!(add(&configs).unwrap(), Some(first.clone()));
        assert_eq!(add(&configs).unwrap(), None);
        write();
        assert_eq!(add(&configs).unwrap(), Some(first.clone()));
        assert!(matches!(check(&configs, &programs), Err(CniError::NotInstalled(_))), "no program");
        copy_program(&programs).unwrap();
        check(&configs, &programs).unwrap();
        write();
        assert!(matches!(check(&configs, &programs), Err(CniError::NotInstalled(_))), "no entry");
        assert_eq!(add(&configs).unwrap(), Some(first.clone()));
        assert!(has() && programs.join(PLUGIN).metadata().unwrap().permissions().mode() & 0o111 == 0o111);
        remove(&configs, &programs).unwrap();
        assert!(!has() && fs::read_dir(&programs).unwrap().next().is_none());
        assert_eq!(fs::read_dir(&configs).unwrap().count(), 3, "no file is left behind");
        remove(&configs, &programs).unwrap();
    }

    #[test]
    fn the_program_of_another_version_is_not_the_plugin() {
        let directory = tempfile::tempdir().unwrap();
        let (configs, program) = (directory.path(), directory.path().join(PLUGIN));
        fs::write(configs.join("10-pods.conflist"), r#"{"plugins":[{"type":"bridge"}]}"#).unwrap();
        add(configs).unwrap();
        let mut bytes = fs::read(OWN_PROGRAM).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        for other in [&bytes[..], &bytes[1..]] {
            fs::write(&program, other).unwrap();
            assert!(matches!(check(configs, configs), Err(CniError::OtherProgram(_))));
        }
        copy_program(configs).unwrap();
        check(configs, configs).unwrap();
    }

    #[test]
    fn a_configuration_that_is_no_list_is_named() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("10-pods.conf"), r#"{"type":"bridge"}"#).unwrap();
        let error = add(directory.path()).unwrap_err().to_string();
        assert!(error.contains("10-pods.conf: no list of plugins"), "{error}");
    }
}
