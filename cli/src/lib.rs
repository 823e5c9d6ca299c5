//! What the demo, the benches and the tests share: processes of this binary, free ports for them, and requests to admin ports.

pub mod admin;
pub mod process;
pub mod memory;
pub mod ports;
