//! The life of the process, in the order of its course: start, run until it is told to end, drain.

mod run;
mod configuration;
mod life;
mod shutdown;
mod workers;
mod application;
mod surplus;

pub use self::run::{Addresses, Embedding, run, run_embedded};
