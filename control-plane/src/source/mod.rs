//! Where resources come from: a directory of Kubernetes YAML, watched.
//!
//! What cannot be read is refused with its place, and its last good version stays; everything else becomes the next
//! version of the mesh.

pub mod check;
pub mod watch;
mod reader;
mod notices;
mod ledger;
mod file;
mod directory;
mod settling;
mod last_good;
mod document;
pub mod change;
