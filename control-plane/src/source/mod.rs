//! Where resources come from. Sources feed an assembler, which publishes the mesh once all of them are synced.
//!
//! One source is a watched directory of Kubernetes YAML. What cannot be read is refused with its place, and its last good
//! version stays; everything else becomes the next version of the mesh.

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
pub mod assembler;
pub mod object;
pub mod change;
pub mod origin;
