//! The lifecycle of the process: start, run until a shutdown is requested, drain.

mod run;
mod exporters;
mod dns;
mod configuration;
mod run_loop;
mod shutdown;
mod workers;
mod application;
mod memory_trim;

pub use self::run::{Addresses, Embedding, run, run_embedded};
