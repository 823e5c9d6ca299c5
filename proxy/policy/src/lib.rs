//! One file per policy: compiled configuration, decoding from xDS, state, decisions, tests.
//!
//! Modules are listed in the order in which they apply to a request; those from `verdict` on are shared. A policy
//! only decides: it never sleeps, connects, reads a clock or generates a random number; the caller passes these in. The
//! data path carries out the decision. As everywhere, a module uses only modules listed below it.

#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod upgrade;
pub mod weighted_cluster;
pub mod filter;
mod jwt;
mod api_key;
pub mod rbac;
mod ext_authz;
mod local_rate_limit;
mod global_rate_limit;
mod fault;
pub mod stateful_session;
mod cors;
pub mod redirect;
pub mod direct_response;
pub mod mirror;
pub mod hash_policy;
pub mod rewrite;
pub mod timeout;
pub mod retry;
pub mod hedging;
pub mod circuit_breaker;
pub mod overload;
pub mod retry_budget;
pub mod blame;
pub mod health_check;
pub mod outlier;
pub mod slow_start;
pub mod verdict;
pub mod key_source;
pub mod question;
pub mod descriptor;
mod claim;
mod credential;
mod cookie;
pub mod header_mutation;
pub mod response;
pub mod pushback;
pub mod route_match;
pub mod header_match;
mod string_match;
pub mod field;
mod jose;
