//! One file per policy: compiled config, decode from xDS, state, verbs, tests.
//!
//! Listed in the order in which a request meets them; the last three are what their decoding shares. A policy decides
//! and returns: it never sleeps, dials, reads a clock or draws a random number that it was not given. The data path
//! carries out what it decides. As everywhere, a module uses only modules listed below it.

pub mod upgrade;
pub mod cors;
pub mod redirect;
pub mod direct_response;
pub mod weighted_cluster;
pub mod mirror;
pub mod rewrite;
pub mod header_mutation;
pub mod timeout;
pub mod retry;
pub mod circuit_breaker;
pub mod retry_budget;
pub mod blame;
pub mod response;
pub mod pushback;
pub mod outlier;
pub mod header_match;
pub mod string_match;
pub mod field;
