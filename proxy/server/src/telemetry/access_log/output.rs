//! The destination of access log lines: standard output, or a file that can be reopened.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::args::AccessLog;
use crate::error::Error;

/// An open destination.
#[derive(Debug)]
pub(super) enum Output {
    Stdout,
    File { path: PathBuf, file: File },
}

impl Output {
    /// Opens `destination`. Returns None if the log is off.
    pub(super) fn open(destination: &AccessLog) -> Result<Option<Self>, Error> {
        match destination {
            AccessLog::Off => Ok(None),
            AccessLog::Stdout => Ok(Some(Self::Stdout)),
            AccessLog::File(path) => match append_to(path) {
                Ok(file) => Ok(Some(Self::File { path: path.clone(), file })),
                Err(source) => {
                    let problem = "cannot be written";
                    Err(Error::Path { flag: "--access-log", path: path.clone(), problem, source })
                }
            },
        }
    }

    /// Reopens the file by its path. On failure the old file stays open.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let Self::File { path, file } = self {
            *file = append_to(path)?;
        }
        Ok(())
    }

    /// Writes complete lines. A failed write can leave a partial line.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(lines)?;
                stdout.flush()
            }
            Self::File { file, .. } => file.write_all(lines),
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}
