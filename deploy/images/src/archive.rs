//! Tar archives that depend on nothing but their files: sorted entries, owned by root, modified at the epoch.

use std::collections::BTreeMap;
use std::io;

use tar::{Builder, EntryType, Header};

/// The contents and the mode of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) contents: Vec<u8>,
    pub(crate) executable: bool,
}

/// The files of an archive by their paths, which do not begin with a slash.
pub(crate) type Files = BTreeMap<String, File>;

/// Returns an archive of the files and of the directories above them.
pub(crate) fn tar(files: &Files) -> io::Result<Vec<u8>> {
    // A path sorts before the paths below it.
    let mut entries: BTreeMap<&str, Option<&File>> = BTreeMap::new();
    for (path, file) in files {
        entries.extend(path.match_indices('/').map(|(end, _)| (&path[..end], None)));
        entries.insert(path, Some(file));
    }
    let mut archive = Builder::new(Vec::new());
    for (path, file) in entries {
        let mut header = Header::new_gnu();
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        match file {
            None => {
                header.set_entry_type(EntryType::Directory);
                header.set_mode(0o755);
                header.set_size(0);
                archive.append_data(&mut header, format!("{path}/"), io::empty())?;
            }
            Some(File { contents, executable }) => {
                header.set_entry_type(EntryType::Regular);
                header.set_mode(if *executable { 0o755 } else { 0o644 });
                header.set_size(contents.len() as u64);
                archive.append_data(&mut header, path, &contents[..])?;
            }
        }
    }
    archive.into_inner()
}
