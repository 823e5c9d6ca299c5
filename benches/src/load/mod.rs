//! The load generator: an engine that sends requests and measures their answers, and the command `load URL` around it.
//!
//! The engine takes a [`Spec`] and returns a [`Measurement`]. It runs in threads of its own, each with a runtime, its
//! connections and its counters; a thread can be pinned to a core. [`start`] opens the connections and begins;
//! [`Running::ended`] is the number of requests so far, for callers that measure something else over the same time;
//! [`Running::finish`] waits for the end.

mod command;
mod args;
mod tls;
mod accept_all;
mod view;
mod report;
mod progress;
mod engine;
mod measurement;
mod worker;
mod client;
mod connect;
mod recorder;
mod pacer;
mod timer;
mod cpu;
mod failure;
mod spec;
mod schedule;
mod units;

#[allow(unused_imports)] // what a caller of the engine needs
pub(crate) use self::{
    cpu::ThreadUse,
    engine::{Running, start},
    measurement::Measurement,
    recorder::{Second, Tally},
    schedule::{Schedule, Stage},
    spec::{Expect, GrpcCall, HttpRequest, Pace, Protocol, Spec, Tls, Transfer, Until, WebSocketMessage},
};
pub(crate) use accept_all::AcceptAll;
pub(crate) use args::LoadArgs;
pub(crate) use client::{body, duplex};
pub(crate) use command::run;
pub(crate) use cpu::{allow_files, pin};
pub(crate) use failure::Failure;
