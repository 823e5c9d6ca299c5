//! The delta ADS server: what proxies are told, and when.

pub mod stream;
pub mod subscription;
