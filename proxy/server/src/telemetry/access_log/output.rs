//! Where access log lines go: standard output, or a file that can be opened anew.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::args::AccessLog;
use crate::error::Error;

/// An open place for lines.
#[derive(Debug)]
pub(super) enum Output {
    Stdout,
    File { path: PathBuf, file: File },
}

impl Output {
    /// Opens `place`; `None` when it is off.
    pub(super) fn open(place: &AccessLog) -> Result<Option<Self>, Error> {
        match place {
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

    /// Opens the file again by its name. On failure the old one stays.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let Self::File { path, file } = self {
            *file = append_to(path)?;
        }
        Ok(())
    }

    /// Writes whole lines. What a failure left half written stays half written.
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
