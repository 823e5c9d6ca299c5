//! What the demo and the benches share: processes of this binary, and requests to admin ports.

pub mod admin;
pub mod process;
pub mod memory;
