//! What the demo and the benches share: processes of this binary, and questions to admin ports.

pub mod admin;
pub mod process;
pub mod memory;
