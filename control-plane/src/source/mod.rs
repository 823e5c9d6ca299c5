//! Where resources come from. Sources feed an assembler, which publishes the mesh once all of them are synced.
//!
//! One source is a watched directory of Kubernetes YAML. A resource that cannot be read is refused with its origin, and
//! its last good version stays active; all others become the next version of the mesh.

pub mod check;
pub mod watch;
mod reader;
mod file_events;
mod definitions;
mod file;
mod directory;
mod write_tracker;
mod debounce;
mod last_good;
pub(crate) mod document;
pub mod location;
pub mod assembler;
pub mod object;
pub mod change;
pub mod origin;
pub mod sync;
