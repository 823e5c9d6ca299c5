//! The lifecycle of the process: start, run until a shutdown is requested, drain.

mod run;
mod configuration;
mod life;
mod shutdown;
mod workers;
mod application;
mod surplus;

pub use self::run::{Addresses, Embedding, run, run_embedded};
